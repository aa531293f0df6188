//! The ways to make function pointers of closures, or of handlers and data.

use std::any::Any;
use std::ffi::c_void;

use calltable::table::{self, Binding, SlotKey};
use calltable::{Convention, Error};

use crate::shapes::{Count, Maker, Shape, Slots};

/// What foreign code calls.
pub type Code = *const c_void;

/// Function pointers, and what must live as long as they are called.
pub struct Made {
    pub codes: Vec<Code>,
    _owner: Box<dyn Any>,
}

impl Made {
    pub fn of<T: 'static>(each: impl Iterator<Item = (Code, T)>) -> Self {
        let (codes, owners): (Vec<_>, Vec<T>) = each.unzip();
        Self { codes, _owner: Box::new(owners) }
    }
}

/// One way.
#[derive(Clone, Copy)]
pub struct Contender {
    pub name: &'static str,
    make: Make,
    /// What it is written for.
    serves: fn(&Shape, Slots) -> bool,
}

#[derive(Clone, Copy)]
enum Make {
    /// For each sample, and released after it: the crate's table has not room for all cases at once.
    Anew(fn(&'static Shape, Slots) -> Maker),
    /// Once.
    Once(fn(&'static Shape, Slots) -> Made),
}

impl Contender {
    /// Callbacks for each sample, made when that is called, or before.
    pub fn source(&self, shape: &'static Shape, slots: Slots) -> Option<Source> {
        (self.serves)(shape, slots).then(|| match self.make {
            Make::Anew(maker) => Source::Maker(maker(shape, slots)),
            Make::Once(make) => Source::Made(make(shape, slots)),
        })
    }
}

/// Where a sample's callbacks are from.
pub enum Source {
    Maker(Maker),
    Made(Made),
}

impl Source {
    /// Lends the callbacks of one sample.
    pub fn with<T>(&mut self, use_them: impl FnOnce(&[Code]) -> T) -> T {
        match self {
            Self::Maker(maker) => use_them(&maker().codes),
            Self::Made(made) => use_them(&made.codes),
        }
    }
}

/// All that this build has.
pub const CONTENDERS: &[Contender] = &[
    once("direct", |shape, slots| Made::of(slots.deal(shape.direct).map(|code| (code, ())))),
    anew("typed", |shape, slots| (shape.typed)(slots)),
    anew("exclusive", |shape, slots| (shape.exclusive)(slots)),
    anew("tracked", |shape, slots| (shape.tracked)(slots)),
    anew("direct_c", |shape, slots| {
        registered(slots, shape.in_c, |handler, count| {
            // SAFETY: the handler is one for the shape and a count.
            unsafe { Binding::direct(Convention::NATIVE, handler, shape.positions, count) }
        })
    }),
    anew("frame", |shape, slots| {
        let signature = (shape.signature)();
        // SAFETY: the handler is one for the signature and a count.
        registered(slots, shape.frame, move |handler, count| unsafe { Binding::frame(handler, &signature, count) })
    }),
    anew("full_save", |shape, slots| {
        let signature = (shape.signature)();
        registered(slots, shape.frame_foreign, move |handler, count| {
            // SAFETY: the handler is one for the signature and a count.
            unsafe { Binding::frame_foreign(handler, &signature, count) }
        })
    }),
    anew("dynamic", |shape, slots| (shape.dynamic)(slots)),
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Contender { serves: assembly::serves_alike, ..once("functions", assembly::functions) },
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Contender { serves: assembly::serves, ..anew("call_ret", assembly::call_ret) },
    #[cfg(target_arch = "x86_64")]
    Contender { serves: assembly::serves, ..anew("mov_jmp", assembly::mov_jmp) },
    #[cfg(all(windows, target_arch = "x86"))]
    Contender { serves: assembly::serves_alike, ..anew("mov_jmp", assembly::mov_jmp) },
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Contender { serves: assembly::serves, ..anew("ancestor", assembly::ancestor) },
    #[cfg(feature = "rivals")]
    once("closure_ffi", |shape, slots| (shape.closure_ffi)(slots)),
    #[cfg(feature = "rivals")]
    once("libffi", libffi::make),
];

/// A contender by its name.
pub fn named(name: &str) -> &'static Contender {
    CONTENDERS.iter().find(|contender| contender.name == name).unwrap_or_else(|| panic!("no contender {name:?}"))
}

const fn anew(name: &'static str, make: fn(&'static Shape, Slots) -> Maker) -> Contender {
    Contender { name, make: Make::Anew(make), serves: |_, _| true }
}

const fn once(name: &'static str, make: fn(&'static Shape, Slots) -> Made) -> Contender {
    Contender { name, make: Make::Once(make), serves: |_, _| true }
}

/// Puts a closure of a type of its own in a place, and makes a callback of it.
///
/// # Safety
/// As for [`put`]; the callback must be dropped before the place is used again.
pub type Prepare<T> = unsafe fn(*mut u8) -> Result<T, Error>;

/// Puts a closure there.
///
/// # Safety
/// The place must be large enough, aligned for the closure or for a `u64`, and nobody else's for as long as the closure
/// is used.
pub unsafe fn put<C>(place: *mut u8, closure: C) -> &'static mut C {
    const { assert!(align_of::<C>() <= align_of::<u64>()) };
    let place = place.cast::<C>();
    // SAFETY: by the caller's promise.
    unsafe {
        place.write(closure);
        &mut *place
    }
}

