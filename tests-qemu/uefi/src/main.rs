//! A UEFI application whose notification functions and protocol are callbacks of the table.
//!
//! Prints `ok NAME` for each case through the first serial port, or `FAILED NAME: why` for the first that fails, and
//! ends with `N passed, N failed`.
#![no_std]
#![no_main]

#[cfg_attr(any(target_arch = "x86", target_arch = "x86_64"), path = "x86.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod machine;

use core::ffi::c_void;
use core::fmt::{self, Write};
use core::hint::black_box;
use core::panic::PanicInfo;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use calltable::table::{self, Binding, CAPACITY, CodePointer};
use calltable::{Callback, Convention, Dynamic, Error, Options, Signature, StaleCall, Type, set_stale_handler};
use calltable_uefi::{CAPTURED, Call, Counter};
use uefi::boot::{self, EventNotifyFn, EventType, LoadImageSource, SearchType, TimerTrigger, Tpl};
use uefi::prelude::*;
use uefi::proto::media::file::{File, FileAttribute, FileMode};
use uefi::{Event, Identify as _, cstr16};

/// The first serial port.
struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The firmware's own use of the port is over with each line.
        text.bytes().for_each(machine::print);
        Ok(())
    }
}

macro_rules! line {
    ($($part:tt)*) => {{
        // The console takes everything.
        let _ = writeln!(Console, $($part)*);
    }};
}

static PASSED: AtomicUsize = AtomicUsize::new(0);
static CASE: AtomicUsize = AtomicUsize::new(usize::MAX);

const CASES: &[(&str, fn())] = &[
    ("every slot", every_slot),
    ("a stale entry", stale),
    ("a notification at TPL_CALLBACK", || notification(Tpl::CALLBACK)),
    ("a notification at TPL_NOTIFY", || notification(Tpl::NOTIFY)),
    ("a notification function that is waited for", waited_for),
    ("a timer at TPL_NOTIFY preempts a running callback", || timer(Tpl::NOTIFY)),
    ("a timer at TPL_CALLBACK preempts a running callback", || timer(Tpl::CALLBACK)),
    ("a timer preempts register and release", timer_in_registry),
    ("a protocol notification", protocol_notification),
    ("another image calls a protocol of callbacks", protocol),
    ("ExitBootServices, and callbacks after it", exit_boot_services),
];

#[entry]
fn main() -> Status {
    line!("");
    line!("calltable on UEFI: {}", machine::NAME);
    for (index, (name, run)) in CASES.iter().enumerate() {
        CASE.store(index, Ordering::SeqCst);
        run();
        assert_eq!(table::list().count(), 0, "slots were not given back");
        PASSED.fetch_add(1, Ordering::SeqCst);
        line!("ok {name}");
    }
    line!("{} passed, 0 failed", PASSED.load(Ordering::SeqCst));
    machine::end(true)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    static PANICS: AtomicBool = AtomicBool::new(false);
    if PANICS.swap(true, Ordering::SeqCst) {
        machine::end(false); // a panic in here
    }
    let case = CASES.get(CASE.load(Ordering::SeqCst)).map_or("start", |case| case.0);
    line!("FAILED {case}: {} ({:?})", info.message(), info.location());
    line!("{} passed, 1 failed", PASSED.load(Ordering::SeqCst));
    machine::end(false)
}

fn make<T, E: fmt::Debug>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error:?}"),
    }
}

