//! What stops a program, seen from outside: each case runs in a child process, which must die in the way promised.
#![cfg(any(target_os = "linux", windows))]

use std::ffi::c_void;
use std::process::{Command, ExitStatus};

use calltable::table::{self, CAPACITY, Registration};
use calltable::{Callback, Convention};

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
    static TABLE: [u8; 16];
}

fn entry(slot: usize) -> Nullary {
    // SAFETY: the entries follow each other; each is a function, if perhaps a stale one.
    unsafe { std::mem::transmute::<*const [u8; 16], Nullary>((&raw const TABLE).wrapping_add(slot)) }
}

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
        // SAFETY: as above.
        "before anything was registered" => unsafe {
            entry(CAPACITY - 1)();
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
            let registration =
                unsafe { Registration::direct(Convention::C, handler as *const c_void, 0, std::ptr::null_mut()) };
            let slot = table::register(&registration.saving().tracked()).unwrap();
            table::release(slot).unwrap();
            // SAFETY: as above.
            unsafe { entry(slot.index())() };
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
    let mut child = Command::new(std::env::current_exe().unwrap());
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

#[test]
fn a_never_registered_entry_traps_and_says_so() {
    let message = format!("calltable: stale call of slot {} (0x", CAPACITY - 1);
    for case in ["before anything was registered", "never registered"] {
        assert_stops(case, INVALID_INSTRUCTION, &message);
        assert_stops(case, INVALID_INSTRUCTION, "the callback was never registered\n");
    }
}

#[test]
fn an_exclusive_callback_entered_again_traps_and_says_so() {
    assert_stops("entered again", INVALID_INSTRUCTION, "the callback is exclusive and already running\n");
}

#[test]
fn a_panic_does_not_leave_a_handler() {
    assert_stops("panic", ABORT, "panic in a function that cannot unwind");
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
            // The breakpoint at which Windows starts a program under a debugger is of the debugger's own making; all else
            // is the program's.
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
