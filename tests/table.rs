//! The registry: full table, release and reuse, sharing, tracked and exclusive registrations, threads, every slot.

use std::collections::HashSet;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, MutexGuard};
use std::thread;

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
use calltable::table::ENTRY_RETURN;
use calltable::table::{self, Binding, CAPACITY, ENTRY_STRIDE, Location, SlotId, SlotKey};
use calltable::{
    Callback, CodePointer, Contained, Convention, Dynamic, Element, Error, MAX_PARAMETERS, MAX_POSITIONS, NotReleased,
    Options, ReleaseError, Signature, SignatureError, StaleCall, StaleHandler, StaleReason, Type,
};
use calltable_callers::{NEST, REPEAT};

type Unary = unsafe extern "efiapi" fn(isize) -> isize;

/// The table is one for the whole program: each test has it for itself, and leaves it empty.
fn alone() -> MutexGuard<'static, ()> {
    static SERIAL: Mutex<()> = Mutex::new(());
    let guard = SERIAL.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    set_stale_handler(None);
    assert_eq!(table::live_count(), 0, "slots that another test left: {:?}", table::list().collect::<Vec<_>>());
    guard
}

fn set_stale_handler(handler: Option<StaleHandler>) {
    // SAFETY: every callback of this program returns a number or nothing.
    unsafe { calltable::set_stale_handler(handler).unwrap() };
}

fn release_all(keys: Vec<SlotKey>) {
    keys.into_iter().for_each(|key| table::release(key).unwrap());
}

/// What is live when nobody has its key any more.
fn release_listed(entry: table::LiveSlot) {
    // SAFETY: its key was dropped, and it is no callback's, or a leaked one's that is not called any more.
    table::release(unsafe { entry.slot.key() }).unwrap();
}

/// A key that has been used, as a program would have it that keeps numbers.
fn used(number: u64) -> SlotKey {
    // SAFETY: that its registration is not released again is what the tests look at.
    unsafe { SlotKey::from_raw(number).unwrap() }
}

/// Returns its data and argument, so that a mix-up of handler and data shows.
#[inline(never)] // else it may have an address in each part of the program that the compiler makes by itself
unsafe extern "efiapi" fn tell(argument: isize, data: *mut c_void) -> isize {
    argument + 1000 * data.addr() as isize
}

#[inline(never)]
unsafe extern "efiapi" fn tell_negative(argument: isize, data: *mut c_void) -> isize {
    -argument - 1000 * data.addr() as isize
}

fn telling(data: usize) -> Binding {
    // SAFETY: `tell` takes one argument and any data.
    unsafe { Binding::direct(Convention::C, tell as *const c_void, 1, data as *mut c_void) }
}

fn call(code: CodePointer, argument: isize) -> isize {
    // SAFETY: the tests register functions of this type only, or set a stale handler.
    unsafe { code.cast::<Unary>()(argument) }
}

/// By whoever builds, and otherwise by the library that asks for most.
#[test]
fn there_are_as_many_slots_as_are_asked_for() {
    let asked = [
        (cfg!(feature = "slots-65536"), 65536),
        (cfg!(feature = "slots-32000"), 32000),
        (cfg!(feature = "slots-16000"), 16000),
        (cfg!(feature = "slots-8000"), 8000),
        (cfg!(feature = "slots-4000"), 4000),
        (true, 2000),
    ];
    let asked = asked.into_iter().find(|(is_asked, _)| *is_asked).unwrap().1;
    let set = option_env!("CALLTABLE_CAPACITY").and_then(|text| text.parse().ok());
    assert_eq!(CAPACITY, set.unwrap_or(asked));
}

#[test]
fn every_slot_calls_its_own_handler_from_both_lanes() {
    let _alone = alone();
    let slots: Vec<_> = (0..CAPACITY).map(|index| table::register(&telling(index)).unwrap()).collect();
    assert!(matches!(table::register(&telling(0)), Err(Error::TableFull { .. })));
    assert_eq!(table::live_count(), CAPACITY);
    for (index, slot) in slots.iter().enumerate() {
        assert_eq!(call(slot.code(), 7), 7 + 1000 * index as isize, "slot {}", slot.index());
        assert_eq!(table::slot_of(slot.code().as_ptr()), Some(slot.index()));
        assert_eq!(table::slot_of(slot.code().as_ptr().wrapping_byte_add(4)), None);
    }
    assert_eq!(slots.iter().map(|slot| slot.index()).collect::<HashSet<_>>().len(), CAPACITY);
    release_all(slots);

    let signature = Signature::new(Convention::C, &[Type::ISIZE], Some(Type::ISIZE)).unwrap();
    let handlers: Vec<_> = (0..CAPACITY as isize)
        .map(|index| {
            Dynamic::new(signature.clone(), move |frame| {
                frame.set_result(frame.get::<isize>(0).unwrap() - index).unwrap();
            })
        })
        .collect();
    let callbacks: Vec<_> = handlers.iter().map(|handler| Callback::from_dynamic(handler).unwrap()).collect();
    assert!(matches!(Callback::from_dynamic(&handlers[0]), Err(Error::TableFull { .. })));
    for (index, callback) in callbacks.iter().enumerate() {
        assert_eq!(call(callback.code(), 7), 7 - index as isize);
    }
}

