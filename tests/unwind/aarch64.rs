//! AArch64: nothing is pushed in an entry; a frame of a dispatcher keeps its address.

#[path = "../object/aarch64.rs"]
mod object;

use object::{Function, dispatchers};

use super::*;

std::arch::global_asm!(include_str!("caller_aarch64.S"), options(raw));

unsafe extern "C" {
    fn unwind_reenter();
    fn unwind_wreck_x18();
}

unsafe extern "efiapi" {
    fn unwind_wreck_x18_frame(data: *mut c_void, frame: *mut RawFrame);
}

/// Handlers that call what their data points to, and their positions.
pub const REENTERING: &[(unsafe extern "C" fn(), usize)] = &[(unwind_reenter, 0)];

/// No entry is on any stack.
pub const ENTRY: &[&str] = &[];
pub const ENTRY_OFFSETS: [u64; 3] = [0, 4, 8];

/// A pair of LDAXR and STLXR never comes to its end if something stops the processor in between, as a debugger does.
pub const COUNTED_CALLS_END: bool = cfg!(target_feature = "lse");

const COPIED: &[&str] = &["calltable_direct"];
pub const DIRECT: &[(usize, &[&str])] = &[(0, &[]), (1, &[]), (4, &[]), (7, &[]), (8, COPIED), (10, COPIED)];
pub const FRAME: &[&str] = &["calltable_frame"];
pub const SAVING: &[&str] = &["calltable_direct", "calltable_saving"];
pub const SAVING_FRAME: &[&str] = &["calltable_frame", "calltable_saving"];

/// Has another handler make the result.
static NAMES: ExceptionFilter = {
    unsafe extern "efiapi" fn filter(_: *mut c_void, _: *const Exception, outcome: *mut Outcome) -> Verdict {
        // SAFETY: the answer is that of the call.
        unsafe { (*outcome).handler = unwind_plain as *const c_void };
        Verdict::RETURN
    }
    filter
};

/// Those that keep X18 for the caller.
pub fn more_lanes(handlers: &Handlers) -> Vec<Lane> {
    const KEEP: &str = "calltable_keep";
    let signature = Signature::new(Convention::C, &[], None).unwrap();
    let data = std::ptr::null_mut();
    // SAFETY: as in `lanes`.
    let (direct, frame, saving) = unsafe {
        (
            Binding::direct(Convention::C, handlers.direct, 2, data).keeping_x18(),
            Binding::frame(handlers.frame, &signature, data).keeping_x18(),
            Binding::direct(Convention::C, handlers.saving, 2, data).saving().keeping_x18(),
        )
    };
    vec![
        Lane::new("keeping X18", direct, &["calltable_direct", KEEP]),
        Lane::new("keeping X18, tracked", direct.tracked(), &["calltable_direct", KEEP, COUNT]),
        Lane::new("keeping X18, frame", frame, &["calltable_frame", KEEP]),
        Lane::new("keeping X18, saving", saving, &["calltable_direct", "calltable_saving", KEEP]),
    ]
}

pub fn call_more(handlers: &Handlers) {
    let (direct, frame): (_, FrameHandler) = (unwind_wreck_x18 as *const c_void, unwind_wreck_x18_frame);
    call(more_lanes(&Handlers { direct, frame, ..*handlers }));
    let (raise, data) = (unwind_raise as *const c_void, (&raw const NAMES).cast_mut().cast());
    // SAFETY: the handler takes any arguments; the data begins with a filter.
    let contained = unsafe { Binding::direct(Convention::C, raise, 2, data).contained() };
    call(vec![Lane::new("contained, a handler makes the result", contained, &[])]);
}

pub struct Dispatchers {
    functions: Vec<Function>,
    resume: u64,
}

impl Dispatchers {
    pub fn read(program: &Program) -> Self {
        Self { functions: dispatchers(), resume: program.address(&format!("{PREFIX}resume")) }
    }

    fn instructions(&self) -> impl Iterator<Item = (&str, u64, u32)> {
        self.functions.iter().flat_map(|Function(name, start, words)| {
            words.iter().enumerate().map(move |(index, word)| (name.as_str(), start + 4 * index as u64, *word))
        })
    }

    fn all(&self, instruction: u32) -> Vec<u64> {
        self.instructions().filter(|(.., word)| *word == instruction).map(|(_, address, _)| address).collect()
    }

    /// There is no guarded control stack here, and what deals with it is skipped.
    fn is_skipped(&self, address: u64) -> bool {
        const CBZ: u32 = 0xb400_0000; // CBNZ has one bit more
        const MRS_GCSPR: u32 = 0xd53b_2520;
        let is_skipping = |(_, at, word): (&str, u64, u32)| {
            let skipped = at + 4..at + 4 * u64::from(word >> 5 & 0x7ffff);
            word & 0xfe00_0000 == CBZ
                && skipped.contains(&address)
                && self.instructions().any(|(_, at, word)| word & !0x1f == MRS_GCSPR && skipped.contains(&at))
        };
        self.instructions().any(is_skipping)
    }

    /// What gdb is told of them.
    pub fn plan(&self) -> String {
        let compares = self.all(0xeb0a_01df); // cmp x14, x10
        assert_eq!(compares.len(), 2, "the state is compared in calltable_dispatch and calltable_select");
        let enters = self.all(0xca0a_012e); // eor x14, x9, x10
        assert_eq!(enters.len(), 1, "calltable_count compares it with the word of running calls");
        let contain = self.functions.iter().find(|Function(name, ..)| name == "calltable_contain").unwrap().1;
        let resume = self.resume;
        format!("\"compares\": {compares:?}, \"enters\": {enters:?}, \"contain\": {contain}, \"resume\": {resume}")
    }

    /// The instructions of dispatchers that no call went through.
    pub fn missed(&self, visited: &BTreeSet<u64>) -> Vec<String> {
        const BRK: u32 = 0xd43e_0000; // after RET, as 0xf000
        self.instructions()
            .filter(|(name, address, word)| {
                let is_stepped = COUNTED_CALLS_END || *name != COUNT;
                is_stepped && *word != BRK && !visited.contains(address) && !self.is_skipped(*address)
            })
            .map(|(name, address, word)| format!("{name}, {address:#x}: {word:#010x}"))
            .collect()
    }
}
