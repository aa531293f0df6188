//! The work: every handler, whatever its way, counts its calls in memory of its own and returns the sum of its
//! arguments.

use std::cell::UnsafeCell;
use std::ffi::c_void;

use calltable::table::FrameHandler;
use calltable::{Convention, RawFrame, Signature, Type};

use crate::contenders::Made;

/// What each handler counts its calls in: 8 bytes, on i686 4.
#[repr(transparent)]
pub struct Count(UnsafeCell<usize>);

// SAFETY: those of one callback are counted by one thread at a time: each thread here has callbacks of its own.
unsafe impl Sync for Count {}

impl Count {
    pub const fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    #[inline(always)]
    fn add(&self) {
        // SAFETY: no other thread counts here, and nobody keeps a reference to the number.
        unsafe { *self.0.get() = (*self.0.get()).wrapping_add(1) };
    }
}

/// A loop of the foreign side.
pub type Loop = unsafe extern "C" fn(*const *const c_void, usize, usize) -> f64;

/// Callbacks of one shape and contender, made anew at each call.
pub type Maker = Box<dyn FnMut() -> Made>;

#[cfg(feature = "rivals")]
pub type FfiType = *mut libffi_sys::ffi_type;

/// One signature, and what its handlers are in each way.
pub struct Shape {
    pub name: &'static str,
    /// Calls each pointer in turn; from further down.
    pub callers: &'static [(usize, Loop)],
    /// What one call returns.
    pub result: f64,
    /// A plain function.
    pub direct: *const c_void,
    pub positions: usize,
    pub signature: fn() -> Signature,
    /// Handlers: the direct lane's, in C; the frame lane's; one of the frame lane that keeps no register.
    pub in_c: *const c_void,
    pub frame: FrameHandler,
    pub frame_foreign: *const c_void,
    pub typed: fn(usize) -> Maker,
    pub exclusive: fn(usize) -> Maker,
    pub tracked: fn(usize) -> Maker,
    pub dynamic: fn(usize) -> Maker,
    #[cfg(feature = "rivals")]
    pub libffi: crate::contenders::libffi::Handler,
    #[cfg(feature = "rivals")]
    pub ffi_types: fn() -> (Vec<FfiType>, FfiType),
    #[cfg(feature = "rivals")]
    pub closure_ffi: fn(usize) -> Made,
}

/// A parameter's or result's type, seen from each way.
trait Scalar: calltable::Scalar {
    /// The argument at a position.
    unsafe fn read(frame: &RawFrame, position: usize) -> Self;
    fn store(self, frame: &mut RawFrame);
    #[cfg(feature = "rivals")]
    fn ffi_type() -> FfiType;
}

macro_rules! scalars {
    ($($ty:ident $ffi:ident |$frame:ident, $position:ident| $read:expr, |$value:ident| $bits:expr;)*) => { $(
        impl Scalar for $ty {
            #[inline(always)]
            unsafe fn read($frame: &RawFrame, $position: usize) -> Self {
                // SAFETY: by the caller's promise there is that argument.
                unsafe { $read }
            }
            #[inline(always)]
            fn store(self, frame: &mut RawFrame) {
                let $value = self;
                frame.result[0] = $bits;
            }
            #[cfg(feature = "rivals")]
            fn ffi_type() -> FfiType {
                (&raw const libffi_sys::$ffi).cast_mut()
            }
        }
    )* };
}

#[cfg(target_arch = "x86_64")]
scalars! {
    isize ffi_type_sint64 |frame, position| word(frame, position) as isize, |value| value as u64;
    i32 ffi_type_sint32 |frame, position| word(frame, position) as i32, |value| value as u64;
    f64 ffi_type_double |frame, position| f64::from_bits(float(frame, position)), |value| value.to_bits();
    f32 ffi_type_float |frame, position| f32::from_bits(float(frame, position) as u32), |value| value.to_bits().into();
}

#[cfg(target_arch = "x86")]
scalars! {
    isize ffi_type_sint32 |frame, position| word(frame, position) as isize, |value| value as u32;
}

/// The bits of a floating-point argument.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn float(frame: &RawFrame, position: usize) -> u64 {
    if position < 4 {
        frame.floats[position]
    } else {
        // SAFETY: by the caller's promise there is that argument.
        unsafe { word(frame, position) }
    }
}

#[cfg(target_arch = "x86_64")]
type Position = u64;
#[cfg(target_arch = "x86")]
type Position = u32;

