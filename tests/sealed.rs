//! A table that is sealed, and its pages read-only. It is one test, since there is no way back.
#![cfg(any(target_os = "linux", windows))]

use std::ffi::c_void;
use std::ops::Range;

use calltable::table::{self, Binding, ENTRY_STRIDE};
use calltable::{
    Callback, Convention, Dynamic, Error, Frame, NotReleased, Options, RawFrame, ReleaseError, Signature, StaleCall,
    StaleReason, Type, set_stale_handler,
};
use calltable_callers::REPEAT;

const PAGE: usize = 4096;

type Unary = unsafe extern "efiapi" fn(isize) -> isize;

/// The C caller: 0 to 4, one after the other; the sum of the results.
fn call(code: *const c_void) -> isize {
    // SAFETY: every entry that tests pass here serves `Unary`, or is stale.
    unsafe { REPEAT(code, 5) }
}

unsafe extern "efiapi" fn add(argument: isize, data: isize) -> isize {
    argument + data
}

fn adding(data: usize) -> Binding {
    // SAFETY: `add` takes one argument and any data.
    unsafe { Binding::direct(Convention::C, add as *const c_void, 1, std::ptr::without_provenance_mut(data)) }
}

fn signature() -> Signature {
    Signature::new(Convention::C, &[Type::ISIZE], Some(Type::ISIZE)).unwrap()
}

unsafe extern "efiapi" fn add_in_frame(data: *mut c_void, frame: *mut RawFrame) {
    let signature = signature();
    // SAFETY: it is registered with that signature.
    let mut frame = unsafe { Frame::new(&mut *frame, &signature) };
    frame.set_result(frame.get::<isize>(0).unwrap() + data.addr() as isize).unwrap();
}

/// Registers in every lane what stays for ever: code pointers, and what each adds to its argument.
fn register_in_every_lane() -> Vec<(*const c_void, isize)> {
    // SAFETY: the handler has that signature and takes any data.
    let frame = unsafe { Binding::frame(add_in_frame, &signature(), std::ptr::without_provenance_mut(4)) };
    let bindings = [adding(1), adding(2).saving(), adding(3).saving_control_words(), frame, frame.saving()];
    let codes = bindings.map(|binding| table::share(&binding).unwrap().code());
    let typed = Callback::<Unary>::from_ref(&|argument| argument + 5).unwrap().untyped().leak();
    let dynamic = Dynamic::new(signature(), |frame| {
        frame.set_result(frame.get::<isize>(0).unwrap() + 6).unwrap();
    });
    let dynamic = Callback::from_dynamic(Box::leak(Box::new(dynamic))).unwrap().leak();
    codes.into_iter().chain([typed, dynamic]).map(|code| code.as_ptr()).zip([1, 2, 3, 4, 4, 5, 6]).collect()
}

/// What a closure has that is live for ever.
struct Kept;

impl Kept {
    fn add(&self, argument: isize) -> isize {
        argument + 8
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        panic!("a closure was dropped while its entry is live");
    }
}

fn seal() -> Result<Range<*const u8>, Error> {
    // SAFETY: what is live at the last of these calls stays valid for ever; no counted call begins before it and ends
    // after.
    unsafe { table::seal() }
}

/// A tracked callback that is released by its own handler: its slot is not live any more, but the call has not ended.
fn seal_during_a_counted_call() -> (usize, Option<Error>) {
    let slot = std::sync::OnceLock::<table::SlotId>::new();
    let result = std::sync::OnceLock::new();
    let handler = |argument: isize| {
        // SAFETY: the callback, which owns the slot, is called no more: all that is left to it is to release the slot.
        let key = unsafe { slot.get().unwrap().key() };
        assert_eq!(table::try_release(key).unwrap_err().error, ReleaseError::InFlight);
        result.set(seal().err()).unwrap();
        argument
    };
    let callback = Callback::<Unary>::from_ref_with(Options::new().tracked(), &handler).unwrap();
    slot.set(callback.slot()).unwrap();
    // SAFETY: the callback lives.
    assert_eq!(unsafe { callback.code()(7) }, 7);
    (callback.slot().index(), *result.get().unwrap())
}