#[test]
fn released_slots_are_reused_as_late_as_possible() {
    let _alone = alone();
    let mut all: Vec<_> = (0..CAPACITY).map(|index| table::register(&telling(index)).unwrap()).collect();
    // Released in an order of our choice, they come back in that order.
    all.sort_by_key(|key| key.index() * 7919 % CAPACITY);
    let order: Vec<SlotId> = all.iter().map(SlotKey::slot).collect();
    release_all(all);
    for expected in &order {
        let slot = table::register(&telling(1)).unwrap();
        assert_eq!(slot.index(), expected.index());
        assert_ne!(slot.slot(), *expected, "the same slot is another registration");
        table::release(slot).unwrap();
    }
}

#[test]
fn a_registration_is_released_once() {
    let _alone = alone();
    let key = table::register(&telling(1)).unwrap();
    let (index, number) = (key.index(), key.into_raw());
    assert_eq!(table::release(used(number)), Ok(()));
    let error = ReleaseError::NotLive;
    assert_eq!(table::release(used(number)), Err(NotReleased { handle: used(number), error }));
    assert_eq!(table::try_release(used(number)), Err(NotReleased { handle: used(number), error }));
    // Not even when the slot is live again for somebody else.
    let others: Vec<_> = (0..CAPACITY).map(|_| table::register(&telling(2)).unwrap()).collect();
    assert!(others.iter().any(|other| other.index() == index));
    assert_eq!(table::release(used(number)), Err(NotReleased { handle: used(number), error }));
    release_all(others);
}

#[test]
fn a_key_is_kept_as_a_number() {
    let _alone = alone();
    let (first, second) = (table::register(&telling(1)).unwrap(), table::register(&telling(2)).unwrap());
    let (slot, number, other) = (first.slot(), first.into_raw(), second.into_raw());
    assert!(number != 0 && other != 0 && number != other);
    assert_eq!(used(number).slot(), slot);
    // SAFETY: none of them becomes a key.
    assert_eq!([0, 1 + CAPACITY as u64].map(|number| unsafe { SlotKey::from_raw(number) }), [None, None]);
    // A number that no registration had.
    assert_eq!(table::release(used(number + (1 << 50))).unwrap_err().error, ReleaseError::NotLive);
    assert_eq!(call(slot.code(), 5), 1005);
    [number, other].into_iter().for_each(|number| table::release(used(number)).unwrap());
}

#[test]
fn equal_registrations_share_a_slot_and_count() {
    let _alone = alone();
    let first = table::share(&telling(1)).unwrap();
    let more = [table::share(&telling(1)).unwrap(), table::try_share(&telling(1)).unwrap()];
    assert_eq!(more.each_ref().map(SlotKey::slot), [first.slot(); 2]);
    assert_eq!(table::live_slot(first.index()).unwrap().uses, 3);
    // Other data, another handler, another number of positions or another option is another registration, and one
    // made by `register` is never shared.
    // SAFETY: `tell` and `tell_negative` take one argument and any data; two are registered, not called.
    let (negative, two) = unsafe {
        let data = std::ptr::without_provenance_mut(1);
        (
            Binding::direct(Convention::C, tell_negative as *const c_void, 1, data),
            Binding::direct(Convention::C, tell as *const c_void, 2, data),
        )
    };
    let own = table::register(&telling(1)).unwrap();
    let others: Vec<_> = [telling(2), negative, two, telling(1).tracked(), telling(1).saving()]
        .iter()
        .map(|binding| table::share(binding).unwrap())
        .collect();
    let different: HashSet<SlotId> = others.iter().chain([&first, &own]).map(SlotKey::slot).collect();
    assert_eq!(different.len(), 7);
    assert_eq!(call(others[1].code(), 5), -1005);

    for key in more {
        table::release(key).unwrap();
        assert_eq!(call(first.code(), 5), 1005, "in use until the last release");
    }
    let slot = first.slot();
    let number = first.into_raw();
    table::release(used(number)).unwrap();
    assert_eq!(table::release(used(number)).unwrap_err().error, ReleaseError::NotLive);
    assert_ne!(table::share(&telling(1)).unwrap().slot(), slot);
    table::list().for_each(release_listed);
}

#[test]
fn to_ask_twice_is_to_ask_once() {
    let _alone = alone();
    let ways: [fn(Binding) -> Binding; 4] = [
        |plain| plain.saving(),
        |plain| plain.saving_control_words(),
        |plain| plain.tracked(),
        |plain| plain.exclusive(),
    ];
    for way in ways {
        let once = table::share(&way(telling(1))).unwrap();
        let twice = table::share(&way(way(telling(1)))).unwrap();
        assert_eq!(once.index(), twice.index());
        table::release(once).unwrap();
        table::release(twice).unwrap();
    }
}