/// An argument position. Each is read by itself, as by an interpreter: a compiler that adds up two neighbours by one
/// instruction has the processor wait until both have left its store buffer, and that wait would be measured.
#[inline(always)]
unsafe fn word(frame: &RawFrame, position: usize) -> Position {
    // SAFETY: by the caller's promise there is that argument.
    unsafe { frame.arguments.add(position).read_volatile() }
}

/// Conventions: the callback's; that of handlers which keep no register.
macro_rules! shapes {
    ($abi:literal $foreign:literal $($name:ident [$($depth:literal $caller:ident),*] $in_c:ident
        ($($p:ident: $P:ty = $position:literal),*) -> $R:ty = $result:literal, $sum:expr;)*
    ) => {
        unsafe extern "C" {
            $($(fn $caller(codes: *const *const c_void, slots: usize, passes: usize) -> f64;)*)*
        }
        unsafe extern $abi {
            $(fn $in_c($($p: $P,)* count: *mut usize) -> $R;)*
        }

        /// All shapes.
        pub static SHAPES: &[Shape] = &[$($name::SHAPE),*];

        $(mod $name {
            use super::*;
            use calltable::{Callback, Dynamic, Frame, Options};

            type Function = unsafe extern $abi fn($($P),*) -> $R;

            #[inline(always)]
            #[allow(clippy::too_many_arguments, reason = "a shape's, and the count")]
            fn work(count: &Count, $($p: $P),*) -> $R {
                count.add();
                $sum
            }

            extern $abi fn direct($($p: $P),*) -> $R {
                static COUNT: Count = Count::new();
                work(&COUNT, $($p),*)
            }

            #[inline(always)]
            unsafe fn work_on_frame(data: *mut c_void, frame: *mut RawFrame) {
                // SAFETY: the data is a count; the frame is that of a call of this shape.
                unsafe {
                    let frame = &mut *frame;
                    work(&*data.cast::<Count>(), $(<$P>::read(frame, $position)),*).store(frame);
                }
            }

            unsafe extern "efiapi" fn frame(data: *mut c_void, frame: *mut RawFrame) {
                // SAFETY: called by the frame lane.
                unsafe { work_on_frame(data, frame) }
            }

            unsafe extern $foreign fn frame_foreign(data: *mut c_void, frame: *mut RawFrame) {
                // SAFETY: called by the frame lane.
                unsafe { work_on_frame(data, frame) }
            }

            fn signature() -> Signature {
                let parameters: &[Type] = &[$(<$P as calltable::Scalar>::TYPE),*];
                let result = Some(<$R as calltable::Scalar>::TYPE);
                Signature::new(Convention::NATIVE, parameters, result).expect("a good signature")
            }

            /// Closures that live as long as the program.
            fn closures(count: usize) -> &'static mut [impl Fn($($P),*) -> $R + Send + Sync + use<>] {
                let closure = |_| {
                    let count = Count::new();
                    move |$($p: $P),*| work(&count, $($p),*)
                };
                Vec::leak((0..count).map(closure).collect())
            }

            fn typed(count: usize) -> Maker {
                let closures = &*closures(count);
                Box::new(|| Made::of(closures.iter().map(|closure| {
                    let callback = Callback::<Function>::from_ref(closure).expect("a free slot");
                    (callback.code() as *const c_void, callback)
                })))
            }

            fn exclusive(count: usize) -> Maker {
                let closures: *mut [_] = closures(count);
                Box::new(move || {
                    // SAFETY: the closures live for ever; callbacks made before have been dropped when this is called.
                    let closures = unsafe { &mut *closures };
                    Made::of(closures.iter_mut().map(|closure| {
                        let callback = Callback::<Function>::from_mut(closure).expect("a free slot");
                        (callback.code() as *const c_void, callback)
                    }))
                })
            }

            fn tracked(count: usize) -> Maker {
                let closures = &*closures(count);
                Box::new(|| Made::of(closures.iter().map(|closure| {
                    let options = Options::new().tracked();
                    let callback = Callback::<Function>::from_ref_with(options, closure).expect("a free slot");
                    (callback.code() as *const c_void, callback)
                })))
            }

            fn dynamic(count: usize) -> Maker {
                let handler = |_| {
                    let count = Count::new();
                    Dynamic::new(signature(), move |frame: &mut Frame<'_>| {
                        let result = work(&count, $(frame.get::<$P>($position).expect("of that type")),*);
                        frame.set_result(result).expect("of that type");
                    })
                };
                let handlers: &[_] = Vec::leak((0..count).map(handler).collect());
                Box::new(|| Made::of(handlers.iter().map(|handler| {
                    let callback = Callback::from_dynamic(handler).expect("a free slot");
                    (callback.code().as_ptr(), callback)
                })))
            }

            #[cfg(feature = "rivals")]
            fn closure_ffi(count: usize) -> Made {
                use closure_ffi::BareFnSync;
                // Its own list of pointer types has this convention on Windows only.
                closure_ffi::bare_hrtb! { type Bare = unsafe extern $abi fn($($P),*) -> $R; }
                Made::of((0..count).map(|_| {
                    let count = Count::new();
                    let bare = BareFnSync::<Bare>::new(move |$($p: $P),*| work(&count, $($p),*));
                    (bare.bare().0 as *const c_void, bare)
                }))
            }

            #[cfg(feature = "rivals")]
            unsafe extern "C" fn libffi(
                _: *mut libffi_sys::ffi_cif,
                result: *mut c_void,
                _arguments: *mut *mut c_void,
                data: *mut c_void,
            ) {
                // SAFETY: libffi passes the addresses of the result and of as many arguments as the shape has; the data
                // is a count.
                unsafe {
                    let count = &*data.cast::<Count>();
                    result.cast::<$R>().write(work(count, $((*_arguments.add($position)).cast::<$P>().read()),*));
                }
            }

            pub const SHAPE: Shape = Shape {
                name: stringify!($name),
                callers: &[$(($depth, $caller)),*],
                result: $result,
                direct: direct as *const c_void,
                positions: <[&str]>::len(&[$(stringify!($p)),*]),
                signature,
                in_c: $in_c as *const c_void,
                frame,
                frame_foreign: frame_foreign as *const c_void,
                typed,
                exclusive,
                tracked,
                dynamic,
                #[cfg(feature = "rivals")]
                libffi,
                #[cfg(feature = "rivals")]
                ffi_types: || (vec![$(<$P as Scalar>::ffi_type()),*], <$R as Scalar>::ffi_type()),
                #[cfg(feature = "rivals")]
                closure_ffi,
            };
        })*
    };
}

