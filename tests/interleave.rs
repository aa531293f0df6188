//! What a release in the middle of a call does: the call is stopped at each of its instructions in turn (by the
//! processor's trap flag), the slot is released and given to somebody else, and the call continues.
#![cfg(target_os = "linux")]

use std::ffi::{c_int, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use calltable::table::{self, Binding, CAPACITY, SlotKey};
use calltable::{
    Callback, Convention, Options, RawFrame, ReleaseError, Signature, StaleCall, StaleReason, Type, set_stale_handler,
};
use calltable_callers::{Registers, calltable_call_with};

const TRAP_FLAG: usize = 1 << 8;
#[cfg(target_arch = "x86")]
use libc::REG_EIP as PROGRAM_COUNTER;
#[cfg(target_arch = "x86_64")]
use libc::REG_RIP as PROGRAM_COUNTER;

const OLD: usize = 0x01d;
const NEW: usize = 0x4e3;

/// The instruction before which to interfere, counted down by the signal handler.
static COUNTDOWN: AtomicUsize = AtomicUsize::new(0);
static RETURNED: AtomicBool = AtomicBool::new(false);
/// What to release and what to register in its place, and what came of it.
static PLAN: Mutex<Option<Plan>> = Mutex::new(None);
/// The data of the handler that ran, the handler's own name for it, and whether the stale handler ran.
static RAN_WITH: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static RAN_AS: AtomicUsize = AtomicUsize::new(0);
static STALE: AtomicBool = AtomicBool::new(false);
/// Whether it ran for another reason than that its registration has been released.
static OTHER_REASON: AtomicBool = AtomicBool::new(false);
/// The call's first argument, as the stale handler is to see it, and whether it did not.
const ARGUMENT: u64 = 0xa26;
static OTHER_ARGUMENT: AtomicBool = AtomicBool::new(false);
#[cfg(target_arch = "x86_64")]
static UNARY: std::sync::LazyLock<Signature> =
    std::sync::LazyLock::new(|| Signature::new(Convention::C, &[Type::U64], None).unwrap());
/// Whether it was told the name of whoever has the slot now.
static OTHER_NAME: AtomicBool = AtomicBool::new(false);
static TAKE_TURNS: AtomicBool = AtomicBool::new(false);
/// How many times the handler of those ran that take turns with the slot.
static TURNS: AtomicUsize = AtomicUsize::new(0);
static SERIAL: Mutex<()> = Mutex::new(());

struct Plan {
    /// To be released. It comes back if its call is running.
    old: Option<SlotKey>,
    replacement: Replacement,
    released: Option<Result<(), ReleaseError>>,
    /// Whether a handler had been entered before the release.
    late: bool,
    new: Option<SlotKey>,
    /// Calls of those that take turns, and what went wrong with them.
    calls: usize,
    wrong: Option<&'static str>,
}

/// Who gets the slot.
#[derive(Clone, Copy)]
enum Replacement {
    Nobody,
    Other(Source),
    /// Before each instruction from then on somebody else, whose registration is exclusive and is called once.
    Turns,
}

/// One handler for each registration and lane: `NAME` says whose it is.
unsafe extern "efiapi" fn direct<const NAME: usize, const POSITIONS: usize>(
    a: *mut c_void,
    b: *mut c_void,
    c: *mut c_void,
    d: *mut c_void,
    e: *mut c_void,
    f: *mut c_void,
    g: *mut c_void,
) {
    ran(NAME, [a, b, c, d, e, f, g][POSITIONS]);
}

unsafe extern "efiapi" fn frame<const NAME: usize>(data: *mut c_void, _frame: *mut RawFrame) {
    ran(NAME, data);
}

unsafe extern "efiapi" fn turn(_data: *mut c_void) {
    TURNS.fetch_add(1, Ordering::Relaxed);
}

fn ran(name: usize, data: *mut c_void) {
    RAN_AS.store(name, Ordering::Relaxed);
    RAN_WITH.store(data, Ordering::Relaxed);
}

fn note_stale(call: &mut StaleCall<'_>) {
    // A panic here would be one in a signal handler.
    OTHER_REASON.fetch_or(call.reason != StaleReason::Released, Ordering::Relaxed);
    OTHER_NAME.fetch_or(call.name == Some("new"), Ordering::Relaxed);
    STALE.store(true, Ordering::Relaxed);
    // On i686 it is in a register by one convention and on the stack by another.
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: each call has an argument, and no entry is moved.
        let argument = unsafe { call.frame(&UNARY) }.get(0);
        OTHER_ARGUMENT.fetch_or(argument != Ok(ARGUMENT), Ordering::Relaxed);
    }
}