#[test]
fn shared_registrations_fill_the_table_and_leave_it_in_any_order() {
    let _alone = alone();
    let keys: Vec<_> = (0..CAPACITY).map(|index| table::share(&telling(index)).unwrap()).collect();
    assert!(matches!(table::share(&telling(CAPACITY)), Err(Error::TableFull { .. })));
    let again: Vec<_> = (0..CAPACITY).map(|index| table::share(&telling(index)).unwrap()).collect();
    assert!(again == keys, "each is found among {CAPACITY}");
    // First every other one.
    let mut pairs: Vec<_> = keys.into_iter().zip(again).enumerate().rev().collect();
    pairs.sort_by_key(|(index, _)| index % 2 == 0);
    for (index, (key, again)) in pairs {
        let slot = key.slot();
        table::release(key).unwrap();
        let key = table::share(&telling(index)).unwrap();
        assert_eq!(key.slot(), slot);
        table::release(again).unwrap();
        table::release(key).unwrap();
    }
    assert_eq!(table::live_count(), 0);
}

#[test]
fn list_shows_what_is_live() {
    let _alone = alone();
    let slots = [table::register(&telling(11)).unwrap(), table::register(&telling(12).tracked()).unwrap()];
    let mut listed: Vec<_> = table::list().collect();
    listed.sort_by_key(|entry| entry.data);
    assert_eq!(listed.iter().map(|entry| entry.slot).collect::<Vec<_>>(), slots.each_ref().map(SlotKey::slot));
    assert_eq!(listed.iter().map(|entry| entry.data.addr()).collect::<Vec<_>>(), [11, 12]);
    assert_eq!(listed.iter().map(|entry| entry.in_flight).collect::<Vec<_>>(), [None, Some(0)]);
    assert!(listed.iter().all(|entry| entry.handler == tell as *const c_void && entry.uses == 0));
    assert!(table::try_live_slot(slots[0].index()).unwrap().is_some());
    release_all(slots.into());
    assert_eq!(table::list().count(), 0);
    assert!(table::live_slot(CAPACITY).is_none());
}

#[test]
fn bad_registrations_are_refused_with_a_reason() {
    let _alone = alone();
    let handler = tell as *const c_void;
    let null = std::ptr::null_mut();
    // SAFETY: none of them is registered.
    let refused = |convention, handler, positions| unsafe {
        table::register(&Binding::direct(convention, handler, positions, null)).unwrap_err()
    };
    assert_eq!(refused(Convention::C, std::ptr::null(), 1), Error::NullHandler);
    let too_many = refused(Convention::C, handler, MAX_POSITIONS + 1);
    assert_eq!(too_many, Error::TooManyPositions { positions: MAX_POSITIONS + 1 });
    let all = [Convention::Win64, Convention::Stdcall, Convention::Cdecl, Convention::Thiscall, Convention::Fastcall];
    for convention in
        all.into_iter().chain([Convention::Sysv, Convention::Aapcs64]).filter(|convention| !convention.is_available())
    {
        assert_eq!(refused(convention, handler, 1), Error::ConventionUnavailable(convention));
        let signature = Signature::new(convention, &[], None);
        assert_eq!(signature, Err(SignatureError::ConventionUnavailable(convention)));
    }
    let error = SignatureError::TooManyParameters { parameters: MAX_PARAMETERS + 1 };
    assert_eq!(Signature::new(Convention::C, &[Type::U8; MAX_PARAMETERS + 1], None), Err(error));
    assert!(error.to_string().contains("at most 255 parameters, not 256"), "{error}");
    let large = Signature::new(Convention::C, &[Type::I64; MAX_PARAMETERS], Some(Type::Struct { size: 24 })).unwrap();
    // SAFETY: refused. A parameter, or on i686 its words, is a position; on AArch64 the result's address is none.
    let error = unsafe { table::register(&Binding::direct_as(handler, &large, null)).unwrap_err() };
    let positions = match MAX_PARAMETERS {
        all if cfg!(target_arch = "x86") => 2 * all + 1,
        all if cfg!(target_arch = "aarch64") => all,
        all => all + 1,
    };
    assert_eq!(error, Error::TooManyPositions { positions });
    for count in [0, 5] {
        let none = Some(Type::Homogeneous { element: Element::F32, count });
        let error = SignatureError::NoSuchStructure { parameter: None };
        assert_eq!(Signature::new(Convention::C, &[], none), Err(error));
        assert!(error.to_string().contains("1 to 4 elements"), "{error}");
    }
    let error = SignatureError::NoSuchStructure { parameter: Some(0) };
    assert_eq!(Signature::new(Convention::C, &[Type::Aligned { size: 24 }], None), Err(error));
    let aligned = Signature::new(Convention::C, &[Type::Aligned { size: 32 }], None);
    let error = SignatureError::TypeUnavailable { parameter: Some(0) };
    assert_eq!(aligned.err(), cfg!(target_arch = "x86").then_some(error));
    let wide = Signature::new(Convention::C, &[Type::U8; MAX_PARAMETERS], Some(Type::I128));
    assert_eq!(wide.is_ok(), cfg!(target_pointer_width = "64"));
    // What a callee can remove, and one word more.
    let of_words = |words: u32| Signature::new(Convention::NATIVE, &[Type::Struct { size: 4 * words - 3 }], None);
    assert!(of_words(16_383).is_ok());
    let error = SignatureError::TooManyBytes { bytes: 65_536 };
    assert_eq!(of_words(16_384).err(), cfg!(target_arch = "x86").then_some(error));
    let huge = Signature::new(Convention::NATIVE, &[Type::Struct { size: u32::MAX }; MAX_PARAMETERS], None);
    assert_eq!(huge.is_ok(), cfg!(target_pointer_width = "64"));
    for parameters in [&[][..], &[Type::USIZE, Type::Pointer]] {
        let method = Signature::method(Convention::NATIVE, parameters, None);
        assert_eq!(method, Err(SignatureError::NotAMethod));
    }
    if Convention::Sysv.is_available() {
        assert_eq!(Signature::method(Convention::Sysv, &[Type::Pointer], None), Err(SignatureError::NotAMethod));
    }
    let empty = Type::Struct { size: 0 };
    let error = SignatureError::ZeroSized { parameter: Some(1) };
    assert_eq!(Signature::new(Convention::C, &[Type::U8, empty], None), Err(error));
    let error = SignatureError::ZeroSized { parameter: None };
    assert_eq!(Signature::new(Convention::C, &[], Some(empty)), Err(error));
    // SAFETY: refused, too.
    let contained =
        |data| unsafe { table::register(&Binding::direct(Convention::C, handler, 1, data).contained()).unwrap_err() };
    assert_eq!(contained(null), Error::NullFilter);
    if !cfg!(windows) {
        let none = contained((&raw const too_many).cast_mut().cast());
        assert_eq!(none, Error::NoExceptions);
        assert!(none.to_string().contains("register without containing"));
        let typed = Contained::new(|| 1, |_| Some(2));
        // SAFETY: a handler that returns at once; and it is refused.
        let refused = unsafe { Callback::<unsafe extern "efiapi" fn() -> i32>::from_contained(&typed).unwrap_err() };
        assert_eq!(refused, none);
    }
    assert!(too_many.to_string().contains("use a frame handler"));
    assert!(error.to_string().starts_with("the result has no bytes"));
}

