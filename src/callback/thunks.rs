//! What a dispatcher calls for a typed callback: a thunk, which is a function of the callback's own convention,
//! parameters and result, with the data after its parameters.
//!
//! The compiler makes one for each type of function pointer and each closure. Here are the traits that name it, so that
//! constructors, and code of others, need not know the number of parameters; and the macro that implements them for
//! each number and convention:
//!
//! | trait | thunk of |
//! | --- | --- |
//! | [`HandledBy`] | a closure that several calls may use at once |
//! | [`HandledByMut`] | a closure that one call at a time may change |
//! | [`HandledByOnce`] | a closure that one call takes |
//! | [`HandledWith`] | a function, with data that it borrows |
//! | `FunctionPointer::answering` | the value that a policy gives for an exception |
//!
//! A thunk of a type whose ABI ends in "-unwind" has that ABI, too, so that a panic passes. Types of one convention
//! share what they can, since what the compiler has to look at here, everybody's builds wait for.

use core::ffi::c_void;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use super::pointer::sealed;
use super::{FunctionPointer, Method};
use crate::abi::{self, Shape};
use crate::entry::CodePointer;

/// A type of function pointer whose calls a closure `C` can serve, several at once: `C` is an `Fn` of the same
/// parameters and result. It is what [`Callback::from_ref`](super::Callback::from_ref) asks for, and so generic code
/// over function pointers.
///
/// `Ways` tells how the target passes the types; the compiler finds it. It is `()` but on targets whose floating-point
/// registers are off (such as `x86_64-unknown-none` and those of UEFI), where it keeps such numbers out.
///
/// ```
/// use calltable::{Callback, Error, HandledBy};
///
/// /// Has a foreign function call a closure, whatever the function's type.
/// fn with<F, C, Ways, T>(closure: C, foreign: impl FnOnce(F) -> T) -> Result<T, Error>
/// where
///     F: HandledBy<C, Ways>,
///     C: Sync,
/// {
///     let callback = Callback::<F>::from_ref(&closure)?;
///     Ok(foreign(callback.code()))
/// }
///
/// type Compare = unsafe extern "efiapi" fn(i32, i32) -> i32;
/// // SAFETY: the callback lives while the function that gets the pointer runs.
/// assert_eq!(with::<Compare, _, _, _>(|left, right| left - right, |compare| unsafe { compare(44, 2) })?, 42);
/// # Ok::<(), Error>(())
/// ```
///
/// # Safety
/// The thunk must be one that serves calls of the function pointer. Nobody but this crate can know, so nobody else
/// implements it.
#[diagnostic::on_unimplemented(
    message = "`{C}` cannot serve calls of `{Self}`",
    label = "not called like this",
    note = "a callback's closure has the function pointer's parameters and result"
)]
pub unsafe trait HandledBy<C, Ways = ()>: FunctionPointer + sealed::Typed {
    #[doc(hidden)]
    fn thunk<D: Holds<Self::Result, Closure = C>>(shape: Shape) -> *const c_void;
}

/// A type of function pointer whose calls a closure `C` can serve, one at a time: `C` is an `FnMut` of the same
/// parameters and result. As [`HandledBy`], for [`Callback::from_mut`](super::Callback::from_mut).
///
/// # Safety
/// As for [`HandledBy`].
#[diagnostic::on_unimplemented(
    message = "`{C}` cannot serve calls of `{Self}`",
    label = "not called like this",
    note = "a callback's closure has the function pointer's parameters and result"
)]
pub unsafe trait HandledByMut<C, Ways = ()>: FunctionPointer + sealed::Typed {
    #[doc(hidden)]
    fn thunk<D: Holds<Self::Result, Closure = C>>(shape: Shape) -> *const c_void;
}

/// A type of function pointer one call of which a closure `C` can serve: `C` is an `FnOnce` of the same parameters and
/// result. As [`HandledBy`], for `Callback::once`.
///
/// # Safety
/// As for [`HandledBy`].
#[diagnostic::on_unimplemented(
    message = "`{C}` cannot serve a call of `{Self}`",
    label = "not called like this",
    note = "a callback's closure has the function pointer's parameters and result"
)]
pub unsafe trait HandledByOnce<C, Ways = ()>: FunctionPointer + sealed::Typed {
    #[doc(hidden)]
    fn thunk<D: Holds<Self::Result, Closure = C>>(shape: Shape) -> *const c_void;
}

