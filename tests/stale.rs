//! What stops a program, seen from outside: each case runs in a child process, which must die in the way promised.
#![cfg(any(target_os = "linux", windows))]

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};

use calltable::table::{self, Binding, CAPACITY, ENTRY_STRIDE};
use calltable::{Callback, Convention, Error, ReleaseError, StaleReason};

mod child;

type Nullary = unsafe extern "efiapi" fn() -> isize;

const CASE: &str = "CALLTABLE_TEST_CASE";

/// How a program ends that runs an invalid instruction, and one that aborts.
#[cfg(unix)]
const INVALID_INSTRUCTION: i32 = libc::SIGILL;
#[cfg(unix)]
const ABORT: i32 = libc::SIGABRT;
#[cfg(windows)]
const INVALID_INSTRUCTION: i32 = windows_sys::Win32::Foundation::STATUS_ILLEGAL_INSTRUCTION;
#[cfg(windows)]
const ABORT: i32 = windows_sys::Win32::Foundation::STATUS_STACK_BUFFER_OVERRUN;

fn end(status: ExitStatus) -> Option<i32> {
    #[cfg(unix)]
    return std::os::unix::process::ExitStatusExt::signal(&status);
    #[cfg(windows)]
    return status.code();
}

unsafe extern "C" {
    /// The first entry, by the name that the version 0.1.0 gives it.
    #[link_name = "calltable_0_1_0_table"]
    static TABLE: [u8; ENTRY_STRIDE];
    /// Where the contexts are, after some other words.
    #[link_name = "calltable_0_1_0_contexts"]
    static CONTEXTS: [AtomicUsize; CAPACITY * 32 / size_of::<usize>()];
}

/// Makes a slot that is live for the first time one that has been released so often that the next time is the last.
/// `data` is its registration's.
fn age(data: *const isize) {
    // SAFETY: all of it is atomic for every thread, and nobody else uses the table now.
    let words = unsafe { &CONTEXTS };
    let at =
        words.iter().position(|word| word.load(Ordering::Relaxed) == data.addr()).expect("a context with the data");
    // Behind the data are the state and the number of running calls, both with the generation.
    #[cfg(target_pointer_width = "64")]
    for word in &words[at + 1..at + 3] {
        word.fetch_add(((1 << 40) - 2) << 24, Ordering::Relaxed);
    }
    #[cfg(target_pointer_width = "32")]
    for word in [&words[at + 2], &words[at + 4]] {
        word.fetch_add(usize::MAX - 1, Ordering::Relaxed);
    }
}

/// A slot whose generations are used up is never live again, and nothing takes it for another registration's.
fn retire() {
    unsafe extern "efiapi" fn answer(data: *const isize) -> isize {
        // SAFETY: the registrations' data.
        unsafe { *data }
    }
    // SAFETY: every callback of this process returns a number.
    let set = unsafe {
        calltable::set_stale_handler(Some(|call| {
            assert_eq!(call.reason, StaleReason::Released);
            call.set_result(77);
        }))
    };
    set.unwrap();
    let numbers = [5_isize, 6, 7];
    let register = |number: &isize| {
        let data = (&raw const *number).cast_mut().cast();
        // SAFETY: the handler takes that data.
        unsafe { Binding::direct(Convention::C, answer as *const c_void, 0, data) }
    };
    let [plain, tracked, exclusive] = numbers.each_ref().map(register);
    let retired =
        [plain, tracked.tracked(), exclusive.exclusive()].into_iter().zip(&numbers).map(|(binding, number)| {
            let first = table::register(&binding).unwrap();
            let index = first.index();
            age(number);
            let last = table::live_slot(index).unwrap().slot;
            assert_ne!(last, first.slot());
            // SAFETY: the registration lives; so does nobody else's here.
            let call = || unsafe { entry(index)() };
            assert_eq!((call(), call()), (*number, *number));
            // SAFETY: that such keys are of no use, but for one, is what is tested.
            let release = || table::release(unsafe { last.key() }).map_err(|failed| failed.error);
            assert_eq!(table::release(first).unwrap_err().error, ReleaseError::NotLive);
            assert_eq!(release(), Ok(()));
            assert_eq!(release(), Err(ReleaseError::NotLive));
            assert_eq!((call(), table::live_count()), (77, 0));
            index
        });
    let retired: Vec<_> = retired.collect();
    for _ in 0..3 {
        let others: Vec<_> = (3..CAPACITY).map(|_| table::register(&plain).unwrap()).collect();
        assert!(matches!(table::register(&plain), Err(Error::TableFull { .. })));
        assert!(others.iter().all(|other| !retired.contains(&other.index())));
        others.into_iter().for_each(|other| table::release(other).unwrap());
    }
}