#[test]
fn what_is_printed_for_a_user_has_text() {
    let _alone = alone();
    let unavailable = if cfg!(target_arch = "x86") { Convention::Win64 } else { Convention::Cdecl };
    let error = Signature::new(unavailable, &[], None).unwrap_err();
    assert!(error.to_string().contains(&unavailable.to_string()), "{error}");
    assert!(unavailable.to_string().len() > 4);
    let signature = Signature::new(Convention::C, &[Type::ISIZE, Type::USIZE], None).unwrap();
    assert_eq!(signature.parameters().iter().map(|ty| ty.size()).sum::<usize>(), 2 * size_of::<usize>());
    let handler = Dynamic::new(signature, |frame| {
        assert!(frame.value(2).unwrap_err().to_string().contains("no argument 2"));
        assert!(frame.set_result(1_u8).unwrap_err().to_string().contains("result"));
    });
    let callback = Callback::from_dynamic(&handler).unwrap();
    // SAFETY: it lives, and takes two words.
    unsafe { callback.code().cast::<unsafe extern "efiapi" fn(isize, usize)>()(1, 2) };
}

#[test]
fn every_address_of_the_table_and_the_dispatchers_is_located() {
    let _alone = alone();
    let callback = Callback::<unsafe extern "efiapi" fn()>::from_ref(&|| ()).unwrap();
    let first = (callback.code() as *const u8).wrapping_sub(ENTRY_STRIDE * callback.slot().index());
    let locate = |offset: usize| table::locate(first.wrapping_add(offset).cast());
    for offset in 0..ENTRY_STRIDE * CAPACITY {
        assert_eq!(locate(offset), Some(Location::Entry { slot: offset / ENTRY_STRIDE }), "{offset}");
    }
    let end = ENTRY_STRIDE * CAPACITY;
    let dispatchers = (end..).take_while(|&offset| locate(offset) == Some(Location::Dispatcher)).count();
    assert!((200..0x1000).contains(&dispatchers), "{dispatchers} bytes");
    for offset in [usize::MAX, end + dispatchers] {
        assert_eq!(locate(offset), None);
    }
    assert_eq!(table::locate(std::ptr::null()), None);
    let slot_of = |offset: usize| table::slot_of(first.wrapping_add(offset).cast());
    assert_eq!(slot_of(ENTRY_STRIDE * (CAPACITY - 1)), Some(CAPACITY - 1));
    assert_eq!([1, end].map(slot_of), [None; 2]);
    assert_eq!(table::locate(alone as *const c_void), None);
}