/// What Linux says of an `int3`. (Of the trap flag it says `TRAP_TRACE`, but for a virtual processor that now and then
/// forgets to say why it has trapped.)
const SI_KERNEL: c_int = 0x80;

/// Runs before each instruction while the trap flag is set.
extern "C" fn on_trap(_signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes it.
    if unsafe { (*info).si_code } == SI_KERNEL {
        std::process::abort(); // an `int3`, which stands where nothing may run
    }
    // SAFETY: the kernel passes the context of the interrupted code.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let at = registers[PROGRAM_COUNTER as usize] as usize;
    // Instructions of who calls do not count: it copies registers, in less than 1024 bytes. Where others take turns,
    // only those of entries and dispatchers do.
    let counts = at.wrapping_sub(calltable_call_with as *const () as usize) >= 1024
        && (!TAKE_TURNS.load(Ordering::Relaxed) || table::locate(std::ptr::without_provenance(at)).is_some());
    let done = RETURNED.load(Ordering::Relaxed) || counts && step();
    if done {
        registers[libc::REG_EFL as usize] &= !TRAP_FLAG as libc::greg_t; // the rest runs without traps
    }
}

/// Returns whether what follows may run without traps.
fn step() -> bool {
    let left = COUNTDOWN.load(Ordering::Relaxed);
    if left > 0 {
        COUNTDOWN.store(left - 1, Ordering::Relaxed);
        return false;
    }
    let mut plan = PLAN.try_lock().expect("nobody else holds it while a call runs");
    let plan = plan.as_mut().expect("set before the call");
    match plan.old.take() {
        Some(old) => {
            plan.late = RAN_AS.load(Ordering::Relaxed) != 0;
            let released = table::try_release(old);
            plan.released = Some(released.as_ref().map(drop).map_err(|failed| failed.error));
            match released {
                Ok(()) => plan.new = plan.replacement.register(),
                Err(failed) => {
                    plan.old = Some(failed.handle);
                    return true;
                }
            }
        }
        None => plan.change_hands(),
    }
    if plan.calls > 1000 {
        plan.wrong = Some("the late call waits for it, instead of being stale");
    }
    plan.new.is_none() || plan.wrong.is_some() || !matches!(plan.replacement, Replacement::Turns)
}

impl Replacement {
    fn register(self) -> Option<SlotKey> {
        let source = match self {
            Self::Nobody => return None,
            Self::Other(source) => source,
            // SAFETY: the handler takes any data.
            Self::Turns => Source::Binding(unsafe {
                Binding::direct(Convention::C, turn as *const c_void, 0, std::ptr::null_mut()).exclusive()
            }),
        };
        Some(source.register())
    }
}

/// Where a registration comes from.
#[derive(Clone, Copy)]
enum Source {
    Binding(Binding),
    /// A typed function with data.
    Typed(fn() -> SlotKey),
}

impl Source {
    fn register(self) -> SlotKey {
        match self {
            Self::Binding(binding) => table::try_register(&binding).expect("a slot is free"),
            Self::Typed(register) => register(),
        }
    }
}

/// Typed functions with data. None of them removes an argument from the stack.
macro_rules! typed_pair {
    ($abi:literal $parameters:tt) => {
        [typed_pair!($abi $parameters OLD), typed_pair!($abi $parameters NEW)]
    };
    ($abi:literal ($($P:ty)?) $NAME:ident) => {
        Source::Typed(|| {
            fn named(data: &usize $(, _: $P)?) {
                ran($NAME, std::ptr::without_provenance_mut(*data));
            }
            static DATA: usize = $NAME;
            let options = Options::new().no_wait();
            let callback = Callback::<unsafe extern $abi fn($($P)?)>::from_fn_with(options, &DATA, named);
            let callback = callback.expect("a slot is free");
            let slot = callback.slot();
            let _ = callback.leak();
            // SAFETY: nobody else releases it.
            unsafe { slot.key() }
        })
    };
}

impl Plan {
    /// Calls who has the slot, whose call nobody else can have entered: between any two instructions it is another one.
    /// Then the next gets it.
    fn change_hands(&mut self) {
        let Some(key) = self.new.take() else { return };
        let before = TURNS.load(Ordering::Relaxed);
        // SAFETY: it lives, and takes nothing.
        unsafe { key.code().cast::<unsafe extern "efiapi" fn()>()() };
        self.calls += 1;
        if TURNS.load(Ordering::Relaxed) != before + 1 {
            self.wrong = Some("its call was refused");
        }
        match table::try_release(key) {
            Ok(()) => self.new = self.replacement.register(),
            Err(failed) => {
                self.wrong = Some("it was not released");
                self.new = Some(failed.handle);
            }
        }
    }
}

