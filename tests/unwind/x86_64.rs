//! x86_64: Microsoft's convention; contained calls, a lane for exclusive ones.

#[path = "../object/image.rs"]
#[allow(dead_code, reason = "tests/object.rs uses all of it")]
mod image;

use calltable::MAX_POSITIONS;
use iced_x86::{Instruction, Mnemonic, Register};
use image::{Code, Function};

use super::*;

std::arch::global_asm!(include_str!("caller_x86_64.S"), options(raw));

unsafe extern "C" {
    fn unwind_reenter();
    fn unwind_reenter_4();
}

/// Handlers that call what their data points to, and their positions.
pub const REENTERING: &[(unsafe extern "C" fn(), usize)] = &[(unwind_reenter, 0), (unwind_reenter_4, 4)];

/// The entry is the caller of the handler, or of the outermost lane.
pub const ENTRY: &[&str] = &["calltable_table"];
pub const ENTRY_OFFSETS: [u64; 5] = [0, 4, 8, 13, 17];

pub const COUNTED_CALLS_END: bool = true;

const LONG: &[&str] = &["calltable_long"];
pub const DIRECT: &[(usize, &[&str])] =
    &[(0, &[]), (1, &[]), (2, &[]), (3, &[]), (4, &[]), (5, LONG), (MAX_POSITIONS, LONG)];
pub const FRAME: &[&str] = &["calltable_frame_alone"];
pub const SAVING: &[&str] = &["calltable_saving"];
pub const SAVING_FRAME: &[&str] = SAVING;

pub fn more_lanes(_handlers: &Handlers) -> Vec<Lane> {
    Vec::new()
}

pub fn call_more(_handlers: &Handlers) {}

/// In a process of its own, which has no chain of exceptions.
#[test]
fn c_runtime_walks_through_the_exclusive_lane() {
    const CASE: &str = "CALLTABLE_TEST_CASE";
    const NAME: &str = "c_runtime_walks_through_the_exclusive_lane";
    if env::var(CASE).is_ok() {
        return trace_every_lane_without_a_chain(&Program::read());
    }
    let child = Command::new(env::current_exe().unwrap()).args(["--exact", NAME]).env(CASE, NAME).output().unwrap();
    assert!(child.status.success(), "{child:?}");
}

#[inline(never)]
fn trace_every_lane_without_a_chain(program: &Program) {
    // SAFETY: the handler takes any arguments.
    let binding = unsafe { Binding::direct(Convention::Win64, trace_direct as *const c_void, 4, std::ptr::null_mut()) };
    let slot = register(&binding.exclusive()).unwrap();
    assert_trace(program, "exclusive, 4 positions", slot.code(), &["calltable_exclusive"], "trace_");
    release(slot).unwrap();
    let mut closure = trace;
    let callback = Callback::<unsafe extern "win64" fn() -> u64>::from_mut(&mut closure).unwrap();
    assert_trace(program, "closure", callback.slot().code(), &["calltable_exclusive"], "thunk");
}

/// Table and dispatchers, decoded.
pub struct Dispatchers {
    code: Code,
    resume: u64,
}

impl Dispatchers {
    pub fn read(program: &Program) -> Self {
        let data = fs::read(env::current_exe().unwrap()).unwrap();
        let code = Code::read(&object::File::parse(&*data).unwrap()).expect("no table: is the test program stripped?");
        // Where a contained call continues after an exception.
        Self { code, resume: program.address(&format!("{PREFIX}resume")) }
    }

    fn function(&self, name: &str) -> &Function {
        self.code.functions.iter().find(|function| function.name == name).unwrap()
    }

    /// What gdb is told of them.
    pub fn plan(&self) -> String {
        let instructions = || self.code.functions[1..].iter().flat_map(|function| &function.instructions);
        let compares_state = |i: &&Instruction| {
            i.mnemonic() == Mnemonic::Cmp && i.op0_register() == Register::R10 && i.memory_base() == Register::R11
        };
        let compares: Vec<_> = instructions().filter(compares_state).map(Instruction::ip).collect();
        assert_eq!(
            compares.len(),
            5,
            "the state is compared in calltable_dispatch, twice, in calltable_short, _long and _frame_alone"
        );
        let enters = |i: &&Instruction| i.mnemonic() == Mnemonic::Cmpxchg;
        let exclusive = &self.function("calltable_exclusive").instructions;
        let enters = exclusive.iter().find(enters).expect("it compares no state, but a word").ip();
        let (contain, resume) = (self.function("calltable_contain").range.start, self.resume);
        format!("\"compares\": {compares:?}, \"enters\": [{enters}], \"contain\": {contain}, \"resume\": {resume}")
    }

    /// The instructions of dispatchers that no call went through.
    pub fn missed(&self, visited: &BTreeSet<u64>) -> Vec<String> {
        // There is no shadow stack here: the kernel's cases go through what unwinds one.
        let unwinds_shadow = |function: &Function, instruction: &Instruction| {
            let skips = |branch: &&Instruction| {
                let skipped = branch.next_ip()..branch.near_branch_target();
                let has_incssp = |i: &Instruction| i.mnemonic() == Mnemonic::Incsspq && skipped.contains(&i.ip());
                branch.mnemonic() == Mnemonic::Je
                    && skipped.contains(&instruction.ip())
                    && function.instructions.iter().any(has_incssp)
            };
            function.instructions.iter().any(|branch| skips(&branch))
        };
        self.code.functions[1..]
            .iter()
            .flat_map(|function| function.instructions.iter().map(move |instruction| (function, instruction)))
            // INT3 stands after RET and fills up; nothing runs into it.
            .filter(|(_, instruction)| instruction.mnemonic() != Mnemonic::Int3 && !visited.contains(&instruction.ip()))
            .filter(|(function, instruction)| !unwinds_shadow(function, instruction))
            .map(|(f, i)| format!("{}+{:#x}: {}", f.name, i.ip() - f.range.start, self.code.text(i)))
            .collect()
    }
}