#[test]
fn a_frame_refuses_what_the_signature_does_not_say() {
    let _alone = alone();
    let signature = Signature::new(Convention::C, &[Type::ISIZE], Some(Type::ISIZE)).unwrap();
    let handler = Dynamic::new(signature, |frame| {
        use calltable::FrameError::{NoSuchParameter, OtherType};
        assert_eq!(frame.get::<isize>(1), Err(NoSuchParameter { index: 1, parameters: 1 }));
        assert_eq!(frame.get::<f64>(0), Err(OtherType { declared: Some(Type::ISIZE) }));
        assert_eq!(frame.set_result(1_u8), Err(OtherType { declared: Some(Type::ISIZE) }));
        assert_eq!(frame.result_bytes(), Err(OtherType { declared: Some(Type::ISIZE) }));
    });
    let callback = Callback::from_dynamic(&handler).unwrap();
    assert_eq!(call(callback.code(), 5), 0, "no result was set");
}

#[test]
fn leaked_callbacks_stay() {
    let _alone = alone();
    static OFFSET: isize = 30;
    let code = Callback::<Unary>::from_fn(&OFFSET, |offset, value| offset + value).unwrap().leak();
    // SAFETY: a leaked callback lives for ever.
    assert_eq!(unsafe { code(12) }, 42);
    assert_eq!(table::live_count(), 1);
    let entry = table::list().next().unwrap();
    assert_eq!(entry.data.addr(), (&raw const OFFSET).addr());
    release_listed(entry);
}

#[test]
fn a_callback_registers_and_releases() {
    let _alone = alone();
    let outer = |value: isize| {
        let inner = |value: isize| value * 2;
        let inner = Callback::<Unary>::from_ref(&inner).unwrap();
        // SAFETY: `inner` lives.
        let doubled = unsafe { inner.code()(value) };
        let shared = table::share(&telling(3)).unwrap();
        let told = call(shared.code(), doubled);
        table::release(shared).unwrap();
        told
    };
    let outer = Callback::<Unary>::from_ref(&outer).unwrap();
    // SAFETY: `outer` lives.
    assert_eq!(unsafe { outer.code()(21) }, 3042);
}

#[test]
fn callbacks_nest_ten_thousand_deep() {
    let _alone = alone();
    static CODE: AtomicUsize = AtomicUsize::new(0);
    let nested = |depth: isize| {
        // SAFETY: the C function calls the code pointer, which is this closure's.
        if depth == 0 { 0 } else { 1 + unsafe { NEST(CODE.load(Ordering::Relaxed) as *const c_void, depth - 1) } }
    };
    let dynamic = Dynamic::new(Signature::new(Convention::C, &[Type::ISIZE], Some(Type::ISIZE)).unwrap(), |frame| {
        let depth = frame.get::<isize>(0).unwrap();
        frame.set_result(nested(depth)).unwrap();
    });
    let run = || {
        for options in [Options::new(), Options::new().tracked()] {
            let callback = Callback::<Unary>::from_ref_with(options, &nested).unwrap();
            CODE.store(callback.code() as usize, Ordering::Relaxed);
            // SAFETY: as above.
            assert_eq!(unsafe { NEST(callback.code() as *const c_void, 10_000) }, 10_000);
            let callback = Callback::from_dynamic_with(options, &dynamic).unwrap();
            CODE.store(callback.code().as_ptr() as usize, Ordering::Relaxed);
            // SAFETY: as above.
            assert_eq!(unsafe { NEST(callback.code().as_ptr(), 10_000) }, 10_000);
        }
    };
    // Unoptimised frames are large.
    thread::scope(|scope| {
        thread::Builder::new().stack_size(64 << 20).spawn_scoped(scope, run).unwrap();
    });
}

/// Answers each stale call with its reason, and counts them.
fn answer_stale(call: &mut StaleCall<'_>) {
    STALE.fetch_add(1, Ordering::Relaxed);
    assert_eq!(table::slot_of(call.code), call.slot);
    assert!(!call.caller.is_null());
    call.set_result(match call.reason {
        StaleReason::NeverRegistered => 1,
        StaleReason::Released => 2,
        StaleReason::Running => 3,
        StaleReason::Moved => 4,
        _ => 5,
    });
}
static STALE: AtomicUsize = AtomicUsize::new(0);

/// The stack pointer, what an entry does to it before its CALL, and what `call_moved` has put there: the word that is
/// pushed first, and the size of all. (On i686 the dispatcher leaves its return address on the stack, for what comes
/// next.)
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
macro_rules! stack (
    () => ("rsp"); (take) => ("sub rsp, 40"); (pushed) => ("qword ptr [rsp + 40 + 8 + 40]"); (all) => ("48")
);
#[cfg(target_arch = "x86")]
macro_rules! stack (() => ("esp"); (take) => (""); (pushed) => ("dword ptr [esp + 4 + 4 + 40]"); (all) => ("44"));

/// Calls with the first instructions of an entry as an inline hook moves them: its CALL now stands here, and what
/// follows it there comes next.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn call_moved(entry: *const c_void) -> usize {
    let result;
    // SAFETY: an entry has a CALL: opcode E8, distance, next instruction. It returns as a function without arguments
    // does.
    unsafe {
        let next = entry.wrapping_byte_add(ENTRY_RETURN);
        let distance = next.byte_sub(4).cast::<i32>().read_unaligned();
        let called = next.wrapping_byte_offset(distance as isize);
        std::arch::asm!(
            "push {next}",
            concat!("sub ", stack!(), ", 40"), // home space, and RSP a multiple of 16
            "call 2f",
            "jmp 3f",
            concat!("2: ", stack!(take)),
            "call {called}",
            concat!("jmp ", stack!(pushed)),
            "3:",
            concat!("add ", stack!(), ", ", stack!(all)),
            next = in(reg) next,
            called = in(reg) called,
            out("eax") result,
            clobber_abi("efiapi"),
        );
    }
    result
}