/// Interferes before each instruction of a call, from the first to the last. Returns how many there were, and how
/// often the old handler ran, the new one, and the stale handler.
fn interleave(old: Source, replacement: Replacement, counted: Counted) -> (usize, [usize; 3]) {
    // SAFETY: installs a handler for a signal that nothing else here uses; it only touches statics and its context.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_trap as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGTRAP, &action, std::ptr::null_mut()), 0);
    }
    // SAFETY: every callback of this program returns nothing.
    unsafe { set_stale_handler(Some(note_stale)).unwrap() };
    #[cfg(target_arch = "x86_64")]
    std::sync::LazyLock::force(&UNARY);
    let is_counted = counted == Counted::Yes;
    TAKE_TURNS.store(matches!(replacement, Replacement::Turns), Ordering::Relaxed);
    // All slots but one are taken, so that this one is reused at once.
    // SAFETY: never called.
    let filler = unsafe { Binding::direct(Convention::C, interleave as *const c_void, 0, std::ptr::null_mut()) };
    let taken: Vec<_> = (1..CAPACITY).map(|_| table::register(&filler).unwrap()).collect();
    let mut outcomes = [0; 3];
    let (mut step, mut all_calls) = (0, 0);
    loop {
        let key = old.register();
        let slot = key.slot();
        let plan = Plan { old: Some(key), replacement, released: None, late: false, new: None, calls: 0, wrong: None };
        *PLAN.lock().unwrap() = Some(plan);
        TURNS.store(0, Ordering::Relaxed);
        RAN_AS.store(0, Ordering::Relaxed);
        STALE.store(false, Ordering::Relaxed);
        RETURNED.store(false, Ordering::Relaxed);
        COUNTDOWN.store(step, Ordering::Relaxed);
        // SAFETY: numbers.
        let zeros: Registers = unsafe { std::mem::zeroed() };
        let mut before = Registers { flags: (2 | TRAP_FLAG) as _, mxcsr: 0x1f80, x87_control: 0x37f, ..zeros };
        before.general[1] = ARGUMENT as _;
        let mut after = before;
        // SAFETY: the handlers take any arguments; a trap changes nothing but the flag.
        unsafe { calltable_call_with(slot.code().as_ptr(), &before, &mut after) };
        RETURNED.store(true, Ordering::Relaxed);
        let plan = PLAN.lock().unwrap().take().unwrap();
        let Some(released) = plan.released else {
            table::release(plan.old.expect("nobody has released it")).unwrap();
            break;
        };
        let (name, data) = (RAN_AS.load(Ordering::Relaxed), RAN_WITH.load(Ordering::Relaxed).addr());
        let stale = STALE.load(Ordering::Relaxed);
        assert_eq!(plan.wrong, None, "before instruction {step}: one that is not running");
        let is_other = OTHER_REASON.load(Ordering::Relaxed);
        assert!(!is_other, "before instruction {step}: a call was refused as if another one was running");
        let is_other = OTHER_ARGUMENT.load(Ordering::Relaxed);
        assert!(!is_other, "before instruction {step}: the stale handler saw another argument");
        let is_other = OTHER_NAME.load(Ordering::Relaxed);
        assert!(!is_other, "before instruction {step}: a refused call has the name of another registration");
        assert!(stale != (name != 0), "before instruction {step}: one handler runs, ran {name:#x}, stale {stale}");
        if name != 0 {
            assert_eq!(name, data, "before instruction {step}: handler of one registration, data of another");
        }
        if is_counted && released.is_ok() && !plan.late {
            assert_ne!(name, OLD, "before instruction {step}: ran after the release of a tracked registration");
        }
        outcomes[if stale { 2 } else { usize::from(name == NEW) }] += 1;
        if let Err(error) = released {
            assert!(is_counted && error == ReleaseError::InFlight, "before instruction {step}: {error}");
            table::release(plan.old.expect("it has come back")).unwrap();
        }
        let turns = TURNS.load(Ordering::Relaxed);
        if matches!(replacement, Replacement::Turns) {
            assert_eq!(turns, plan.calls, "before instruction {step}: the late call ran one that was not there before");
            all_calls += turns;
        }
        if let Some(new) = plan.new {
            assert_eq!(new.index(), slot.index());
            table::release(new).unwrap();
        }
        step += 1;
    }
    taken.into_iter().for_each(|key| table::release(key).unwrap());
    assert_eq!(table::live_count(), 0);
    assert_eq!(all_calls > step, matches!(replacement, Replacement::Turns), "{all_calls} calls in between");
    (step, outcomes)
}