/// A type of function pointer whose calls a function `H` can serve that gets data first: `H` is an `Fn(&T, ...)` with
/// the same other parameters and result. As [`HandledBy`], for [`Callback::from_fn`](super::Callback::from_fn).
///
/// # Safety
/// As for [`HandledBy`].
#[diagnostic::on_unimplemented(
    message = "`{H}` cannot serve calls of `{Self}` with a `&{T}` before the arguments",
    label = "not called like this",
    note = "a callback's function takes a reference to the data, then the function pointer's parameters, and has its \
            result"
)]
pub unsafe trait HandledWith<T, H, Ways = ()>: FunctionPointer + sealed::Typed {
    #[doc(hidden)]
    fn thunk(shape: Shape) -> *const c_void;
}

/// A pointer that may be null is called as one that may not. The arguments: the trait, with its parameters; those of
/// the thunk, which the dispatcher finds in the same way.
macro_rules! or_null {
    ($Handled:ident<$($parameters:ident),*> $(, $Data:ident: $Closure:ident)?) => {
        // SAFETY: the thunk is one of `F`, and serves the same calls.
        unsafe impl<$($parameters,)* Ways, F: $Handled<$($parameters,)* Ways>> $Handled<$($parameters,)* Ways>
            for Option<F>
        {
            fn thunk$(<$Data: Holds<Self::Result, Closure = $Closure>>)?(shape: Shape) -> *const c_void {
                F::thunk$(::<$Data>)?(shape)
            }
        }
    };
}
or_null!(HandledBy<C>, D: C);
or_null!(HandledByMut<C>, D: C);
or_null!(HandledByOnce<C>, D: C);
or_null!(HandledWith<T, H>);

/// What lies at the data of a thunk: a closure, by itself or with what surrounds its calls.
pub trait Holds<R> {
    /// The closure.
    type Closure;

    /// Has a call of the closure made, by `call`.
    ///
    /// # Safety
    /// `this` must live until the call of the closure begins, and as long as the call takes if the closure stays there;
    /// and `call` must be one for which the closure may be used.
    unsafe fn with(this: *mut Self, call: impl FnOnce(*mut Self::Closure) -> R) -> R;
}

/// A closure by itself.
#[repr(transparent)]
pub(super) struct Plain<C>(C);

impl<C, R> Holds<R> for Plain<C> {
    type Closure = C;

    #[inline(always)]
    unsafe fn with(this: *mut Self, call: impl FnOnce(*mut C) -> R) -> R {
        call(this.cast()) // it is transparent
    }
}

/// Refuses, when a callback is instantiated, what has no place in an argument position.
const fn assert_parameter<P>() {
    assert!(
        size_of::<P>() != 0,
        "calltable: a callback's parameter has no bytes; C has no such type, so leave the parameter out"
    );
}

/// A type that this target passes as foreign code does. Where it does not for floating-point numbers (it has no
/// registers for them, and foreign code passes them there), each of them has two ways, so that the compiler cannot tell
/// which is meant and refuses; all other types have the one.
#[cfg(soft_float)]
pub trait PassedAlike<Way> {}
/// For all types.
#[cfg(soft_float)]
#[derive(Debug)]
pub enum InRegistersOrMemory {}
/// In place of an explanation: a callback that takes or returns an `f32` or `f64` itself cannot be on this target.
#[cfg(soft_float)]
#[derive(Debug)]
pub enum NotByValueOnThisTargetPassAPointer {}
#[cfg(soft_float)]
impl<T> PassedAlike<InRegistersOrMemory> for T {}
#[cfg(soft_float)]
impl PassedAlike<NotByValueOnThisTargetPassAPointer> for f32 {}
#[cfg(soft_float)]
impl PassedAlike<NotByValueOnThisTargetPassAPointer> for f64 {}

