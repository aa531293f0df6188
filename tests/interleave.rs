//! What a release in the middle of a call does: the call is stopped at each of its instructions in turn (by the
//! processor's trap flag), the slot is released and given to somebody else, and the call goes on.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::ffi::{c_int, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use calltable::table::{self, CAPACITY, Registration, Slot};
use calltable::{Convention, RawFrame, ReleaseError, Signature, StaleCall, StaleReason, Type, set_stale_handler};
use calltable_callers::{Registers, calltable_call_with};

const TRAP_FLAG: u64 = 1 << 8;
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
/// Whether the registrations are.
static EXCLUSIVE: AtomicBool = AtomicBool::new(false);
static SERIAL: Mutex<()> = Mutex::new(());

struct Plan {
    old: Slot,
    replacement: Option<Registration>,
    released: Option<Result<(), ReleaseError>>,
    /// Whether a handler had been entered before the release.
    late: bool,
    new: Option<Slot>,
}

/// One handler for each registration and lane: `NAME` says whose it is.
unsafe extern "win64" fn direct<const NAME: usize, const POSITIONS: usize>(
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

fn ran(name: usize, data: *mut c_void) {
    RAN_AS.store(name, Ordering::Relaxed);
    RAN_WITH.store(data, Ordering::Relaxed);
}

fn note_stale(call: &StaleCall) -> u64 {
    // What is exclusive again by now might as well have refused the call.
    let may_be_running = call.reason == StaleReason::Running && EXCLUSIVE.load(Ordering::Relaxed);
    assert!(may_be_running || call.reason == StaleReason::Released, "{call:?}");
    STALE.store(true, Ordering::Relaxed);
    0
}

/// Runs before each instruction while the trap flag is set.
extern "C" fn on_trap(_signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes it.
    if unsafe { (*info).si_code } != libc::TRAP_TRACE {
        std::process::abort(); // an `int3`, which stands where nothing may run
    }
    let done = RETURNED.load(Ordering::Relaxed) || {
        let left = COUNTDOWN.load(Ordering::Relaxed);
        COUNTDOWN.store(left.wrapping_sub(1), Ordering::Relaxed);
        left == 0 && {
            interfere();
            true
        }
    };
    if done {
        // SAFETY: the kernel passes the context of the interrupted code; the rest of it runs without traps.
        unsafe {
            let context = &mut *context.cast::<libc::ucontext_t>();
            context.uc_mcontext.gregs[libc::REG_EFL as usize] &= !(TRAP_FLAG as i64);
        }
    }
}

fn interfere() {
    let mut plan = PLAN.try_lock().expect("nobody else holds it while a call runs");
    let plan = plan.as_mut().expect("set before the call");
    plan.late = RAN_AS.load(Ordering::Relaxed) != 0;
    plan.released = Some(table::try_release(plan.old));
    if let (Some(Ok(())), Some(replacement)) = (plan.released, &plan.replacement) {
        plan.new = Some(table::try_register(replacement).expect("the slot just released is free"));
    }
}

/// Interferes before each instruction of a call, from the first to the last. Returns how many there were, and how
/// often the old handler ran, the new one, and the stale handler.
fn interleave(old: Registration, replacement: Option<Registration>, counted: Counted) -> (usize, [usize; 3]) {
    // SAFETY: installs a handler for a signal that nothing else here uses; it only touches statics and its context.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_trap as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGTRAP, &action, std::ptr::null_mut()), 0);
    }
    set_stale_handler(Some(note_stale)).unwrap();
    let is_counted = counted != Counted::No;
    EXCLUSIVE.store(counted == Counted::Exclusive, Ordering::Relaxed);
    // All slots but one are taken, so that this one is reused at once.
    // SAFETY: never called.
    let filler =
        unsafe { Registration::direct(Convention::Win64, interleave as *const c_void, 0, std::ptr::null_mut()) };
    let taken: Vec<Slot> = (1..CAPACITY).map(|_| table::register(&filler).unwrap()).collect();
    let mut outcomes = [0; 3];
    let mut step = 0;
    loop {
        let slot = table::register(&old).unwrap();
        *PLAN.lock().unwrap() = Some(Plan { old: slot, replacement, released: None, late: false, new: None });
        RAN_AS.store(0, Ordering::Relaxed);
        STALE.store(false, Ordering::Relaxed);
        RETURNED.store(false, Ordering::Relaxed);
        COUNTDOWN.store(step, Ordering::Relaxed);
        let before = Registers {
            general: [0; 16],
            xmm: [[0; 2]; 16],
            stack: [0; 34],
            flags: 2 | TRAP_FLAG,
            mxcsr: 0x1f80,
            x87_control: 0x37f,
            frame: [0; 7],
        };
        let mut after = before;
        // SAFETY: the handlers take any arguments; a trap changes nothing but the flag.
        unsafe { calltable_call_with(slot.code().as_ptr(), &before, &mut after) };
        RETURNED.store(true, Ordering::Relaxed);
        let plan = PLAN.lock().unwrap().take().unwrap();
        let Some(released) = plan.released else {
            table::release(slot).unwrap();
            break;
        };
        let (name, data) = (RAN_AS.load(Ordering::Relaxed), RAN_WITH.load(Ordering::Relaxed).addr());
        let stale = STALE.load(Ordering::Relaxed);
        assert!(stale != (name != 0), "before instruction {step}: one handler runs, ran {name:#x}, stale {stale}");
        if name != 0 {
            assert_eq!(name, data, "before instruction {step}: handler of one registration, data of another");
        }
        if is_counted && released.is_ok() && !plan.late {
            assert_ne!(name, OLD, "before instruction {step}: ran after the release of a tracked registration");
        }
        outcomes[if stale { 2 } else { usize::from(name == NEW) }] += 1;
        match released {
            Ok(()) => {}
            Err(error) => {
                assert!(is_counted && error == ReleaseError::InFlight, "before instruction {step}: {error}");
                table::release(slot).unwrap();
            }
        }
        if let Some(new) = plan.new {
            assert_eq!(new.index(), slot.index());
            table::release(new).unwrap();
        }
        step += 1;
    }
    taken.iter().for_each(|slot| table::release(*slot).unwrap());
    assert_eq!(table::live(), 0);
    (step, outcomes)
}

