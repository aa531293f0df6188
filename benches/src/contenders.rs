//! The ways to make function pointers of closures, or of handlers and data.

use std::any::Any;
use std::ffi::c_void;

use calltable::Convention;
use calltable::table::{self, Binding, SlotKey};

use crate::shapes::{Count, Maker, Shape};

/// Function pointers, and what must live as long as they are called.
pub struct Made {
    pub codes: Vec<*const c_void>,
    _owner: Box<dyn Any>,
}

impl Made {
    pub fn of<T: 'static>(each: impl Iterator<Item = (*const c_void, T)>) -> Self {
        let (codes, owners): (Vec<_>, Vec<T>) = each.unzip();
        Self { codes, _owner: Box::new(owners) }
    }
}

/// One way.
#[derive(Clone, Copy)]
pub struct Contender {
    pub name: &'static str,
    make: Make,
    /// Shapes that it is written for.
    serves: fn(&Shape) -> bool,
}

#[derive(Clone, Copy)]
enum Make {
    /// For each sample, and released after it: the crate's table has not room for all cases at once.
    Anew(fn(&'static Shape, usize) -> Maker),
    /// Once.
    Once(fn(&'static Shape, usize) -> Made),
}

impl Contender {
    /// Callbacks for each sample, made when that is called, or before.
    pub fn source(&self, shape: &'static Shape, slots: usize) -> Option<Source> {
        (self.serves)(shape).then(|| match self.make {
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
    pub fn with<T>(&mut self, use_them: impl FnOnce(&[*const c_void]) -> T) -> T {
        match self {
            Self::Maker(maker) => use_them(&maker().codes),
            Self::Made(made) => use_them(&made.codes),
        }
    }
}

/// All that this build has.
pub const CONTENDERS: &[Contender] = &[
    once("direct", |shape, slots| Made::of((0..slots).map(|_| (shape.direct, ())))),
    anew("typed", |shape, slots| (shape.typed)(slots)),
    anew("exclusive", |shape, slots| (shape.exclusive)(slots)),
    anew("tracked", |shape, slots| (shape.tracked)(slots)),
    anew("direct_c", |shape, slots| {
        // SAFETY: the handler is one for the shape and a count.
        registered(slots, |count| unsafe { Binding::direct(Convention::NATIVE, shape.in_c, shape.positions, count) })
    }),
    anew("frame", |shape, slots| {
        let signature = (shape.signature)();
        // SAFETY: the handler is one for the signature and a count.
        registered(slots, move |count| unsafe { Binding::frame(shape.frame, &signature, count) })
    }),
    anew("full_save", |shape, slots| {
        let signature = (shape.signature)();
        // SAFETY: the handler is one for the signature and a count.
        registered(slots, move |count| unsafe { Binding::frame_foreign(shape.frame_foreign, &signature, count) })
    }),
    anew("dynamic", |shape, slots| (shape.dynamic)(slots)),
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Contender { serves: assembly::serves, ..once("functions", assembly::functions) },
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Contender { serves: assembly::serves, ..once("call_ret", assembly::call_ret) },
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Contender { serves: assembly::serves, ..once("mov_jmp", assembly::mov_jmp) },
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Contender { serves: assembly::serves, ..once("ancestor", assembly::ancestor) },
    #[cfg(feature = "rivals")]
    once("closure_ffi", |shape, slots| (shape.closure_ffi)(slots)),
    #[cfg(feature = "rivals")]
    once("libffi", libffi::make),
];

/// A contender by its name.
pub fn named(name: &str) -> &'static Contender {
    CONTENDERS.iter().find(|contender| contender.name == name).unwrap_or_else(|| panic!("no contender {name:?}"))
}

const fn anew(name: &'static str, make: fn(&'static Shape, usize) -> Maker) -> Contender {
    Contender { name, make: Make::Anew(make), serves: |_| true }
}

const fn once(name: &'static str, make: fn(&'static Shape, usize) -> Made) -> Contender {
    Contender { name, make: Make::Once(make), serves: |_| true }
}

fn registered(slots: usize, binding: impl Fn(*mut c_void) -> Binding + 'static) -> Maker {
    let counts = counts(slots);
    Box::new(move || {
        Made::of(counts.iter().map(|count| {
            let key = table::register(&binding((&raw const *count).cast_mut().cast())).expect("a free slot");
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
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod assembly {
    use super::*;

    const CAPACITY: usize = 2000;

    unsafe extern "C" {
        static bench_ancestor_table: [[u8; 5]; CAPACITY];
        static mut bench_ancestor_contexts: [Context; CAPACITY];
        static bench_call_ret_table: [[u8; 16]; CAPACITY];
        static mut bench_call_ret_contexts: [Context; CAPACITY];
        static bench_functions: [[u8; 32]; CAPACITY];
        static bench_mov_jmp_table: [[u8; 16]; CAPACITY];
        static mut bench_mov_jmp_contexts: [Context; CAPACITY];
    }

    /// Handler and data.
    #[repr(C)]
    struct Context(*const c_void, *const Count);

    pub fn serves(shape: &Shape) -> bool {
        shape.name == "int4"
    }

    pub fn functions(_: &'static Shape, slots: usize) -> Made {
        // SAFETY: code is never written.
        let functions = unsafe { &bench_functions };
        Made::of(functions[..slots].iter().map(|function| ((&raw const *function).cast(), ())))
    }

    pub fn ancestor(shape: &'static Shape, slots: usize) -> Made {
        // SAFETY: the table is in ancestor.S, with as many entries as contexts.
        unsafe { make(shape, slots, &bench_ancestor_table, &raw mut bench_ancestor_contexts) }
    }

    pub fn call_ret(shape: &'static Shape, slots: usize) -> Made {
        // SAFETY: the table is in call_ret.S, with as many entries as contexts.
        unsafe { make(shape, slots, &bench_call_ret_table, &raw mut bench_call_ret_contexts) }
    }

    pub fn mov_jmp(shape: &'static Shape, slots: usize) -> Made {
        // SAFETY: the table is in mov_jmp.S, with as many entries as contexts.
        unsafe { make(shape, slots, &bench_mov_jmp_table, &raw mut bench_mov_jmp_contexts) }
    }

    /// # Safety
    /// The table must be one whose contexts these are.
    unsafe fn make<Entry>(
        shape: &Shape,
        slots: usize,
        table: &'static [Entry; CAPACITY],
        contexts: *mut [Context; CAPACITY],
    ) -> Made {
        let each = table.iter().zip(counts(slots)).enumerate().map(|(slot, (entry, count))| {
            // SAFETY: there are as many contexts as entries; no call runs.
            unsafe { (*contexts)[slot] = Context(shape.in_c, count) };
            ((&raw const *entry).cast(), ())
        });
        Made::of(each)
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

    pub fn make(shape: &'static Shape, slots: usize) -> Made {
        let cif = cif(shape);
        Made::of(counts(slots).iter().map(|count| {
            let closure = Closure::new(shape, cif, count);
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
        pub fn new(shape: &Shape, cif: *mut ffi_cif, count: &'static Count) -> Self {
            let mut code = null_mut();
            // SAFETY: the closure is written to memory of its size.
            unsafe {
                let memory = ffi_closure_alloc(size_of::<ffi_closure>(), &mut code).cast::<ffi_closure>();
                assert!(!memory.is_null(), "no memory for a closure of libffi");
                let data = (&raw const *count).cast_mut().cast();
                let status = ffi_prep_closure_loc(memory, cif, Some(shape.libffi), data, code);
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