/// Of functions whose types are passed alike, in these ways, whatever their convention.
pub trait AllPassedAlike<Ways> {}
#[cfg(not(soft_float))]
impl<F> AllPassedAlike<()> for F {}

/// Says so, for each number of parameters up to that. On i686 parameters are on the stack whatever their type: only
/// results differ.
#[cfg(soft_float)]
macro_rules! all_passed_alike {
    ($($P:ident $p:ident)*) => {
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        #[allow(non_camel_case_types, reason = "the ways are named as the parameters are")]
        impl<$($P: PassedAlike<$p>, $p,)* R, Way> AllPassedAlike<(Way, $($p,)*)> for fn($($P),*) -> R
        where
            R: PassedAlike<Way>,
        {
        }
        #[cfg(target_arch = "x86")]
        impl<$($P,)* R: PassedAlike<Way>, Way> AllPassedAlike<Way> for fn($($P),*) -> R {}
        all_passed_alike! { less $($P $p)* }
    };
    (less) => {};
    (less $A:ident $a:ident $($P:ident $p:ident)*) => {
        all_passed_alike! { $($P $p)* }
    };
}
#[cfg(soft_float)]
all_passed_alike! { A a B b D d E e G g I i J j K k L l M m N n O o P p Q q S s U u }

/// For one convention and one number of parameters, two types of function pointers: of functions and of methods.
/// `#[doc(hidden)]` hides them in the documentation; two stand for all there.
///
/// The arguments: what the type shares with that of another convention, for the compiler's sake; the convention, as the
/// type names it; the other one; the convention of the thunks, by the name that serves on every system; names for
/// parameters that thunks have more (`abi::handler`); the parameters, each a type and a name.
///
/// | shares | which is | and has of its own |
/// | --- | --- | --- |
/// | `nothing` | | all |
/// | `places` | the same but for "-unwind" | the thunks, which let a panic pass |
/// | `all` | another name for the same | nothing |
macro_rules! function_pointers {
    ([$shares:ident $abi:literal $other:literal $handler:tt] $pads:tt ($($P:ident $p:ident)*) $(#[$hidden:meta])?) => {
        served! {
            $shares unsafe extern $abi fn($($P),*) -> R, unsafe extern $other fn($($P),*) -> R,
            $handler $pads () ($($P $p)*) [] -> R, value => value; $(#[$hidden])?
        }
        function_pointers! { method $shares $abi $other $handler $pads ($($P $p)*) $(#[$hidden])? }
    };
    (method $shares:ident $abi:literal $other:literal $handler:tt $pads:tt () $(#[$hidden:meta])?) => {}; // no `this`
    (method $shares:ident $abi:literal $other:literal $handler:tt [$($pad:ident $($pads:ident)*)?]
        ($A:ident $a:ident $($P:ident $p:ident)*) $(#[$hidden:meta])?) => {
        served! {
            $shares Method<unsafe extern $abi fn($A, $($P),*) -> R>, Method<unsafe extern $other fn($A, $($P),*) -> R>,
            $handler [$($($pads)*)?] ($A $a) ($($P $p)*) [result] -> *mut R, value => {
                result.write(value);
                result
            }; $(#[$hidden])?
        }
    };
}

/// Implements everything for one type of function pointer.
///
/// The arguments: what the type shares; the type; the one that it shares that with; the convention of its thunks;
/// parameters that these have more; the parameters, of which a method's first one stands apart, for what follows it
/// there: `[result]`, the address for its result; what a thunk returns, and how that comes from the closure's value.
macro_rules! served {
    ($shares:ident $F:ty, $Other:ty,
        $handler:tt $pads:tt ($($A:ident $a:ident)?) ($($P:ident $p:ident)*) [$($address:ident)?]
        -> $Returned:ty, $value:ident => $returned:expr; $(#[$hidden:meta])?) => {
        impl<$($A,)? $($P,)* R> sealed::Sealed for $F {}

        $(#[$hidden])?
        impl<$($A,)? $($P,)* R> FunctionPointer for $F {
            type Result = R;

            unsafe fn from_code(code: CodePointer) -> Self {
                // SAFETY: by the caller's promise that entry serves this type.
                unsafe { core::mem::transmute::<CodePointer, Self>(code) }
            }

            served! { answering $shares $Other,
                $handler $pads ($($A)?) ($($P)*) [$($address)?] R -> $Returned, $value => $returned }
        }

        impl<$($A,)? $($P,)* R> sealed::Typed for $F {
            served! { shape $shares $Other, $handler ($($A)?) ($($P)*) [$($address)?] R -> $Returned }
        }

        served! { closure HandledBy Fn [closure => (*closure)] $shares $F, $Other,
            $handler $pads ($($A $a)?) ($($P $p)*) [$($address)?] -> $Returned, $value => $returned; $(#[$hidden])?
        }
        served! { closure HandledByMut FnMut [closure => (*closure)] $shares $F, $Other,
            $handler $pads ($($A $a)?) ($($P $p)*) [$($address)?] -> $Returned, $value => $returned; $(#[$hidden])?
        }
        served! { closure HandledByOnce FnOnce [closure => closure.read()] $shares $F, $Other,
            $handler $pads ($($A $a)?) ($($P $p)*) [$($address)?] -> $Returned, $value => $returned; $(#[$hidden])?
        }

        $(#[$hidden])?
        // SAFETY: the thunk has the type's parameters and result, and the data after them.
        unsafe impl<T, H: Fn(&T, $($A,)? $($P),*) -> R, Ways, $($A,)? $($P,)* R> HandledWith<T, H, Ways> for $F
        where
            fn($($A,)? $($P),*) -> R: AllPassedAlike<Ways>,
        {
            served! { with $shares $Other,
                $handler $pads ($($A $a)?) ($($P $p)*) [$($address)?] R -> $Returned, $value => $returned }
        }
    };
    (answering nothing $Other:ty,
        $handler:tt $pads:tt ($($A:ident)?) ($($P:ident)*) [$($address:ident)?] $R:ident
        -> $Returned:ty, $value:ident => $returned:expr) => {
        fn answering() -> *const c_void {
            // The arguments belong to the handler that was interrupted.
            abi::handler! {
                [] $handler $pads {$($A,)? $($P,)* $R} {$($A,)? $($P,)* $R}
                ($(_: ManuallyDrop<$A>,)? $($address: *mut $R,)? $(_: ManuallyDrop<$P>,)*) data: *const $R,
                $Returned, {}
                // SAFETY: a filter has put it there, and this is called once; the foreign code has passed memory
                // for the result, if there is an address.
                unsafe {
                    let $value = data.read_unaligned();
                    $returned
                }
            }
        }
    };
    (answering $shares:ident $Other:ty, $($of_thunks:tt)*) => {
        fn answering() -> *const c_void {
            <$Other as FunctionPointer>::answering()
        }
    };
    (shape nothing $Other:ty, $handler:tt ($($A:ident)?) ($($P:ident)*) [$($address:ident)?] $R:ident
        -> $Returned:ty) => {
        fn shape(is_contained: bool) -> Shape {
            $(const { assert_parameter::<$A>() };)?
            $(const { assert_parameter::<$P>() };)*
            abi::shape!(is_contained; $handler {$R $(, $A)? $(, $P)*}
                ($($A,)? $(served!(address $address $R),)? $($P),*) -> $Returned)
        }
    };
    (shape $shares:ident $Other:ty, $($of_probes:tt)*) => {
        fn shape(is_contained: bool) -> Shape {
            <$Other as sealed::Typed>::shape(is_contained)
        }
    };
    (closure $HandledBy:ident $Fn:ident $call:tt $shares:ident $F:ty, $Other:ty,
        $handler:tt $pads:tt ($($A:ident $a:ident)?) ($($P:ident $p:ident)*) [$($address:ident)?]
        -> $Returned:ty, $value:ident => $returned:expr; $(#[$hidden:meta])?) => {
        $(#[$hidden])?
        // SAFETY: the thunk has the type's parameters and result, and the data after them.
        unsafe impl<C: $Fn($($A,)? $($P),*) -> R, Ways, $($A,)? $($P,)* R> $HandledBy<C, Ways> for $F
        where
            fn($($A,)? $($P),*) -> R: AllPassedAlike<Ways>,
        {
            served! { thunk $HandledBy $Fn $call $shares $Other,
                $handler $pads ($($A $a)?) ($($P $p)*) [$($address)?] R -> $Returned, $value => $returned }
        }
    };
    (thunk $HandledBy:ident $Fn:ident $call:tt all $Other:ty, $($of_thunks:tt)*) => {
        fn thunk<Data: Holds<R, Closure = C>>(shape: Shape) -> *const c_void {
            <$Other as $HandledBy<C, Ways>>::thunk::<Data>(shape)
        }
    };
    (thunk $HandledBy:ident $Fn:ident [$closure:ident => $callee:expr] $shares:ident $Other:ty,
        $handler:tt $pads:tt ($($A:ident $a:ident)?) ($($P:ident $p:ident)*) [$($address:ident)?] $R:ident
        -> $Returned:ty, $value:ident => $returned:expr) => {
        fn thunk<Data: Holds<$R, Closure = C>>(shape: Shape) -> *const c_void {
            abi::handler! {
                [shape] $handler $pads {Data: Holds<$R>, $($A,)? $($P,)* $R} {Data, $($A,)? $($P,)* $R}
                ($($a: $A,)? $($address: *mut $R,)? $($p: $P,)*) data: *mut Data,
                $Returned, {where Data::Closure: $Fn($($A,)? $($P),*) -> $R}
                // SAFETY: the data is borrowed while the registration lives, and if the closure is an `FnMut`, no
                // other call runs: the registration is exclusive. (A contained closure's filter looks at other
                // fields.)
                unsafe {
                    let $value = Data::with(data, |$closure| $callee($($a,)? $($p),*));
                    $returned
                }
            }
        }
    };
    (with all $Other:ty, $($of_thunks:tt)*) => {
        fn thunk(shape: Shape) -> *const c_void {
            <$Other as HandledWith<T, H, Ways>>::thunk(shape)
        }
    };
    (with $shares:ident $Other:ty,
        $handler:tt $pads:tt ($($A:ident $a:ident)?) ($($P:ident $p:ident)*) [$($address:ident)?] $R:ident
        -> $Returned:ty, $value:ident => $returned:expr) => {
        fn thunk(shape: Shape) -> *const c_void {
            abi::handler! {
                [shape] $handler $pads
                {T, H: Fn(&T, $($A,)? $($P),*) -> $R, $($A,)? $($P,)* $R} {T, H, $($A,)? $($P,)* $R}
                ($($a: $A,)? $($address: *mut $R,)? $($p: $P,)*) data: *const T,
                $Returned, {}
                // SAFETY: the data is borrowed while the registration lives. An `H` has no bytes, so any address
                // is that of one; that there is one, the caller has shown by passing it.
                unsafe {
                    let $value = NonNull::<H>::dangling().as_ref()(&*data, $($a,)? $($p),*);
                    $returned
                }
            }
        }
    };
    (address $address:ident $R:ident) => { *mut $R };
}

/// One line for each number of parameters.
macro_rules! every_number {
    ($kind:tt $(#[$hidden:meta])?) => {
        function_pointers!($kind [_one _two _three _four] () #[doc(hidden)]);
        function_pointers!($kind [_two _three _four] (A a) #[doc(hidden)]);
        function_pointers!($kind [_three _four] (A a B b) $(#[$hidden])?);
        function_pointers!($kind [_four] (A a B b D d) #[doc(hidden)]);
        function_pointers!($kind [] (A a B b D d E e) #[doc(hidden)]);
        function_pointers!($kind [] (A a B b D d E e G g) #[doc(hidden)]);
        function_pointers!($kind [] (A a B b D d E e G g I i) #[doc(hidden)]);
        function_pointers!($kind [] (A a B b D d E e G g I i J j) #[doc(hidden)]);
        function_pointers!($kind [] (A a B b D d E e G g I i J j K k) #[doc(hidden)]);
        function_pointers!($kind [] (A a B b D d E e G g I i J j K k L l) #[doc(hidden)]);
        function_pointers!($kind [] (A a B b D d E e G g I i J j K k L l M m) #[doc(hidden)]);
        function_pointers!($kind [] (A a B b D d E e G g I i J j K k L l M m N n) #[doc(hidden)]);
        function_pointers!($kind [] (A a B b D d E e G g I i J j K k L l M m N n O o) #[doc(hidden)]);
        function_pointers!($kind [] (A a B b D d E e G g I i J j K k L l M m N n O o P p) #[doc(hidden)]);
        function_pointers!($kind [] (A a B b D d E e G g I i J j K k L l M m N n O o P p Q q) #[doc(hidden)]);
        function_pointers! {
            $kind [] (A a B b D d E e G g I i J j K k L l M m N n O o P p Q q S s) #[doc(hidden)]
        }
        function_pointers! {
            $kind [] (A a B b D d E e G g I i J j K k L l M m N n O o P p Q q S s U u) #[doc(hidden)]
        }
    };
}

// `extern "win64"` is a name for the convention on every system.
cfg_if::cfg_if! {
    if #[cfg(target_arch = "x86_64")] {
        every_number!([nothing "win64" "win64" "win64"]);
        every_number!([places "win64-unwind" "win64" "win64-unwind"] #[doc(hidden)]);
        every_number!([all "efiapi" "win64" "win64"] #[doc(hidden)]);
        cfg_if::cfg_if! {
            // Where the target's own code follows Microsoft's convention.
            if #[cfg(any(windows, target_os = "uefi"))] {
                every_number!([all "C" "win64" "win64"] #[doc(hidden)]);
                every_number!([all "system" "win64" "win64"] #[doc(hidden)]);
                every_number!([all "C-unwind" "win64-unwind" "win64-unwind"] #[doc(hidden)]);
                every_number!([all "system-unwind" "win64-unwind" "win64-unwind"] #[doc(hidden)]);
            }
        }
    } else if #[cfg(target_arch = "aarch64")] {
        every_number!([nothing "C" "C" "C"]);
        every_number!([places "C-unwind" "C" "C-unwind"] #[doc(hidden)]);
        every_number!([all "system" "C" "C"] #[doc(hidden)]);
        every_number!([all "system-unwind" "C-unwind" "C-unwind"] #[doc(hidden)]);
        every_number!([all "efiapi" "C" "C"] #[doc(hidden)]);
    } else if #[cfg(target_arch = "x86")] {
        every_number!([nothing "stdcall" "stdcall" "stdcall"]);
        every_number!([nothing "cdecl" "cdecl" "cdecl"] #[doc(hidden)]);
        every_number!([nothing "thiscall" "thiscall" "thiscall"] #[doc(hidden)]);
        every_number!([nothing "fastcall" "fastcall" "fastcall"] #[doc(hidden)]);
        every_number!([places "stdcall-unwind" "stdcall" "stdcall-unwind"] #[doc(hidden)]);
        every_number!([places "cdecl-unwind" "cdecl" "cdecl-unwind"] #[doc(hidden)]);
        every_number!([places "thiscall-unwind" "thiscall" "thiscall-unwind"] #[doc(hidden)]);
        every_number!([places "fastcall-unwind" "fastcall" "fastcall-unwind"] #[doc(hidden)]);
        every_number!([all "C" "cdecl" "cdecl"] #[doc(hidden)]);
        every_number!([all "C-unwind" "cdecl-unwind" "cdecl-unwind"] #[doc(hidden)]);
        every_number!([all "efiapi" "cdecl" "cdecl"] #[doc(hidden)]);
        cfg_if::cfg_if! {
            if #[cfg(windows)] {
                every_number!([all "system" "stdcall" "stdcall"] #[doc(hidden)]);
                every_number!([all "system-unwind" "stdcall-unwind" "stdcall-unwind"] #[doc(hidden)]);
            } else {
                every_number!([all "system" "cdecl" "cdecl"] #[doc(hidden)]);
                every_number!([all "system-unwind" "cdecl-unwind" "cdecl-unwind"] #[doc(hidden)]);
            }
        }
    }
}