// SAFETY: what its pointers point to is code.
unsafe impl Sync for Shape {}

#[cfg(target_arch = "x86_64")]
shapes! { "win64" "sysv64"
    int0 [1 loop_int0] handler_int0 () -> isize = 0.0, 0;
    int2 [1 loop_int2] handler_int2 (a: isize = 0, b: isize = 1) -> isize = 3.0, a + b;
    int4 [1 loop_int4, 3 loop_int4_depth3, 12 loop_int4_depth12] handler_int4
        (a: isize = 0, b: isize = 1, c: isize = 2, d: isize = 3) -> isize = 10.0, a + b + c + d;
    int8 [1 loop_int8] handler_int8
        (a: isize = 0, b: isize = 1, c: isize = 2, d: isize = 3, e: isize = 4, f: isize = 5, g: isize = 6, h: isize = 7)
        -> isize = 36.0, a + b + c + d + e + f + g + h;
    double4 [1 loop_double4] handler_double4
        (a: f64 = 0, b: f64 = 1, c: f64 = 2, d: f64 = 3) -> f64 = 10.0, a + b + c + d;
    mixed12 [1 loop_mixed12] handler_mixed12
        (a: isize = 0, b: f64 = 1, c: i32 = 2, d: f32 = 3, e: isize = 4, f: f64 = 5, g: i32 = 6, h: f32 = 7,
        i: isize = 8, j: f64 = 9, k: i32 = 10, l: f32 = 11)
        -> f64 = 78.0,
        (a + c as isize + e + g as isize + i + k as isize) as f64 + (b + f + j) + f64::from(d + h + l);
}

#[cfg(target_arch = "x86")]
shapes! { "stdcall" "cdecl"
    int0 [1 loop_int0] handler_int0 () -> isize = 0.0, 0;
    int2 [1 loop_int2] handler_int2 (a: isize = 0, b: isize = 1) -> isize = 3.0, a + b;
    int4 [1 loop_int4, 3 loop_int4_depth3, 12 loop_int4_depth12] handler_int4
        (a: isize = 0, b: isize = 1, c: isize = 2, d: isize = 3) -> isize = 10.0, a + b + c + d;
    int8 [1 loop_int8] handler_int8
        (a: isize = 0, b: isize = 1, c: isize = 2, d: isize = 3, e: isize = 4, f: isize = 5, g: isize = 6, h: isize = 7)
        -> isize = 36.0, a + b + c + d + e + f + g + h;
}