#[derive(Clone, Copy, PartialEq)]
enum Counted {
    No,
    Tracked,
    Exclusive,
}

type Shape = fn(Registration) -> Registration;

fn run(case: &str, pair: [Registration; 2], shape: Shape, counted: Counted) {
    let _serial = SERIAL.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let [old, new] = pair.map(shape);
    for replacement in [Some(new), None] {
        let (steps, [ran_old, ran_new, stale]) = interleave(old, replacement, counted);
        println!("{case}: {steps} instructions, {ran_old} times the old handler, {ran_new} the new, {stale} stale");
        assert!(steps > 60, "{case}: only {steps} instructions were seen");
        assert!(ran_old > 0 && stale > 0, "{case}: a late release is too late, one in the middle is seen");
        assert_eq!(ran_new > 0, replacement.is_some(), "{case}: an early replacement gets the call");
    }
}

fn direct_pair<const POSITIONS: usize>() -> [Registration; 2] {
    // SAFETY: the handlers take 7 positions, of which the dispatcher passes some.
    unsafe {
        [
            Registration::direct(
                Convention::Win64,
                direct::<OLD, POSITIONS> as *const c_void,
                POSITIONS,
                OLD as *mut _,
            ),
            Registration::direct(
                Convention::Win64,
                direct::<NEW, POSITIONS> as *const c_void,
                POSITIONS,
                NEW as *mut _,
            ),
        ]
    }
}

fn frame_pair() -> [Registration; 2] {
    let signature = Signature::new(Convention::Win64, &[Type::I64], None).unwrap();
    // SAFETY: the handlers look at nothing but the data's address.
    unsafe {
        [
            Registration::frame(frame::<OLD>, &signature, OLD as *mut c_void),
            Registration::frame(frame::<NEW>, &signature, NEW as *mut c_void),
        ]
    }
}

#[test]
fn direct_lane() {
    run("direct, 1 position", direct_pair::<1>(), |r| r, Counted::No);
    run("direct, 4 positions", direct_pair::<4>(), |r| r, Counted::No);
    run("direct, 6 positions", direct_pair::<6>(), |r| r, Counted::No);
    run("direct, saving", direct_pair::<2>(), Registration::saving, Counted::No);
}

#[test]
fn frame_lane() {
    run("frame", frame_pair(), |r| r, Counted::No);
    run("frame, saving", frame_pair(), Registration::saving, Counted::No);
}

#[test]
fn tracked() {
    run("direct, tracked", direct_pair::<1>(), Registration::tracked, Counted::Tracked);
    run("frame, tracked", frame_pair(), Registration::tracked, Counted::Tracked);
    run("direct, exclusive", direct_pair::<6>(), Registration::exclusive, Counted::Exclusive);
}

/// The new registration's lane differs from the old one's.
#[test]
fn across_lanes() {
    run("direct to frame", [direct_pair::<1>()[0], frame_pair()[1]], |r| r, Counted::No);
    run("frame to direct", [frame_pair()[0], direct_pair::<6>()[1]], |r| r, Counted::No);
    run("direct to longer direct", [direct_pair::<1>()[0], direct_pair::<5>()[1]], |r| r, Counted::No);
}