/// An inline hook on an entry is a mistake that is said, and not a crash.
#[test]
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn a_call_by_way_of_moved_code_is_stale() {
    let _alone = alone();
    set_stale_handler(Some(answer_stale));
    for binding in [telling(1), telling(1).tracked(), telling(1).exclusive(), telling(1).saving()] {
        let key = table::register(&binding).unwrap();
        assert_eq!(call_moved(key.code().as_ptr()), 4);
        assert_eq!(call(key.code(), 5), 1005);
        table::release(key).unwrap();
    }
    set_stale_handler(None);
}

#[test]
fn a_stale_handler_answers_for_entries_that_are_not_live() {
    let _alone = alone();
    set_stale_handler(Some(answer_stale));
    let key = table::register(&telling(1)).unwrap();
    let slot = key.slot();
    table::release(key).unwrap();
    assert_eq!(call(slot.code(), 5), 2);
    let tracked = table::register(&telling(1).tracked()).unwrap();
    let code = tracked.code();
    table::release(tracked).unwrap();
    assert_eq!(call(code, 5), 2);
    #[cfg(target_pointer_width = "64")]
    {
        // SAFETY: stale, and the stale handler returns; its result comes as a floating-point number, too.
        let float = unsafe { slot.code().cast::<unsafe extern "efiapi" fn() -> f64>()() };
        assert_eq!(float.to_bits(), 2);
    }
    set_stale_handler(None);
}

#[test]
fn an_exclusive_closure_is_never_entered_twice() {
    let _alone = alone();
    set_stale_handler(Some(answer_stale));
    static CODE: AtomicUsize = AtomicUsize::new(0);
    let mut depth = 0;
    let mut closure = |value: isize| {
        depth += 1;
        // SAFETY: the C function calls this closure again, which is refused.
        let inner = unsafe { NEST(CODE.load(Ordering::Relaxed) as *const c_void, value) };
        depth -= 1;
        inner * 10 + depth
    };
    let callback = Callback::<Unary>::from_mut(&mut closure).unwrap();
    CODE.store(callback.code() as usize, Ordering::Relaxed);
    // SAFETY: as above.
    unsafe {
        assert_eq!(callback.code()(5), 30, "the inner call is refused as running");
        assert_eq!(callback.code()(5), 30, "and the next outer one is not");
    }
    drop(callback);

    // From eight threads at once a plain counter stays right, and calls and refusals add up.
    STALE.store(0, Ordering::Relaxed);
    let mut count = 0_usize;
    let mut closure = |_: isize| {
        count += 1;
        10
    };
    let callback = Callback::<Unary>::from_mut(&mut closure).unwrap();
    let code = callback.code();
    thread::scope(|scope| {
        for _ in 0..8 {
            // SAFETY: the callback lives until the scope ends.
            scope.spawn(move || unsafe { REPEAT(code as *const c_void, 20_000) });
        }
    });
    drop(callback);
    assert_eq!(count + STALE.load(Ordering::Relaxed), 8 * 20_000);
    set_stale_handler(None);
}

/// Of two calls, one in the other, the end of the inner one leaves the outer one counted.
#[test]
fn a_tracked_callback_that_calls_itself_is_counted_twice() {
    let _alone = alone();
    let seen = Mutex::new(Vec::new());
    let slot = AtomicUsize::new(0);
    let note = || {
        let live = table::live_slot(slot.load(Ordering::Relaxed)).unwrap();
        seen.lock().unwrap().push(live.in_flight);
    };
    let closure = |code: usize| {
        note();
        if code != 0 {
            // SAFETY: the callback passes its own code pointer on.
            unsafe { std::mem::transmute::<usize, unsafe extern "efiapi" fn(usize)>(code)(0) };
            note();
        }
    };
    let options = Options::new().tracked();
    let callback = Callback::<unsafe extern "efiapi" fn(usize)>::from_ref_with(options, &closure).unwrap();
    slot.store(callback.slot().index(), Ordering::Relaxed);
    // SAFETY: it lives.
    unsafe { callback.code()(callback.code() as usize) };
    note();
    assert_eq!(*seen.lock().unwrap(), [Some(1), Some(2), Some(1), Some(0)]);
}