/// The size of what a function returns, whose type has no name.
pub fn size_of_result<T>(_: impl FnOnce() -> T) -> usize {
    size_of::<T>()
}

/// Callbacks of closures that lie side by side, whatever their types are: `all` has those that there are.
///
/// # Safety
/// What each of them puts in its place must be as large as `size` says. The callbacks must be dropped before more are
/// made, and before what makes them.
pub unsafe fn prepared<T: 'static>(slots: Slots, all: &[Prepare<T>], size: usize, code: fn(&T) -> Code) -> Maker {
    let each: Vec<_> = slots.deal(all).collect();
    let mut places = vec![0_u64; (each.len() * size).div_ceil(size_of::<u64>())];
    Box::new(move || {
        let places = places.as_mut_ptr().cast::<u8>();
        Made::of(each.iter().enumerate().map(|(slot, prepare)| {
            // SAFETY: the place is one of as many of that size, which is a multiple of the closure's alignment;
            // callbacks made before have been dropped when this is called.
            let callback = unsafe { prepare(places.add(slot * size)) }.expect("a free slot");
            (code(&callback), callback)
        }))
    })
}

/// Registrations: `all` has the handlers that there are.
fn registered<H: Copy + 'static>(
    slots: Slots,
    all: &[H],
    binding: impl Fn(H, *mut c_void) -> Binding + 'static,
) -> Maker {
    let each: Vec<_> = slots.deal(all).zip(counts(slots.count)).collect();
    Box::new(move || {
        Made::of(each.iter().map(|&(handler, count)| {
            let binding = binding(handler, (&raw const *count).cast_mut().cast());
            let key = table::register(&binding).expect("a free slot");
            (key.code().as_ptr(), Released(Some(key)))
        }))
    })
}

/// Counts that live as long as the program.
fn counts(slots: usize) -> &'static [Count] {
    Vec::leak((0..slots).map(|_| Count::new()).collect())
}

/// Releases its slot when it is dropped.
pub struct Released(pub Option<SlotKey>);

impl Drop for Released {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|key| table::release(key).expect("a live slot"));
    }
}

/// Tables that exist only here, for one shape and one set of callbacks at a time.
#[cfg(any(target_arch = "x86_64", windows))]
mod assembly {
    use super::*;

    const CAPACITY: usize = 2000;

    #[cfg(not(windows))]
    unsafe extern "C" {
        static bench_ancestor_table: [[u8; 5]; CAPACITY];
        static mut bench_ancestor_contexts: [Context; CAPACITY];
        static bench_call_ret_table: [[u8; 16]; CAPACITY];
        static mut bench_call_ret_contexts: [Context; CAPACITY];
        static bench_functions: [[u8; 32]; CAPACITY];
    }

    unsafe extern "C" {
        static bench_mov_jmp_table: [[u8; 16]; CAPACITY];
        static mut bench_mov_jmp_contexts: [Context; CAPACITY];
    }

    /// Handler and data.
    #[repr(C)]
    struct Context(*const c_void, *const Count);

    pub fn serves(shape: &Shape, _: Slots) -> bool {
        shape.name == "int4"
    }

    /// Has a function for each slot, and no other number of them.
    pub fn serves_alike(shape: &Shape, slots: Slots) -> bool {
        serves(shape, slots) && slots.handlers == 1
    }

    #[cfg(not(windows))]
    pub fn functions(_: &'static Shape, slots: Slots) -> Made {
        // SAFETY: code is never written.
        let functions = unsafe { &bench_functions };
        Made::of(functions[..slots.count].iter().map(|function| ((&raw const *function).cast(), ())))
    }

