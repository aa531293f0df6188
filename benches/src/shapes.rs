//! The work: every handler, whatever its way, counts its calls in memory of its own and returns the sum of its
//! arguments.

use std::cell::UnsafeCell;
use std::ffi::c_void;

use calltable::table::FrameHandler;
use calltable::{Convention, RawFrame, Signature, Type};

use crate::contenders::{Code, Made, Prepare, prepared, put, size_of_result};
use crate::rounds::Random;

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
    pub fn add(&self, step: usize) {
        // SAFETY: no other thread counts here, and nobody keeps a reference to the number.
        unsafe { *self.0.get() = (*self.0.get()).wrapping_add(step) };
    }
}

/// How many slots are called in turn, and how many different handlers they have.
#[derive(Clone, Copy)]
pub struct Slots {
    pub count: usize,
    pub handlers: usize,
    /// Whether the handlers are dealt to the slots in a random order, the same for all contenders, or in turn. In turn,
    /// the last handlers tell a processor the next; else only the slot does.
    pub shuffled: bool,
}

impl Slots {
    /// So many, with one handler for all.
    pub const fn alike(count: usize) -> Self {
        Self { count, handlers: 1, shuffled: false }
    }

    /// The handler of each slot, of a list of those that there are. Each is dealt as often as any other.
    pub fn deal<T: Copy>(self, all: &[T]) -> impl Iterator<Item = T> {
        let mut dealt: Vec<T> = all[..self.handlers].iter().copied().cycle().take(self.count).collect();
        if self.shuffled {
            Random::default().shuffle(&mut dealt);
        }
        dealt.into_iter()
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
    /// Plain functions.
    pub direct: &'static [Code],
    pub positions: usize,
    pub signature: fn() -> Signature,
    /// Handlers: the direct lane's, of which the first is in C; the frame lane's; those that keep no register.
    pub in_c: &'static [Code],
    pub frame: &'static [FrameHandler],
    pub frame_foreign: &'static [Code],
    pub typed: fn(Slots) -> Maker,
    pub exclusive: fn(Slots) -> Maker,
    pub tracked: fn(Slots) -> Maker,
    pub dynamic: fn(Slots) -> Maker,
    #[cfg(feature = "rivals")]
    pub libffi: &'static [crate::contenders::libffi::Handler],
    #[cfg(feature = "rivals")]
    pub ffi_types: fn() -> (Vec<FfiType>, FfiType),
    #[cfg(feature = "rivals")]
    pub closure_ffi: fn(Slots) -> Made,
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

/// How many different handlers the shape of 4 integers has. What each of them adds to its count when it is called is
/// its own, or the compiler would make one function of all; it takes the same time.
pub const HANDLERS: usize = if cfg!(feature = "handlers") { 2000 } else { 1 };

/// A list of one function: the handler that counts by 1.
macro_rules! one {
    ($first:expr; $generic:ident as $Type:ty) => {
        &[$first as $Type]
    };
}

/// A list of as many as [`HANDLERS`], instances of a generic function but for the first.
macro_rules! many {
    ($first:expr; $generic:ident as $Type:ty) => {{
        #[cfg(feature = "handlers")]
        seq_macro::seq!(STEP in 2..=2000 {
            const ALL: &[$Type; HANDLERS] = &[$first as $Type, #($generic::<STEP> as $Type,)*];
        });
        #[cfg(not(feature = "handlers"))]
        const ALL: &[$Type; HANDLERS] = one!($first; $generic as $Type);
        ALL
    }};
}

/// Conventions: the callback's; that of handlers which keep no register. Each shape has `one` handler or `many`.
macro_rules! shapes {
    ($abi:literal $foreign:literal $($handlers:ident $name:ident [$($depth:literal $caller:ident),*] $in_c:ident
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

        $(
        #[allow(clippy::too_many_arguments, reason = "a shape's, and the count")]
        mod $name {
            use super::*;
            use calltable::{Callback, CodePointer, Dynamic, Error, Frame, Options};

            type OfDynamic = Callback<'static, CodePointer>;
            type Typed = Callback<'static, unsafe extern $abi fn($($P),*) -> $R>;
            #[cfg(feature = "rivals")]
            type Bare = closure_ffi::BareFnSync<'static, BareFunction>;
            // Its own list of pointer types has this convention on Windows only.
            #[cfg(feature = "rivals")]
            closure_ffi::bare_hrtb! { type BareFunction = unsafe extern $abi fn($($P),*) -> $R; }

            #[inline(always)]
            fn work(count: &Count, step: usize, $($p: $P),*) -> $R {
                count.add(step);
                $sum
            }

            extern $abi fn direct<const STEP: usize>($($p: $P),*) -> $R {
                static COUNTS: [Count; HANDLERS] = [const { Count::new() }; HANDLERS];
                work(&COUNTS[STEP - 1], STEP, $($p),*)
            }

            /// As those in C, of which there is one.
            #[allow(dead_code, reason = "not called where there is one handler")]
            unsafe extern $abi fn like_c<const STEP: usize>($($p: $P,)* count: *const Count) -> $R {
                // SAFETY: the data is a count.
                work(unsafe { &*count }, STEP, $($p),*)
            }

            #[inline(always)]
            unsafe fn work_on_frame(data: *mut c_void, step: usize, frame: *mut RawFrame) {
                // SAFETY: the data is a count; the frame is that of a call of this shape.
                unsafe {
                    let frame = &mut *frame;
                    work(&*data.cast::<Count>(), step, $(<$P>::read(frame, $position)),*).store(frame);
                }
            }

            unsafe extern "efiapi" fn frame<const STEP: usize>(data: *mut c_void, frame: *mut RawFrame) {
                // SAFETY: called by the frame lane.
                unsafe { work_on_frame(data, STEP, frame) }
            }

            unsafe extern $foreign fn frame_foreign<const STEP: usize>(data: *mut c_void, frame: *mut RawFrame) {
                // SAFETY: called by the frame lane.
                unsafe { work_on_frame(data, STEP, frame) }
            }

            fn signature() -> Signature {
                let parameters: &[Type] = &[$(<$P as calltable::Scalar>::TYPE),*];
                let result = Some(<$R as calltable::Scalar>::TYPE);
                Signature::new(Convention::NATIVE, parameters, result).expect("a good signature")
            }

            /// A closure of a type of its own.
            fn closure<const STEP: usize>() -> impl Fn($($P),*) -> $R + Send + Sync {
                let count = Count::new();
                move |$($p: $P),*| work(&count, STEP, $($p),*)
            }

            unsafe fn typed<const STEP: usize>(place: *mut u8) -> Result<Typed, Error> {
                // SAFETY: by the caller's promise.
                Callback::from_ref(unsafe { put(place, closure::<STEP>()) })
            }

            unsafe fn exclusive<const STEP: usize>(place: *mut u8) -> Result<Typed, Error> {
                // SAFETY: by the caller's promise.
                Callback::from_mut(unsafe { put(place, closure::<STEP>()) })
            }

            unsafe fn tracked<const STEP: usize>(place: *mut u8) -> Result<Typed, Error> {
                // SAFETY: by the caller's promise.
                Callback::from_ref_with(Options::new().tracked(), unsafe { put(place, closure::<STEP>()) })
            }

            /// A handler of a type of its own.
            fn dynamic_handler<const STEP: usize>() -> Dynamic<impl Fn(&mut Frame<'_>) + Sync> {
                let count = Count::new();
                Dynamic::new(signature(), move |frame: &mut Frame<'_>| {
                    let result = work(&count, STEP, $(frame.get::<$P>($position).expect("of that type")),*);
                    frame.set_result(result).expect("of that type");
                })
            }

            unsafe fn dynamic<const STEP: usize>(place: *mut u8) -> Result<OfDynamic, Error> {
                // SAFETY: by the caller's promise.
                Callback::from_dynamic(unsafe { put(place, dynamic_handler::<STEP>()) })
            }

            fn code(callback: &Typed) -> Code {
                callback.code() as Code
            }

            #[cfg(feature = "rivals")]
            fn closure_ffi<const STEP: usize>() -> Bare {
                Bare::new(closure::<STEP>())
            }

            #[cfg(feature = "rivals")]
            unsafe extern "C" fn libffi<const STEP: usize>(
                _: *mut libffi_sys::ffi_cif,
                result: *mut c_void,
                _arguments: *mut *mut c_void,
                data: *mut c_void,
            ) {
                // SAFETY: libffi passes the addresses of the result and of as many arguments as the shape has; the data
                // is a count.
                unsafe {
                    let count = &*data.cast::<Count>();
                    result.cast::<$R>().write(work(count, STEP, $((*_arguments.add($position)).cast::<$P>().read()),*));
                }
            }

            pub const SHAPE: Shape = Shape {
                name: stringify!($name),
                callers: &[$(($depth, $caller)),*],
                result: $result,
                direct: $handlers!(direct::<1>; direct as Code),
                positions: <[&str]>::len(&[$(stringify!($p)),*]),
                signature,
                in_c: $handlers!($in_c; like_c as Code),
                frame: $handlers!(frame::<1>; frame as FrameHandler),
                frame_foreign: $handlers!(frame_foreign::<1>; frame_foreign as Code),
                typed: |slots| {
                    let all: &[Prepare<Typed>] = $handlers!(typed::<1>; typed as Prepare<Typed>);
                    // SAFETY: these put a closure of that size there.
                    unsafe { prepared(slots, all, size_of_result(closure::<1>), code) }
                },
                exclusive: |slots| {
                    let all: &[Prepare<Typed>] = $handlers!(exclusive::<1>; exclusive as Prepare<Typed>);
                    // SAFETY: these put a closure of that size there.
                    unsafe { prepared(slots, all, size_of_result(closure::<1>), code) }
                },
                tracked: |slots| {
                    let all: &[Prepare<Typed>] = $handlers!(tracked::<1>; tracked as Prepare<Typed>);
                    // SAFETY: these put a closure of that size there.
                    unsafe { prepared(slots, all, size_of_result(closure::<1>), code) }
                },
                dynamic: |slots| {
                    let all: &[Prepare<OfDynamic>] = $handlers!(dynamic::<1>; dynamic as Prepare<OfDynamic>);
                    let size = size_of_result(dynamic_handler::<1>);
                    // SAFETY: these put a handler of that size there.
                    unsafe { prepared(slots, all, size, |callback| callback.code().as_ptr()) }
                },
                #[cfg(feature = "rivals")]
                libffi: $handlers!(libffi::<1>; libffi as crate::contenders::libffi::Handler),
                #[cfg(feature = "rivals")]
                ffi_types: || (vec![$(<$P as Scalar>::ffi_type()),*], <$R as Scalar>::ffi_type()),
                #[cfg(feature = "rivals")]
                closure_ffi: |slots| {
                    let all: &[fn() -> Bare] = $handlers!(closure_ffi::<1>; closure_ffi as fn() -> Bare);
                    Made::of(slots.deal(all).map(|make| {
                        let bare = make();
                        (bare.bare().0 as Code, bare)
                    }))
                },
            };
        })*
    };
}

/// The shape with 4 integers, which most is measured with.
pub fn int4() -> &'static Shape {
    SHAPES.iter().find(|shape| shape.name == "int4").expect("there is that shape")
}

// SAFETY: what its pointers point to is code.
unsafe impl Sync for Shape {}

#[cfg(target_arch = "x86_64")]
shapes! { "win64" "sysv64"
    one int0 [1 loop_int0] handler_int0 () -> isize = 0.0, 0;
    one int2 [1 loop_int2] handler_int2 (a: isize = 0, b: isize = 1) -> isize = 3.0, a + b;
    many int4 [1 loop_int4, 3 loop_int4_depth3, 12 loop_int4_depth12] handler_int4
        (a: isize = 0, b: isize = 1, c: isize = 2, d: isize = 3) -> isize = 10.0, a + b + c + d;
    one int8 [1 loop_int8] handler_int8
        (a: isize = 0, b: isize = 1, c: isize = 2, d: isize = 3, e: isize = 4, f: isize = 5, g: isize = 6, h: isize = 7)
        -> isize = 36.0, a + b + c + d + e + f + g + h;
    one double4 [1 loop_double4] handler_double4
        (a: f64 = 0, b: f64 = 1, c: f64 = 2, d: f64 = 3) -> f64 = 10.0, a + b + c + d;
    one mixed12 [1 loop_mixed12] handler_mixed12
        (a: isize = 0, b: f64 = 1, c: i32 = 2, d: f32 = 3, e: isize = 4, f: f64 = 5, g: i32 = 6, h: f32 = 7,
        i: isize = 8, j: f64 = 9, k: i32 = 10, l: f32 = 11)
        -> f64 = 78.0,
        (a + c as isize + e + g as isize + i + k as isize) as f64 + (b + f + j) + f64::from(d + h + l);
}

#[cfg(target_arch = "x86")]
shapes! { "stdcall" "cdecl"
    one int0 [1 loop_int0] handler_int0 () -> isize = 0.0, 0;
    one int2 [1 loop_int2] handler_int2 (a: isize = 0, b: isize = 1) -> isize = 3.0, a + b;
    many int4 [1 loop_int4, 3 loop_int4_depth3, 12 loop_int4_depth12] handler_int4
        (a: isize = 0, b: isize = 1, c: isize = 2, d: isize = 3) -> isize = 10.0, a + b + c + d;
    one int8 [1 loop_int8] handler_int8
        (a: isize = 0, b: isize = 1, c: isize = 2, d: isize = 3, e: isize = 4, f: isize = 5, g: isize = 6, h: isize = 7)
        -> isize = 36.0, a + b + c + d + e + f + g + h;
}
