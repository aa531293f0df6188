//! Every slot of the table, in both lanes and each convention.

use core::ffi::c_void;
use core::ptr::without_provenance_mut;
use core::sync::atomic::{AtomicUsize, Ordering};

use calltable::table::{self, Binding, CAPACITY, ENTRY_STRIDE, SlotId, SlotKey};
use calltable::{Convention, Error, Frame, RawFrame, Signature, StaleCall, StaleReason, Type, set_stale_handler};

/// The data of the first registration; those that follow have one more each.
const FIRST: usize = 0x1000;

/// What a frame handler returns when its arguments are wrong.
const WRONG: usize = !0;

/// The frame handler: it, too, returns the sum of its arguments and its data.
unsafe extern "efiapi" fn frame(data: *mut c_void, frame: *mut RawFrame) {
    let convention = CONVENTION.load(Ordering::SeqCst);
    let signature = signature(CONVENTIONS[convention]);
    // SAFETY: the entry was registered with that signature and is called by it.
    let mut frame = unsafe { Frame::new(&mut *frame, &signature) };
    let sum = match (frame.get::<usize>(0), frame.get::<usize>(1)) {
        (Ok(a), Ok(b)) => a + b + data.addr(),
        _ => WRONG,
    };
    assert!(frame.set_result(sum).is_ok());
}

fn signature(convention: Convention) -> Signature {
    match Signature::new(convention, &[Type::USIZE; 2], Some(Type::USIZE)) {
        Ok(signature) => signature,
        Err(error) => panic!("{error}"),
    }
}

/// For the frame handler: an index of `CONVENTIONS`.
static CONVENTION: AtomicUsize = AtomicUsize::new(0);

macro_rules! conventions {
    ($($abi:literal $convention:ident $words:literal),*) => {
        const CONVENTIONS: &[Convention] = &[$(Convention::$convention),*];

        /// Runs `test` once for each convention: its index, a direct handler, the argument words on the stack, and a
        /// function that calls an entry with two arguments.
        fn for_each(mut test: impl FnMut(usize, *const c_void, usize, fn(*const c_void, usize, usize) -> usize)) {
            let mut index = 0;
            $({
                unsafe extern $abi fn direct(a: usize, b: usize, data: usize) -> usize {
                    a + b + data
                }
                fn call(code: *const c_void, a: usize, b: usize) -> usize {
                    // SAFETY: the entry was registered for this convention and these types, or its handler ignores
                    // them.
                    unsafe {
                        core::mem::transmute::<*const c_void, unsafe extern $abi fn(usize, usize) -> usize>(code)(a, b)
                    }
                }
                CONVENTION.store(index, Ordering::SeqCst);
                test(index, direct as *const c_void, $words, call);
                index += 1;
            })*
            assert_eq!(index, CONVENTIONS.len());
        }
    };
}

#[cfg(target_arch = "x86_64")]
conventions!("win64" Win64 2);
// A thiscall handler whose arguments are all small has its first in ECX, a fastcall one the first two.
#[cfg(target_arch = "x86")]
conventions!("stdcall" Stdcall 2, "cdecl" Cdecl 2, "thiscall" Thiscall 1, "fastcall" Fastcall 0);
#[cfg(target_arch = "aarch64")]
conventions!("C" Aapcs64 2);

fn note(call: &mut StaleCall<'_>) {
    let reason = match call.reason {
        StaleReason::NeverRegistered => 1,
        StaleReason::Released => 2,
        StaleReason::Running => 3,
        _ => 4,
    };
    call.set_result(reason * 0x10_0000 + call.slot.expect("the entry stays in its place") as u64);
}

fn entry(slot: usize) -> *const c_void {
    without_provenance_mut::<c_void>(crate::machine::paging::table().start + ENTRY_STRIDE * slot)
}

/// Has stale calls return what was wrong with them, as all cases expect.
pub fn note_stale_calls() {
    // SAFETY: every callback of the kernel that may be refused returns a number or nothing.
    unsafe { set_stale_handler(Some(note)).expect("not sealed") };
}