    #[cfg(not(windows))]
    pub fn ancestor(shape: &'static Shape, slots: Slots) -> Maker {
        // SAFETY: the table is in ancestor.S, with as many entries as contexts.
        unsafe { maker(shape, slots, &bench_ancestor_table, &raw mut bench_ancestor_contexts) }
    }

    #[cfg(not(windows))]
    pub fn call_ret(shape: &'static Shape, slots: Slots) -> Maker {
        // SAFETY: the table is in call_ret.S, with as many entries as contexts.
        unsafe { maker(shape, slots, &bench_call_ret_table, &raw mut bench_call_ret_contexts) }
    }

    pub fn mov_jmp(shape: &'static Shape, slots: Slots) -> Maker {
        // SAFETY: the table is in mov_jmp.S, with as many entries as contexts.
        unsafe { maker(shape, slots, &bench_mov_jmp_table, &raw mut bench_mov_jmp_contexts) }
    }

    /// The handlers that a table serves.
    #[cfg(target_arch = "x86_64")]
    fn handlers(shape: &'static Shape) -> &'static [Code] {
        shape.in_c
    }

    /// A stdcall handler, as a thiscall function of its data.
    #[cfg(target_arch = "x86")]
    fn handlers(_: &'static Shape) -> &'static [Code] {
        unsafe extern "thiscall" fn int4(count: *const Count, a: isize, b: isize, c: isize, d: isize) -> isize {
            // SAFETY: the table passes a count.
            unsafe { (*count).add(1) };
            a + b + c + d
        }
        const { &[int4 as Code] }
    }

    /// # Safety
    /// The table must be one whose contexts these are.
    unsafe fn maker<Entry>(
        shape: &'static Shape,
        slots: Slots,
        table: &'static [Entry; CAPACITY],
        contexts: *mut [Context; CAPACITY],
    ) -> Maker {
        let each: Vec<_> = slots.deal(handlers(shape)).zip(counts(slots.count)).collect();
        Box::new(move || {
            let each = table.iter().zip(&each).enumerate().map(|(slot, (entry, &(handler, count)))| {
                // SAFETY: there are as many contexts as entries; no call runs.
                unsafe { (*contexts)[slot] = Context(handler, count) };
                ((&raw const *entry).cast(), ())
            });
            Made::of(each)
        })
    }
}

/// libffi's closures.
#[cfg(feature = "rivals")]
pub mod libffi {
    use std::ptr::null_mut;

    use libffi_sys::*;

    use super::*;

    pub type Handler = unsafe extern "C" fn(*mut ffi_cif, *mut c_void, *mut *mut c_void, *mut c_void);

    #[cfg(target_arch = "x86_64")]
    const ABI: ffi_abi = ffi_abi_FFI_WIN64;
    #[cfg(target_arch = "x86")]
    const ABI: ffi_abi = ffi_abi_FFI_STDCALL;

    pub fn make(shape: &'static Shape, slots: Slots) -> Made {
        let cif = cif(shape);
        Made::of(slots.deal(shape.libffi).zip(counts(slots.count)).map(|(handler, count)| {
            let closure = Closure::new(handler, cif, count);
            (closure.code, closure)
        }))
    }

    /// What libffi knows of a signature.
    pub fn cif(shape: &Shape) -> *mut ffi_cif {
        let (parameters, result) = (shape.ffi_types)();
        let cif = Box::leak(Box::<ffi_cif>::default());
        // SAFETY: the types live for ever, and so does the list.
        let status =
            unsafe { ffi_prep_cif(cif, ABI, parameters.len() as u32, result, Vec::leak(parameters).as_mut_ptr()) };
        assert_eq!(status, ffi_status_FFI_OK);
        cif
    }

    pub struct Closure {
        memory: *mut ffi_closure,
        pub code: *const c_void,
    }

    impl Closure {
        pub fn new(handler: Handler, cif: *mut ffi_cif, count: &'static Count) -> Self {
            let mut code = null_mut();
            // SAFETY: the closure is written to memory of its size.
            unsafe {
                let memory = ffi_closure_alloc(size_of::<ffi_closure>(), &mut code).cast::<ffi_closure>();
                assert!(!memory.is_null(), "no memory for a closure of libffi");
                let data = (&raw const *count).cast_mut().cast();
                let status = ffi_prep_closure_loc(memory, cif, Some(handler), data, code);
                assert_eq!(status, ffi_status_FFI_OK);
                Self { memory, code }
            }
        }
    }

    impl Drop for Closure {
        fn drop(&mut self) {
            // SAFETY: allocated by `new`; nobody calls it any more.
            unsafe { ffi_closure_free(self.memory.cast()) };
        }
    }
}