#[test]
fn a_tracked_release_waits_for_running_calls() {
    let _alone = alone();
    let (entered, may_leave, left) = (Barrier::new(2), Barrier::new(2), AtomicBool::new(false));
    let closure = |value: isize| {
        entered.wait();
        may_leave.wait();
        left.store(true, Ordering::Release);
        value
    };
    let callback = Callback::<Unary>::from_ref_with(Options::new().tracked(), &closure).unwrap();
    let slot = callback.slot();
    let code = callback.code();
    thread::scope(|scope| {
        // SAFETY: a tracked callback's release waits for this call.
        scope.spawn(move || assert_eq!(unsafe { code(5) }, 5));
        entered.wait();
        assert_eq!(table::live_slot(slot.index()).unwrap().in_flight, Some(1));
        let NotReleased { handle: callback, error } = callback.try_release().unwrap_err();
        assert_eq!(error, ReleaseError::InFlight);
        assert!(table::live_slot(slot.index()).is_none(), "closed to new calls");
        assert_eq!(table::live_count(), 1, "and not free");
        let releasing = scope.spawn(|| {
            drop(callback);
            assert!(left.load(Ordering::Acquire), "the release returned while the call was running");
        });
        thread::sleep(std::time::Duration::from_millis(50));
        assert!(!releasing.is_finished());
        may_leave.wait();
        releasing.join().unwrap();
    });
    assert_eq!(table::live_count(), 0);
}

/// Two threads call one entry all the time while tracked and exclusive registrations of it come and go, as often as
/// `CALLTABLE_ROUNDS` says.
#[test]
fn no_call_runs_after_a_tracked_release() {
    let _alone = alone();
    /// Returns whether it ran when its registration had been released.
    unsafe extern "efiapi" fn is_late(duration: isize, released: *const AtomicBool) -> isize {
        // SAFETY: the flags outlive the threads.
        let released = || unsafe { (*released).load(Ordering::Acquire) };
        let late = released();
        (0..duration).for_each(|_| std::hint::spin_loop());
        isize::from(late || released())
    }
    const STALE: isize = 2;
    set_stale_handler(Some(|call| call.set_result(STALE as u64)));
    let rounds = std::env::var("CALLTABLE_ROUNDS").map_or(20_000, |rounds| rounds.parse().unwrap());
    let taken: Vec<_> = (1..CAPACITY).map(|_| table::register(&telling(1)).unwrap()).collect();
    let free = table::register(&telling(1)).unwrap();
    let code = free.code();
    table::release(free).unwrap();
    // One for each registration; when its turn comes again, the last call of it has long ended.
    let released: Vec<AtomicBool> = (0..4096).map(|_| AtomicBool::new(false)).collect();
    let ended = AtomicBool::new(false);
    /// However the loop ends, the threads end, too.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (mut waited, mut results) = (0, [0_usize; 3]);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut results = [0_usize; 3];
                    while !ended.load(Ordering::Relaxed) {
                        results[call(code, 20) as usize] += 1;
                    }
                    results
                })
            })
            .collect();
        let end = End(&ended);
        for round in 0..rounds {
            let flag = &released[round % released.len()];
            flag.store(false, Ordering::Relaxed);
            // SAFETY: the handler takes one argument and a flag, which outlives the registration.
            let binding = unsafe {
                Binding::direct(Convention::C, is_late as *const c_void, 1, (&raw const *flag).cast_mut().cast())
            };
            let counted = if round % 2 == 0 { binding.tracked() } else { binding.exclusive() };
            let slot = table::register(&counted).unwrap();
            assert_eq!(slot.code(), code);
            (0..round % 64).for_each(|_| std::hint::spin_loop());
            match table::try_release(slot) {
                Ok(()) => {}
                Err(NotReleased { handle, error }) => {
                    // A call that is refused looks for its name, if the lock is free.
                    let is_busy = cfg!(feature = "names") && error == ReleaseError::Busy;
                    assert!(is_busy || error == ReleaseError::InFlight, "{error}");
                    waited += usize::from(!is_busy);
                    table::release(handle).unwrap();
                }
            }
            flag.store(true, Ordering::Release);
        }
        drop(end);
        for caller in callers {
            let of_thread = caller.join().unwrap();
            results.iter_mut().zip(of_thread).for_each(|(sum, number)| *sum += number);
        }
    });
    let [ran, late, stale] = results;
    println!("{rounds} releases, {waited} of them waited; {ran} calls ran, {stale} were refused, {late} came too late");
    assert_eq!(late, 0);
    assert!(ran > 0 && stale > 0 && waited > 0, "they did not meet: {ran} ran, {stale} refused, {waited} waited");
    release_all(taken);
    set_stale_handler(None);
}

#[test]
fn every_call_of_two_threads_is_counted_on_and_off() {
    let _alone = alone();
    for binding in [telling(1).tracked(), telling(1).saving().tracked()] {
        let slot = table::register(&binding).unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..200_000).for_each(|_| assert_eq!(call(slot.code(), 5), call(slot.code(), 5))));
            }
        });
        assert_eq!(table::live_slot(slot.index()).unwrap().in_flight, Some(0));
        table::release(slot).unwrap();
    }
}