#[derive(Clone, Copy, PartialEq)]
enum Counted {
    No,
    Yes,
}

type Shape = fn(Binding) -> Binding;

fn run(case: &str, pair: [Binding; 2], shape: Shape, counted: Counted) {
    let [old, new] = pair.map(shape);
    run_sources(case, [old.named("old"), new.named("new")].map(Source::Binding), counted);
}

fn run_sources(case: &str, [old, new]: [Source; 2], counted: Counted) {
    let _serial = SERIAL.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for replacement in [Replacement::Other(new), Replacement::Nobody, Replacement::Turns] {
        let (steps, [ran_old, ran_new, stale]) = interleave(old, replacement, counted);
        println!("{case}: {steps} instructions, {ran_old} times the old handler, {ran_new} the new, {stale} stale");
        assert!(steps > 15, "{case}: only {steps} instructions were seen");
        assert!(ran_old > 0 && stale > 0, "{case}: a late release is too late, one in the middle is seen");
        let is_other = matches!(replacement, Replacement::Other(_));
        assert_eq!(ran_new > 0, is_other, "{case}: an early replacement gets the call");
    }
}

fn direct_pair<const POSITIONS: usize>() -> [Binding; 2] {
    // SAFETY: the handlers take 7 positions, of which the dispatcher passes some.
    unsafe {
        [
            Binding::direct(Convention::C, direct::<OLD, POSITIONS> as *const c_void, POSITIONS, OLD as *mut _),
            Binding::direct(Convention::C, direct::<NEW, POSITIONS> as *const c_void, POSITIONS, NEW as *mut _),
        ]
    }
}

fn frame_pair() -> [Binding; 2] {
    let signature = Signature::new(Convention::C, &[Type::I32], None).unwrap();
    // SAFETY: the handlers look at nothing but the data's address.
    unsafe {
        [
            Binding::frame(frame::<OLD>, &signature, OLD as *mut c_void),
            Binding::frame(frame::<NEW>, &signature, NEW as *mut c_void),
        ]
    }
}

#[test]
fn direct_lane() {
    run("direct, 1 position", direct_pair::<1>(), |r| r, Counted::No);
    run("direct, 4 positions", direct_pair::<4>(), |r| r, Counted::No);
    run("direct, 6 positions", direct_pair::<6>(), |r| r, Counted::No);
    run("direct, saving", direct_pair::<2>(), Binding::saving, Counted::No);
}

/// On i686 the first three have their data in a register, and the entry jumps to them.
#[test]
fn typed() {
    #[cfg(target_arch = "x86")]
    {
        run_sources("stdcall, typed", typed_pair!("stdcall"()), Counted::No);
        run_sources("thiscall, typed", typed_pair!("thiscall"(usize)), Counted::No);
        run_sources("fastcall, typed", typed_pair!("fastcall"(usize)), Counted::No);
    }
    run_sources("typed", typed_pair!("efiapi"(usize)), Counted::No);
}

#[test]
fn frame_lane() {
    run("frame", frame_pair(), |r| r, Counted::No);
    run("frame, saving", frame_pair(), Binding::saving, Counted::No);
}

#[test]
fn tracked() {
    run("direct, tracked", direct_pair::<1>(), Binding::tracked, Counted::Yes);
    run("frame, tracked", frame_pair(), Binding::tracked, Counted::Yes);
    run("direct, exclusive", direct_pair::<6>(), Binding::exclusive, Counted::Yes);
    run("direct, 4 positions, exclusive", direct_pair::<4>(), Binding::exclusive, Counted::Yes);
    run("direct, saving, exclusive", direct_pair::<2>(), |r| r.saving().exclusive(), Counted::Yes);
    run("frame, exclusive", frame_pair(), Binding::exclusive, Counted::Yes);
}

/// The new registration's lane differs from the old one's.
#[test]
fn across_lanes() {
    run("direct to frame", [direct_pair::<1>()[0], frame_pair()[1]], |r| r, Counted::No);
    run("frame to direct", [frame_pair()[0], direct_pair::<6>()[1]], |r| r, Counted::No);
    run("direct to longer direct", [direct_pair::<1>()[0], direct_pair::<5>()[1]], |r| r, Counted::No);
}