pub fn before_the_first() {
    note_stale_calls();
    for_each(|index, _, _, call| {
        // An entry that nobody has registered cannot know what its caller wants removed from the stack.
        if matches!(CONVENTIONS[index], Convention::Stdcall | Convention::Thiscall) {
            return;
        }
        for slot in [0, 1, CAPACITY - 1] {
            assert_eq!(call(entry(slot), 1, 2), 0x10_0000 + slot);
        }
    });
}

pub fn all() {
    for_each(|index, direct, words, call| {
        let signature = signature(CONVENTIONS[index]);
        for lane in 0..6 {
            let mut slots = [const { None }; CAPACITY];
            for (number, slot) in slots.iter_mut().enumerate() {
                let data = without_provenance_mut(FIRST + number);
                // SAFETY: the handlers have this convention and these words, and take any data.
                let binding = unsafe {
                    match lane {
                        0..=3 => Binding::direct(CONVENTIONS[index], direct, words, data),
                        4 => Binding::frame(frame, &signature, data),
                        _ => Binding::frame_foreign(frame as *const c_void, &signature, data),
                    }
                };
                let binding = match lane {
                    1 => binding.saving_control_words(),
                    2 => binding.tracked(),
                    3 => binding.exclusive().saving(),
                    4 => binding.tracked(),
                    _ => binding,
                };
                *slot = table::register(&binding).ok();
            }
            // SAFETY: never called.
            let one_more = unsafe { Binding::direct(CONVENTIONS[index], direct, words, without_provenance_mut(1)) };
            assert!(matches!(table::register(&one_more), Err(Error::TableFull { .. })));
            let mut seen = [false; CAPACITY];
            for (number, slot) in slots.iter().enumerate() {
                let Some(slot) = slot else { panic!("only {number} slots") };
                assert!(!core::mem::replace(&mut seen[slot.index()], true), "slot {} twice", slot.index());
                assert_eq!(slot.code().as_ptr(), entry(slot.index()));
                let sum = call(slot.code().as_ptr(), 3 * number, 7);
                assert_eq!(sum, 4 * number + FIRST + 7, "slot {}, lane {lane}, {}", slot.index(), CONVENTIONS[index]);
            }
            for key in slots.into_iter().flatten() {
                let slot = key.slot();
                assert_eq!(table::release(key), Ok(()));
                let result = call(slot.code().as_ptr(), 1, 2);
                assert_eq!(result, 0x20_0000 + slot.index(), "stale, lane {lane}, {}", CONVENTIONS[index]);
            }
        }
    });
    assert_eq!(table::list().count(), 0);
}

/// A slot for each convention and each lane that counts no calls.
pub type Uncounted = [[Option<SlotId>; 4]; 4];

pub fn register_uncounted() -> Uncounted {
    let mut slots = Uncounted::default();
    for_each(|index, direct, words, _| {
        let (signature, data) = (signature(CONVENTIONS[index]), without_provenance_mut(FIRST + index));
        // SAFETY: the handlers have this convention and these words, and take any data.
        let bindings = unsafe {
            let in_place = Binding::direct(CONVENTIONS[index], direct, words, data);
            let foreign = Binding::frame_foreign(frame as *const c_void, &signature, data);
            [in_place, in_place.saving_control_words(), Binding::frame(frame, &signature, data), foreign]
        };
        slots[index] = bindings.map(|binding| table::register(&binding).ok().as_ref().map(SlotKey::slot));
    });
    slots
}

/// Calls them all.
pub fn call_uncounted(slots: &Uncounted) {
    for_each(|index, _, _, call| {
        for (lane, slot) in slots[index].iter().enumerate() {
            let Some(slot) = slot else { panic!("no slot for lane {lane}, {}", CONVENTIONS[index]) };
            assert_eq!(call(slot.code().as_ptr(), 3, 7), 10 + FIRST + index, "lane {lane}, {}", CONVENTIONS[index]);
        }
    });
}