#[cfg(unix)]
fn make_read_only(pages: &Range<*const u8>) {
    let size = pages.end.addr() - pages.start.addr();
    // SAFETY: nothing writes to these whole pages any more.
    let result = unsafe { libc::mprotect(pages.start.cast_mut().cast(), size, libc::PROT_READ) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[cfg(windows)]
fn make_read_only(pages: &Range<*const u8>) {
    use windows_sys::Win32::System::Memory::{PAGE_READONLY, VirtualProtect};
    let (size, mut before) = (pages.end.addr() - pages.start.addr(), 0);
    // SAFETY: nothing writes to these whole pages any more.
    let result = unsafe { VirtualProtect(pages.start.cast(), size, PAGE_READONLY, &mut before) };
    assert_ne!(result, 0, "{}", std::io::Error::last_os_error());
}

/// There is no chain of exceptions here.
#[cfg(all(unix, target_arch = "aarch64"))]
fn declare() -> Result<(), Error> {
    Err(Error::Sealed)
}

/// Says that there is a chain of exceptions, or would.
#[cfg(all(unix, not(target_arch = "aarch64")))]
fn declare() -> Result<(), Error> {
    use calltable::seh;
    #[cfg(target_arch = "x86_64")]
    unsafe extern "efiapi" fn no_block() -> *mut seh::ThreadBlock {
        std::ptr::null_mut()
    }
    // SAFETY: no thread has a block; on i686 it comes too late.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        let declared = seh::declare(no_block);
        #[cfg(target_arch = "x86")]
        let declared = seh::declare();
        declared
    }
}

/// Something that writes to an address and says whether that faults. Made before the table is sealed.
#[cfg(unix)]
fn writer() -> impl Fn(*const u8) -> bool {
    // SAFETY: a child process writes, and ends by that or by the next instruction.
    |address| unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            address.cast_mut().write_volatile(address.read_volatile());
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV
    }
}

#[cfg(windows)]
fn writer() -> impl Fn(*const u8) -> bool {
    use calltable::{Contained, seh};
    type Write = unsafe extern "efiapi" fn(*mut u8) -> bool;
    let write = |address: *mut u8| {
        // SAFETY: a fault ends this callback, and not the program.
        unsafe { address.write_volatile(address.read_volatile()) };
        false
    };
    let policy = |exception: &seh::Exception| (exception.code() == seh::ACCESS_VIOLATION).then_some(true);
    let handler = Box::leak(Box::new(Contained::new(write, policy)));
    // SAFETY: a write that faults leaves nothing that must be dropped.
    let code = unsafe { Callback::<Write>::from_contained(handler) }.unwrap().leak();
    // SAFETY: it lives for ever.
    move |address| unsafe { code(address.cast_mut()) }
}

fn answer(call: &mut StaleCall<'_>) {
    let reason = match call.reason {
        StaleReason::NeverRegistered => 1000,
        StaleReason::Released => 2000,
        _ => 3000,
    };
    call.set_result(reason + call.slot.unwrap() as u64);
}