#[test]
fn try_forms_answer_at_once() {
    let _alone = alone();
    // Some thread registers and releases all the time; the forms that do not wait either work or say `Busy`.
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                table::release(table::register(&telling(1)).unwrap()).unwrap();
            }
        });
        let closure = |value: isize| value;
        let slots = || table::try_register(&telling(2));
        let callbacks = || {
            Callback::<Unary>::from_ref_with(Options::new().no_wait(), &closure).map(|callback| {
                let slot = callback.slot();
                std::mem::forget(callback);
                // SAFETY: nobody has the callback any more.
                unsafe { slot.key() }
            })
        };
        let ways: [&dyn Fn() -> Result<SlotKey, Error>; 2] = [&slots, &callbacks];
        let counts = ways.map(|register| {
            let (mut busy, mut done) = (0, 0);
            while (busy == 0 || done < 1000) && busy + done < 50_000_000 {
                match register() {
                    Ok(mut key) => {
                        done += 1;
                        while let Err(NotReleased { handle, error }) = table::try_release(key) {
                            assert_eq!(error, ReleaseError::Busy);
                            key = handle;
                        }
                    }
                    Err(error) => {
                        assert_eq!(error, Error::Busy);
                        busy += 1;
                    }
                }
            }
            [busy, done]
        });
        stop.store(true, Ordering::Relaxed);
        assert!(counts.as_flattened().iter().all(|count| *count > 0), "busy and done: {counts:?}");
    });
}

#[test]
fn eight_threads_call_register_and_release_at_once() {
    let _alone = alone();
    const ROUNDS: usize = 2000;
    let shared_sum = AtomicIsize::new(0);
    let shared = |value: isize| {
        shared_sum.fetch_add(value, Ordering::Relaxed);
        value
    };
    let shared = Callback::<Unary>::from_ref(&shared).unwrap();
    let shared_code = shared.code();
    thread::scope(|scope| {
        for thread in 0..8_isize {
            scope.spawn(move || {
                for round in 0..ROUNDS as isize {
                    let own = thread * 10_000 + round;
                    let closure = |value: isize| value + own;
                    let options = if round % 3 == 0 { Options::new().tracked() } else { Options::new() };
                    let callback = Callback::<Unary>::from_ref_with(options, &closure).unwrap();
                    // SAFETY: both live.
                    unsafe {
                        assert_eq!(callback.code()(5), own + 5);
                        REPEAT(shared_code as *const c_void, 3);
                    }
                    drop(callback);
                    let slot = table::register(&telling(own as usize + 1)).unwrap();
                    assert_eq!(call(slot.code(), 9), 9 + 1000 * (own + 1));
                    table::release(slot).unwrap();
                }
            });
        }
    });
    assert_eq!(shared_sum.load(Ordering::Relaxed), 8 * ROUNDS as isize * 3);
    drop(shared);
}

/// Those of Windows are in tests/windows/threads.rs.
#[cfg(target_os = "linux")]
#[test]
fn foreign_threads_call() {
    let _alone = alone();
    let closure = |value: isize| value + 1;
    let callback = Callback::<unsafe extern "efiapi" fn(isize) -> isize>::from_ref(&closure).unwrap();
    extern "C" fn start(code: *mut c_void) -> *mut c_void {
        // SAFETY: the callback lives until the thread has been joined, and this is its type.
        let code = unsafe { std::mem::transmute::<*mut c_void, Unary>(code) };
        // SAFETY: as above.
        (unsafe { code(41) }) as usize as *mut c_void
    }
    // SAFETY: a thread that the standard library knows nothing of; it is joined at once.
    unsafe {
        let mut thread = 0;
        let code = callback.code() as *mut c_void;
        assert_eq!(libc::pthread_create(&mut thread, std::ptr::null(), start, code), 0);
        let mut result = std::ptr::null_mut();
        assert_eq!(libc::pthread_join(thread, &mut result), 0);
        assert_eq!(result.addr(), 42);
    }
}

#[test]
fn a_closure_as_small_as_a_pointer_lives_in_its_slot() {
    let _alone = alone();
    #[derive(Clone, Copy)]
    struct Padded {
        factor: i8,
        summand: i16,
    }
    fn kept<C: Fn(isize) -> isize + Copy + Send + Sync + 'static>(closure: C) -> Callback<'static, Unary> {
        Callback::from_copy(closure).unwrap()
    }
    fn made() -> Vec<Callback<'static, Unary>> {
        static SUMMAND: isize = 4;
        let (byte, padded) = (3_u8, Padded { factor: -2, summand: 7 });
        let (summand, word) = (&SUMMAND, 0xf00d_usize);
        vec![
            kept(|number| number),
            kept(move |number| number + isize::from(byte)),
            kept(move |number| number * isize::from(padded.factor) + isize::from(padded.summand)),
            kept(move |number| number + summand),
            kept(move |number| number ^ word as isize),
        ]
    }
    let all = made();
    let expected: [fn(isize) -> isize; 5] = [|n| n, |n| n + 3, |n| -2 * n + 7, |n| n + 4, |n| n ^ 0xf00d];
    for (callback, expected) in all.iter().zip(expected) {
        // SAFETY: it lives.
        let sum = unsafe { REPEAT(callback.code() as *const c_void, 5) };
        assert_eq!(sum, (0..5).map(expected).sum::<isize>());
    }
    let tracked = Callback::<Unary>::from_copy_with(Options::new().tracked(), |number| number + 1).unwrap();
    // SAFETY: it lives.
    assert_eq!(unsafe { tracked.code()(41) }, 42);
}