fn count(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

fn event(kind: EventType, level: Tpl, callback: EventNotifyFn, context: *mut c_void) -> Event {
    // SAFETY: every event here is closed before its callback goes.
    make(unsafe { boot::create_event(kind, level, Some(callback), NonNull::new(context)) })
}

type Unary = unsafe extern "efiapi" fn(usize) -> usize;

unsafe extern "efiapi" fn add(value: usize, data: usize) -> usize {
    value + data
}

fn adding(data: usize) -> Binding {
    let data = core::ptr::without_provenance_mut(data);
    // SAFETY: it takes one argument and its data, by the convention of `efiapi`.
    unsafe { Binding::direct(Convention::C, add as *const c_void, 1, data) }
}

/// Calls an entry that was registered for [`Unary`].
fn call(code: CodePointer, value: usize) -> usize {
    // SAFETY: by the types of what the callers register.
    unsafe { black_box(code).cast::<Unary>()(value) }
}

fn every_slot() {
    static mut SLOTS: [Option<table::SlotKey>; CAPACITY] = [const { None }; CAPACITY];
    let slots = &raw mut SLOTS;
    // SAFETY: only used here, and this runs once.
    let slots = unsafe { &mut *slots };
    for (number, slot) in slots.iter_mut().enumerate() {
        *slot = Some(make(table::register(&adding(number))));
    }
    assert!(matches!(table::register(&adding(0)), Err(Error::TableFull { .. })));
    for (number, slot) in slots.iter().flatten().enumerate() {
        assert_eq!(call(slot.code(), 5), number + 5);
    }
    for key in slots.iter_mut().filter_map(Option::take) {
        make(table::release(key));
    }
}

fn stale() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    fn note(call: &mut StaleCall<'_>) {
        call.set_result(CALLS.fetch_add(1, Ordering::SeqCst) as u64 + 77);
    }
    // SAFETY: every callback of this application that may be refused returns a number.
    make(unsafe { set_stale_handler(Some(note)) });
    let key = make(table::register(&adding(1)));
    let code = key.code();
    make(table::release(key));
    assert_eq!(call(code, 1), 77);
    assert_eq!(count(&CALLS), 1);
}

fn notification(level: Tpl) {
    let (typed_calls, dynamic_calls) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut context = 5_usize;
    let address = (&raw mut context).addr();
    let closure = |_: Event, context: Option<NonNull<c_void>>| {
        assert_eq!(context.map_or(0, |context| context.as_ptr().addr()), address);
        typed_calls.fetch_add(1, Ordering::SeqCst);
    };
    let typed = make(Callback::<EventNotifyFn>::from_ref(&closure));
    let signature = make(Signature::new(Convention::C, &[Type::Pointer, Type::Pointer], None));
    let handler = Dynamic::new(signature, |frame| {
        assert_eq!(frame.get::<*mut c_void>(1).map_or(0, |context| context.addr()), address);
        dynamic_calls.fetch_add(1, Ordering::SeqCst);
    });
    let dynamic = make(Callback::from_dynamic(&handler));
    // SAFETY: that is the signature.
    let dynamic_code = unsafe { dynamic.code().cast::<EventNotifyFn>() };
    let data = (&raw mut context).cast();
    let events = [typed.code(), dynamic_code].map(|code| event(EventType::NOTIFY_SIGNAL, level, code, data));
    for time in 1..=100 {
        for event in &events {
            make(boot::signal_event(event));
        }
        assert_eq!((count(&typed_calls), count(&dynamic_calls)), (time, time));
    }
    // While the level is as high, notifications wait.
    // SAFETY: lowered below.
    let raised = unsafe { boot::raise_tpl(Tpl::NOTIFY) };
    make(boot::signal_event(&events[0]));
    assert_eq!(count(&typed_calls), 100);
    drop(raised);
    assert_eq!(count(&typed_calls), 101);
    for event in events {
        make(boot::close_event(event));
    }
}

fn waited_for() {
    let asked = AtomicUsize::new(0);
    let closure = |event: Event, _: Option<NonNull<c_void>>| {
        if asked.fetch_add(1, Ordering::SeqCst) == 9 {
            make(boot::signal_event(&event));
        }
    };
    let callback = make(Callback::<EventNotifyFn>::from_ref(&closure));
    let event = event(EventType::NOTIFY_WAIT, Tpl::CALLBACK, callback.code(), core::ptr::null_mut());
    // SAFETY: a copy, for the call that wants an array.
    make(boot::wait_for_event(&mut [unsafe { event.unsafe_clone() }]).map_err(|error| error.status()));
    assert_eq!(count(&asked), 10);
    make(boot::close_event(event));
}