#[test]
fn a_sealed_table_serves_calls_and_refuses_change() {
    // SAFETY: every callback that may be refused returns a number.
    unsafe { set_stale_handler(Some(answer)).unwrap() };
    let released = table::register(&adding(0)).unwrap();
    let released_slot = released.slot();
    let live = register_in_every_lane();
    let writes_fault = writer();
    let mut closure = |argument: isize| argument;
    let exclusive = Callback::<Unary>::from_mut(&mut closure).unwrap();
    let slot = exclusive.slot().index();
    assert_eq!(seal(), Err(Error::Counted { slot }));
    drop(exclusive);
    let tracked = table::register(&adding(0).tracked()).unwrap();
    assert_eq!(seal(), Err(Error::Counted { slot: tracked.index() }));
    assert_eq!(table::release(tracked), Ok(()));
    let (slot, error) = seal_during_a_counted_call();
    assert_eq!(error, Some(Error::Counted { slot }));
    assert!(error.unwrap().to_string().starts_with(&format!("slot {slot} is tracked or exclusive")));
    // A refusal changes nothing.
    assert_eq!(table::release(released), Ok(()));
    let kept = Kept;
    let closure = move |argument: isize| kept.add(argument);
    #[cfg(feature = "alloc")]
    let dropped = Callback::<Unary>::new(closure).unwrap();
    #[cfg(not(feature = "alloc"))]
    let dropped = Callback::<Unary>::from_ref(&closure).unwrap();
    let code = dropped.slot().code().as_ptr();
    let never = dropped.slot().index() + 1;
    let count = table::live_count();

    let pages = seal().unwrap();
    assert_eq!((pages.start.addr() % PAGE, pages.end.addr() % PAGE), (0, 0));
    assert!(!writes_fault(pages.start));
    make_read_only(&pages);
    assert_eq!(seal(), Ok(pages.clone()));
    for page in (pages.start.addr()..pages.end.addr()).step_by(PAGE) {
        let page = pages.start.with_addr(page);
        assert!(writes_fault(page) && writes_fault(page.wrapping_add(PAGE - 1)));
    }

    for _ in 0..2 {
        for (code, addend) in &live {
            assert_eq!(call(*code), 10 + 5 * addend, "adding {addend}");
        }
        let first = code.wrapping_byte_sub(ENTRY_STRIDE * (never - 1));
        let entry = |slot: usize| first.wrapping_byte_add(ENTRY_STRIDE * slot);
        assert_eq!(call(entry(released_slot.index())), 5 * (2000 + released_slot.index() as isize));
        assert_eq!(call(entry(never)), 5 * (1000 + never as isize));

        assert_eq!(table::register(&adding(1)), Err(Error::Sealed));
        assert_eq!(table::try_register(&adding(1)), Err(Error::Sealed));
        assert_eq!(table::share(&adding(1)), Err(Error::Sealed));
        assert_eq!(table::try_share(&adding(1)), Err(Error::Sealed));
        assert_eq!(Callback::<Unary>::from_ref(&|argument| argument).unwrap_err(), Error::Sealed);
        // SAFETY: it is refused.
        assert_eq!(unsafe { set_stale_handler(None) }, Err(Error::Sealed));
        // SAFETY: it is refused; on Linux nothing has been declared.
        let contained = table::register(&unsafe { adding(1).contained() });
        assert!(matches!(contained, Err(Error::Sealed | Error::NoExceptions)), "{contained:?}");
        #[cfg(unix)]
        assert_eq!(declare(), Err(Error::Sealed));
        let entries: Vec<_> = table::list().collect();
        assert_eq!((entries.len(), table::live_count()), (count, count));
        for entry in entries {
            // SAFETY: the key comes back unused.
            let NotReleased { handle, error } = table::release(unsafe { entry.slot.key() }).unwrap_err();
            assert_eq!(error, ReleaseError::Sealed);
            assert_eq!(table::try_release(handle).unwrap_err().error, ReleaseError::Sealed);
        }
    }
    let NotReleased { handle: dropped, error } = dropped.try_release().unwrap_err();
    assert_eq!(error, ReleaseError::Sealed);
    assert_eq!(error.to_string(), Error::Sealed.to_string());
    assert_eq!(error.to_string(), "the table is sealed, and stays as it is: do this before calltable::table::seal");
    drop(dropped);
    assert_eq!(call(code), 10 + 5 * 8);
    assert_eq!(table::live_count(), count);
    #[cfg(not(feature = "alloc"))]
    std::mem::forget(closure);
}