fn entry(slot: usize) -> Nullary {
    // SAFETY: the entries follow each other; each is a function, if perhaps a stale one.
    unsafe { std::mem::transmute::<*const [u8; ENTRY_STRIDE], Nullary>((&raw const TABLE).wrapping_add(slot)) }
}

/// A callback that its own call can drop.
struct Kept(UnsafeCell<Option<Callback<'static, Nullary>>>);
// SAFETY: the child uses it in one thread.
unsafe impl Sync for Kept {}

/// In the child: runs the case and does not come back, or comes back if the promise is broken.
fn run(case: &str) {
    // SAFETY: that calls of stale entries do no harm but stop the program is what is tested.
    match case {
        "released" => {
            let closure = || 1;
            let callback = Callback::<Nullary>::from_ref(&closure).unwrap();
            let code = callback.code();
            // SAFETY: it lives.
            assert_eq!(unsafe { code() }, 1);
            drop(callback);
            // SAFETY: as above.
            unsafe { code() };
        }
        "released, with a name" | "released, with a long name" => {
            let name = if case.ends_with("long name") { long_name().leak() } else { "editor: its window" };
            let options = calltable::Options::new().named(name);
            let callback = Callback::<Nullary>::from_ref_with(options, &|| 1).unwrap();
            let code = callback.code();
            drop(callback);
            // SAFETY: as above.
            unsafe { code() };
        }
        // SAFETY: as above.
        "before anything was registered" => unsafe {
            entry(CAPACITY - 1)();
        },
        // SAFETY: as above.
        "the first slot, before anything was registered" => unsafe {
            entry(0)();
        },
        "never registered" => {
            let closure = || 1;
            let _callback = Callback::<Nullary>::from_ref(&closure).unwrap();
            // SAFETY: as above.
            unsafe { entry(CAPACITY - 1)() };
        }
        "entered again" => {
            let mut closure = || {
                // SAFETY: as above.
                unsafe { entry(0)() }
            };
            let callback = Callback::<Nullary>::from_mut(&mut closure).unwrap();
            assert_eq!(callback.slot().index(), 0);
            // SAFETY: it lives.
            unsafe { callback.code()() };
        }
        "released under full save" => {
            unsafe extern "efiapi" fn handler(_: *mut c_void) {}
            // SAFETY: the handler takes any data.
            let binding = unsafe { Binding::direct(Convention::C, handler as *const c_void, 0, std::ptr::null_mut()) };
            let key = table::register(&binding.saving().tracked()).unwrap();
            let index = key.index();
            table::release(key).unwrap();
            // SAFETY: as above.
            unsafe { entry(index)() };
        }
        "used up" => retire(),
        "dropped in its own call" | "dropped in its own call, by another callback" => {
            static KEPT: Kept = Kept(UnsafeCell::new(None));
            static OTHER: Kept = Kept(UnsafeCell::new(None));
            static DROP: fn() -> isize = || {
                // SAFETY: as above.
                drop(unsafe { (*KEPT.0.get()).take() });
                0
            };
            // SAFETY: as above; both live.
            static CALL: fn() -> isize = || unsafe { (*OTHER.0.get()).as_ref().unwrap().code()() };
            let options = calltable::Options::new().tracked();
            let function = if case == "dropped in its own call" { &DROP } else { &CALL };
            // SAFETY: as above.
            unsafe {
                *OTHER.0.get() = Some(Callback::<Nullary>::from_ref(&DROP).unwrap());
                *KEPT.0.get() = Some(Callback::<Nullary>::from_ref_with(options, function).unwrap());
                let code = (*KEPT.0.get()).as_ref().unwrap().code();
                code();
            }
        }
        "an exclusive closure dropped in its own call" => {
            static KEPT: Kept = Kept(UnsafeCell::new(None));
            let closure = Box::leak(Box::new(|| {
                // SAFETY: one thread uses it.
                drop(unsafe { (*KEPT.0.get()).take() });
                0
            }));
            // SAFETY: as above; the callback lives.
            unsafe {
                let kept = (*KEPT.0.get()).insert(Callback::<Nullary>::from_mut(closure).unwrap());
                kept.code()();
            }
        }
        "reserved" => {
            let reserved = Callback::<Nullary>::unbound().unwrap();
            // SAFETY: as above.
            unsafe { reserved.code()() };
        }
        #[cfg(feature = "std")]
        "on another thread" => {
            let cell = std::rc::Rc::new(std::cell::Cell::new(1));
            let callback = Callback::<Nullary>::new_here(move || cell.replace(2)).unwrap();
            let code = callback.code();
            // SAFETY: it lives.
            assert_eq!(unsafe { code() }, 1);
            // SAFETY: as above.
            let _ = std::thread::spawn(move || unsafe { code() }).join();
        }
        "panic" => {
            let closure = || panic!("out of the closure");
            let callback = Callback::<Nullary>::from_ref(&closure).unwrap();
            // SAFETY: it lives.
            let _ = std::panic::catch_unwind(|| unsafe { callback.code()() });
        }
        other => panic!("no case {other}"),
    }
}

/// The child's side: this test does nothing unless it is told a case.
#[test]
fn child() {
    if let Ok(case) = std::env::var(CASE) {
        #[cfg(windows)]
        no_dialog();
        run(&case);
        println!("the case came back");
        std::process::exit(0);
    }
}

fn child_for(case: &str) -> Command {
    let mut child = child::this_program();
    child.args(["--exact", "child", "--nocapture"]).env(CASE, case);
    child
}

fn assert_stops(case: &str, how: i32, message: &str) {
    let child = child_for(case).output().unwrap();
    let stderr = String::from_utf8_lossy(&child.stderr);
    assert_eq!(end(child.status), Some(how), "{case}: {child:?}");
    assert!(stderr.contains(message), "{case}: no {message:?} in {stderr}");
}

#[test]
fn a_released_entry_traps_and_says_so() {
    assert_stops("released", INVALID_INSTRUCTION, "calltable: stale call of slot 0 (0x");
    assert_stops("released", INVALID_INSTRUCTION, "the callback has been released\n");
    assert_stops("released under full save", INVALID_INSTRUCTION, "the callback has been released\n");
}

/// Longer than what a message has room for, in characters of four bytes.
fn long_name() -> String {
    "\u{1fa9f}".repeat(80)
}

#[test]
fn a_stale_call_says_what_was_registered() {
    let quoted = |name: &str| if cfg!(feature = "names") { format!("\"{name}\" ") } else { String::new() };
    let released = |name: &str| format!("calltable: stale call of slot 0 {}(0x", quoted(name));
    assert_stops("released, with a name", INVALID_INSTRUCTION, &released("editor: its window"));
    // As much of it as the message has room for, and then the rest of the message.
    let start: String = long_name().chars().take(60).collect();
    assert_stops("released, with a long name", INVALID_INSTRUCTION, &released(&start));
    assert_stops("released, with a long name", INVALID_INSTRUCTION, "the callback has been released\n");
}

#[test]
fn a_never_registered_entry_traps_and_says_so() {
    let message = format!("calltable: stale call of slot {} (0x", CAPACITY - 1);
    for case in ["before anything was registered", "never registered"] {
        assert_stops(case, INVALID_INSTRUCTION, &message);
        assert_stops(case, INVALID_INSTRUCTION, "the callback was never registered\n");
    }
}

/// Its distance from the first entry is 0, and so many entries have contexts.
#[test]
fn the_first_slot_is_stale_before_there_are_contexts() {
    let message = "calltable: stale call of slot 0 (0x";
    assert_stops("the first slot, before anything was registered", INVALID_INSTRUCTION, message);
}

#[test]
fn an_exclusive_callback_entered_again_traps_and_says_so() {
    assert_stops(
        "entered again",
        INVALID_INSTRUCTION,
        "the callback is exclusive and already running: if it calls itself, use cells, and new_here or from_local\n",
    );
}

/// It would wait for its own end. Without `std` nothing unwinds the stack on Linux, and it does wait
/// (`docs/limits.md`).
#[cfg(any(windows, feature = "std"))]
#[test]
fn a_callback_dropped_in_its_own_call_traps_and_says_so() {
    for case in [
        "dropped in its own call",
        "dropped in its own call, by another callback",
        "an exclusive closure dropped in its own call",
    ] {
        assert_stops(
            case,
            INVALID_INSTRUCTION,
            "was dropped in its own call, for whose end it would wait: drop it after",
        );
    }
}

#[test]
fn a_reserved_slot_traps_and_says_so() {
    assert_stops("reserved", INVALID_INSTRUCTION, "the callback is reserved, and nothing is bound to it yet");
}

#[cfg(feature = "std")]
#[test]
fn a_callback_of_one_thread_that_another_one_calls_traps_and_says_so() {
    assert_stops("on another thread", INVALID_INSTRUCTION, "another thread than its own has called a callback");
}

#[test]
fn a_panic_does_not_leave_a_handler() {
    assert_stops("panic", ABORT, "panic in a function that cannot unwind");
}

#[test]
fn a_slot_whose_generations_are_used_up_is_retired() {
    let child = child_for("used up").output().unwrap();
    assert!(child.status.success(), "{child:?}");
    assert!(String::from_utf8_lossy(&child.stdout).contains("the case came back"), "{child:?}");
}

/// Windows would show a dialog about a program that crashes.
#[cfg(windows)]
fn no_dialog() {
    use windows_sys::Win32::System::Diagnostics::Debug::{SEM_NOGPFAULTERRORBOX, SetErrorMode};
    // SAFETY: sets an attribute of this process.
    unsafe { SetErrorMode(SEM_NOGPFAULTERRORBOX) };
}

/// A program with windows has no standard error, but it may have a debugger.
// Wine 8 cannot debug a 32-bit program: it faults before it starts.
#[cfg(all(windows, target_arch = "x86_64"))]
#[test]
fn a_debugger_is_told() {
    use std::os::windows::io::AsRawHandle;
    use std::os::windows::process::CommandExt;
    use std::process::Stdio;

    use windows_sys::Win32::Foundation::{
        DBG_CONTINUE, DBG_EXCEPTION_NOT_HANDLED, EXCEPTION_BREAKPOINT, STATUS_WX86_BREAKPOINT,
    };
    use windows_sys::Win32::System::Diagnostics::Debug::*;
    use windows_sys::Win32::System::Threading::DEBUG_ONLY_THIS_PROCESS;

    let mut command = child_for("released");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.creation_flags(DEBUG_ONLY_THIS_PROCESS).spawn().unwrap();
    let mut told = String::new();
    // SAFETY: an event is plain numbers and handles.
    let mut event: DEBUG_EVENT = unsafe { std::mem::zeroed() };
    while event.dwDebugEventCode != EXIT_PROCESS_DEBUG_EVENT {
        // SAFETY: this thread started the program that it debugs; the event is ours.
        assert_ne!(unsafe { WaitForDebugEvent(&mut event, 20_000) }, 0, "{}", std::io::Error::last_os_error());
        let mut answer = DBG_CONTINUE;
        match event.dwDebugEventCode {
            OUTPUT_DEBUG_STRING_EVENT => {
                // SAFETY: the code says which member of the union there is.
                let text = unsafe { event.u.DebugString };
                let mut bytes = vec![0; text.nDebugStringLength.into()];
                // SAFETY: the buffer has that many bytes; the handle is the child's.
                let read = unsafe {
                    let (to, from) = (bytes.as_mut_ptr().cast(), text.lpDebugStringData.cast_const().cast());
                    ReadProcessMemory(child.as_raw_handle(), from, to, bytes.len(), std::ptr::null_mut())
                };
                assert_ne!(read, 0, "{}", std::io::Error::last_os_error());
                told += &String::from_utf8(bytes).unwrap();
            }
            // The breakpoint at which Windows starts a program under a debugger is of the debugger's own making; all
            // else is the program's.
            EXCEPTION_DEBUG_EVENT => {
                // SAFETY: the code says which member of the union there is.
                let code = unsafe { event.u.Exception.ExceptionRecord.ExceptionCode };
                if !matches!(code, EXCEPTION_BREAKPOINT | STATUS_WX86_BREAKPOINT) {
                    answer = DBG_EXCEPTION_NOT_HANDLED;
                }
            }
            _ => {}
        }
        // SAFETY: answers the event.
        unsafe { ContinueDebugEvent(event.dwProcessId, event.dwThreadId, answer) };
    }
    assert_eq!(end(child.wait().unwrap()), Some(INVALID_INSTRUCTION));
    assert!(told.starts_with("calltable: stale call of slot 0 (0x"), "{told:?}");
    assert!(told.trim_end_matches('\0').ends_with("the callback has been released\n"), "{told:?}");
}