/// Has a periodic timer run `tick` at that level while `run` runs; `run` is told how many ticks there were.
fn with_timer<R>(level: Tpl, tick: impl Fn() + Sync, run: impl FnOnce(&AtomicUsize) -> R) -> R {
    const PERIOD: u64 = 10_000; // of 100 ns
    let ticks = AtomicUsize::new(0);
    let closure = |_: Event, _: Option<NonNull<c_void>>| {
        tick();
        ticks.fetch_add(1, Ordering::SeqCst);
    };
    let callback = make(Callback::<EventNotifyFn>::from_ref(&closure));
    let kind = EventType::TIMER | EventType::NOTIFY_SIGNAL;
    let timer = event(kind, level, callback.code(), core::ptr::null_mut());
    make(boot::set_timer(&timer, TimerTrigger::Periodic(PERIOD)));
    let result = run(&ticks);
    make(boot::set_timer(&timer, TimerTrigger::Cancel));
    make(boot::close_event(timer));
    result
}

fn timer(level: Tpl) {
    let inner = make(table::register(&adding(1000)));
    with_timer(
        level,
        || {
            assert_eq!(call(inner.code(), 1), 1001);
            let slot = make(table::try_register(&adding(3)));
            assert_eq!(call(slot.code(), 4), 7);
            make(table::try_release(slot));
        },
        |ticks| {
            // Each of these two runs until the timer has ticked while it was running.
            let until_tick = |value: usize| {
                let before = count(ticks);
                while count(ticks) < before + 3 {
                    core::hint::spin_loop();
                }
                value + 1
            };
            let typed = make(Callback::<Unary>::from_ref_with(Options::new().tracked(), &until_tick));
            let signature = make(Signature::new(Convention::C, &[Type::USIZE], Some(Type::USIZE)));
            let handler = Dynamic::new(signature, |frame| {
                let result = until_tick(make(frame.get::<usize>(0)));
                make(frame.set_result(result));
            });
            let dynamic = make(Callback::from_dynamic(&handler));
            for value in 0..5 {
                // SAFETY: it lives.
                assert_eq!(unsafe { typed.code()(value) }, value + 1);
                assert_eq!(call(dynamic.code(), value), value + 1);
            }
        },
    );
    make(table::release(inner));
}

fn timer_in_registry() {
    let (busy, free) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let tick = || match table::try_register(&adding(3)) {
        Ok(slot) => {
            make(table::try_release(slot));
            free.fetch_add(1, Ordering::SeqCst);
        }
        Err(error) => {
            assert_eq!(error, Error::Busy);
            busy.fetch_add(1, Ordering::SeqCst);
        }
    };
    with_timer(Tpl::NOTIFY, tick, |ticks| {
        let mut turns = 0_u64;
        // The firmware's timer does not tick faster than once in 10 ms or so; the lock is taken most of the time.
        while count(&busy) < 3 && count(ticks) < 2000 {
            turns += 1;
            let slot = make(table::register(&adding(1)));
            make(table::release(slot));
        }
        assert!(count(&busy) >= 3, "{turns} turns, {} ticks, {} met a free lock", count(ticks), count(&free));
    });
}

fn protocol_notification() {
    let calls = AtomicUsize::new(0);
    let closure = |_: Event, _: Option<NonNull<c_void>>| {
        calls.fetch_add(1, Ordering::SeqCst);
    };
    let callback = make(Callback::<EventNotifyFn>::from_ref(&closure));
    let event = event(EventType::NOTIFY_SIGNAL, Tpl::NOTIFY, callback.code(), core::ptr::null_mut());
    let key = make(boot::register_protocol_notify(&Counter::GUID, &event));
    let before = count(&calls);
    let place = 0_u8;
    // SAFETY: nobody opens it, and it is taken off below.
    let handle = make(unsafe { boot::install_protocol_interface(None, &Counter::GUID, (&raw const place).cast()) });
    assert_eq!(count(&calls), before + 1);
    assert_eq!(make(boot::locate_handle_buffer(key))[..], [handle]);
    // SAFETY: nobody has opened it.
    make(unsafe { boot::uninstall_protocol_interface(handle, &Counter::GUID, (&raw const place).cast()) });
    make(boot::close_event(event));
    assert!(boot::locate_handle_buffer(SearchType::ByProtocol(&Counter::GUID)).is_err());
}

fn protocol() {
    const TIMES: usize = 1000;
    let calls = AtomicUsize::new(0);
    let sum = |a: usize, b: u64, c: u8, d: usize, e: u64| {
        calls.fetch_add(1, Ordering::SeqCst);
        let all = [a as u64, b, c.into(), d as u64, e];
        all.into_iter().fold(CAPTURED, u64::wrapping_add)
    };
    let closure = |_: *const Counter, a: usize, b: u64, c: u8, d: usize, e: u64| sum(a, b, c, d, e);
    let add = make(Callback::<Call>::from_ref(&closure));
    let types = [Type::Pointer, Type::USIZE, Type::U64, Type::U8, Type::USIZE, Type::U64];
    let signature = make(Signature::new(Convention::C, &types, Some(Type::U64)));
    let handler = Dynamic::new(signature, |frame| {
        let (a, b, c) = (make(frame.get(1)), make(frame.get(2)), make(frame.get(3)));
        let result = sum(a, b, c, make(frame.get(4)), make(frame.get(5)));
        make(frame.set_result(result));
    });
    let dynamic = make(Callback::from_dynamic(&handler));
    // SAFETY: that is the signature.
    let add_dynamic = unsafe { dynamic.code().cast::<Call>() };
    let counter = Counter { add: add.code(), add_dynamic, times: TIMES, wrong: AtomicUsize::new(0) };
    let interface = (&raw const counter).cast();
    // SAFETY: taken off below, when the other image has ended.
    let handle = make(unsafe { boot::install_protocol_interface(None, &Counter::GUID, interface) });
    let image = make(boot::load_image(
        boot::image_handle(),
        LoadImageSource::FromBuffer { buffer: read_caller(), file_path: None },
    ));
    make(boot::start_image(image));
    // SAFETY: the other image has ended.
    make(unsafe { boot::uninstall_protocol_interface(handle, &Counter::GUID, interface) });
    assert_eq!((count(&calls), count(&counter.wrong)), (2 * TIMES, 0));
}

/// The other image, which lies beside this one on the disk.
fn read_caller() -> &'static [u8] {
    static mut BYTES: [u8; 0x10_0000] = [0; 0x10_0000];
    let bytes = &raw mut BYTES;
    // SAFETY: only used here, and this runs once.
    let bytes = unsafe { &mut *bytes };
    let mut disk = make(boot::get_image_file_system(boot::image_handle()));
    let mut root = make(disk.open_volume());
    let file = make(root.open(cstr16!("caller.efi"), FileMode::Read, FileAttribute::empty()));
    let Some(mut file) = file.into_regular_file() else { panic!("caller.efi is no file") };
    let length = make(file.read(bytes));
    assert!(length < bytes.len(), "caller.efi is too large");
    &bytes[..length]
}

/// The order: notification functions of the event group run while the firmware still calls; only when ExitBootServices
/// has returned are their callbacks given back. Table and registry need nothing of the firmware, so they continue after
/// it.
fn exit_boot_services() {
    let calls = AtomicUsize::new(0);
    let closure = |_: Event, _: Option<NonNull<c_void>>| {
        calls.fetch_add(1, Ordering::SeqCst);
    };
    let callback = make(Callback::<EventNotifyFn>::from_ref(&closure));
    let _event = event(EventType::SIGNAL_EXIT_BOOT_SERVICES, Tpl::CALLBACK, callback.code(), core::ptr::null_mut());
    // SAFETY: every other event has been closed and every protocol taken off, and nothing of the firmware is used
    // below.
    let map = unsafe { boot::exit_boot_services(None) };
    assert_eq!(count(&calls), 1);
    drop(callback);
    let slot = make(table::register(&adding(2)));
    assert_eq!(call(slot.code(), 40), 42);
    make(table::release(slot));
    core::mem::forget(map); // its memory was the firmware's
}
