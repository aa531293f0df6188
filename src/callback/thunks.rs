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

/// A function pointer of nothing but types that are passed alike, in these ways.
pub trait AllPassedAlike<Ways> {}
#[cfg(not(soft_float))]
impl<F> AllPassedAlike<()> for F {}

/// Says so of one. On i686 parameters are on the stack whatever their type: only results differ.
#[cfg(soft_float)]
macro_rules! all_passed_alike {
    ($F:ty, ($($P:ident $p:ident)*) $R:ident) => {
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        #[allow(non_camel_case_types, reason = "the ways are named as the parameters are")]
        impl<$($P: PassedAlike<$p>, $p,)* $R: PassedAlike<Way>, Way> AllPassedAlike<(Way, $($p,)*)> for $F {}
        #[cfg(target_arch = "x86")]
        impl<$($P,)* $R: PassedAlike<Way>, Way> AllPassedAlike<Way> for $F {}
    };
}
#[cfg(not(soft_float))]
macro_rules! all_passed_alike {
    ($($unused:tt)*) => {}; // of every type already
}

/// For one convention and one number of parameters, two types of function pointers: of functions and of methods.
/// `#[doc(hidden)]` hides them in the documentation; two stand for all there.
///
/// The arguments: the convention, as the type names it; the same for the thunks, by the name that serves on every
/// system; names for parameters that thunks have more (`abi::handler`); the parameters, each a type and a name.
macro_rules! function_pointers {
    ($abi:literal $handler:tt $pads:tt ($($P:ident $p:ident)*) $(#[$hidden:meta])?) => {
        served! {
            unsafe extern $abi fn($($P),*) -> R, $handler $pads () ($($P $p)*) [] -> R, value => value; $(#[$hidden])?
        }
        function_pointers! { method $abi $handler $pads ($($P $p)*) $(#[$hidden])? }
    };
    (method $abi:literal $handler:tt $pads:tt () $(#[$hidden:meta])?) => {}; // it has no `this`
    (method $abi:literal $handler:tt [$($pad:ident $($pads:ident)*)?] ($A:ident $a:ident $($P:ident $p:ident)*)
        $(#[$hidden:meta])?) => {
        served! {
            Method<unsafe extern $abi fn($A, $($P),*) -> R>, $handler [$($($pads)*)?] ($A $a) ($($P $p)*) [result]
            -> *mut R, value => {
                result.write(value);
                result
            }; $(#[$hidden])?
        }
    };
}

/// Implements everything for one type of function pointer.
///
/// The arguments: the type; the convention of its thunks; parameters that these have more; the parameters, of which a
/// method's first one stands apart, for what follows it there: `[result]`, the address for its result; what a thunk
/// returns, and how that comes from the closure's value.
macro_rules! served {
    ($F:ty, $handler:tt $pads:tt ($($A:ident $a:ident)?) ($($P:ident $p:ident)*) [$($address:ident)?]
        -> $Returned:ty, $value:ident => $returned:expr; $(#[$hidden:meta])?) => {
        impl<$($A,)? $($P,)* R> sealed::Sealed for $F {}

        all_passed_alike! { $F, ($($A $a)? $($P $p)*) R }

        $(#[$hidden])?
        impl<$($A,)? $($P,)* R> FunctionPointer for $F {
            type Result = R;

            unsafe fn from_code(code: CodePointer) -> Self {
                // SAFETY: by the caller's promise that entry serves this type.
                unsafe { core::mem::transmute::<CodePointer, Self>(code) }
            }

            fn answering() -> *const c_void {
                // The arguments belong to the handler that was interrupted.
                abi::handler! {
                    [] $handler $pads {$($A,)? $($P,)* R} {$($A,)? $($P,)* R}
                    ($(_: ManuallyDrop<$A>,)? $($address: *mut R,)? $(_: ManuallyDrop<$P>,)*) data: *const R,
                    $Returned, {}
                    // SAFETY: a filter has put it there, and this is called once; the foreign code has passed memory
                    // for the result, if there is an address.
                    unsafe {
                        let $value = data.read_unaligned();
                        $returned
                    }
                }
            }
        }

        impl<$($A,)? $($P,)* R> sealed::Typed for $F {
            fn shape(is_contained: bool) -> Shape {
                $(const { assert_parameter::<$A>() };)?
                $(const { assert_parameter::<$P>() };)*
                abi::shape!(is_contained; $handler {R $(, $A)? $(, $P)*}
                    ($($A,)? $(served!(address $address R),)? $($P),*) -> $Returned)
            }
        }

        served! { closure HandledBy Fn, closure => (*closure);
            $F, $handler $pads ($($A $a)?) ($($P $p)*) [$($address)?] -> $Returned, $value => $returned; $(#[$hidden])?
        }
        served! { closure HandledByMut FnMut, closure => (*closure);
            $F, $handler $pads ($($A $a)?) ($($P $p)*) [$($address)?] -> $Returned, $value => $returned; $(#[$hidden])?
        }
        served! { closure HandledByOnce FnOnce, closure => closure.read();
            $F, $handler $pads ($($A $a)?) ($($P $p)*) [$($address)?] -> $Returned, $value => $returned; $(#[$hidden])?
        }

        $(#[$hidden])?
        // SAFETY: the thunk has the type's parameters and result, and the data after them.
        unsafe impl<T, H: Fn(&T, $($A,)? $($P),*) -> R, Ways, $($A,)? $($P,)* R> HandledWith<T, H, Ways> for $F
        where
            $F: AllPassedAlike<Ways>,
        {
            fn thunk(shape: Shape) -> *const c_void {
                abi::handler! {
                    [shape] $handler $pads
                    {T, H: Fn(&T, $($A,)? $($P),*) -> R, $($A,)? $($P,)* R} {T, H, $($A,)? $($P,)* R}
                    ($($a: $A,)? $($address: *mut R,)? $($p: $P,)*) data: *const T,
                    $Returned, {}
                    // SAFETY: the data is borrowed while the registration lives. An `H` has no bytes, so any address
                    // is that of one; that there is one, the caller has shown by passing it.
                    unsafe {
                        let $value = NonNull::<H>::dangling().as_ref()(&*data, $($a,)? $($p),*);
                        $returned
                    }
                }
            }
        }
    };
    (closure $HandledBy:ident $Fn:ident, $closure:ident => $callee:expr;
        $F:ty, $handler:tt $pads:tt ($($A:ident $a:ident)?) ($($P:ident $p:ident)*) [$($address:ident)?]
        -> $Returned:ty, $value:ident => $returned:expr; $(#[$hidden:meta])?) => {
        $(#[$hidden])?
        // SAFETY: the thunk has the type's parameters and result, and the data after them.
        unsafe impl<C: $Fn($($A,)? $($P),*) -> R, Ways, $($A,)? $($P,)* R> $HandledBy<C, Ways> for $F
        where
            $F: AllPassedAlike<Ways>,
        {
            fn thunk<Data: Holds<R, Closure = C>>(shape: Shape) -> *const c_void {
                abi::handler! {
                    [shape] $handler $pads {Data: Holds<R>, $($A,)? $($P,)* R} {Data, $($A,)? $($P,)* R}
                    ($($a: $A,)? $($address: *mut R,)? $($p: $P,)*) data: *mut Data,
                    $Returned, {where Data::Closure: $Fn($($A,)? $($P),*) -> R}
                    // SAFETY: the data is borrowed while the registration lives, and if the closure is an `FnMut`, no
                    // other call runs: the registration is exclusive. (A contained closure's filter looks at other
                    // fields.) If it is an `FnOnce`, it is this call's own.
                    unsafe {
                        let $value = Data::with(data, |$closure| $callee($($a,)? $($p),*));
                        $returned
                    }
                }
            }
        }
    };
    (address $address:ident $R:ident) => { *mut $R };
}

/// One line for each number of parameters.
macro_rules! every_number {
    ($abi:literal $handler:tt $(#[$hidden:meta])?) => {
        function_pointers!($abi $handler [_one _two _three _four] () #[doc(hidden)]);
        function_pointers!($abi $handler [_two _three _four] (A a) #[doc(hidden)]);
        function_pointers!($abi $handler [_three _four] (A a B b) $(#[$hidden])?);
        function_pointers!($abi $handler [_four] (A a B b D d) #[doc(hidden)]);
        function_pointers!($abi $handler [] (A a B b D d E e) #[doc(hidden)]);
        function_pointers!($abi $handler [] (A a B b D d E e G g) #[doc(hidden)]);
        function_pointers!($abi $handler [] (A a B b D d E e G g I i) #[doc(hidden)]);
        function_pointers!($abi $handler [] (A a B b D d E e G g I i J j) #[doc(hidden)]);
        function_pointers!($abi $handler [] (A a B b D d E e G g I i J j K k) #[doc(hidden)]);
        function_pointers!($abi $handler [] (A a B b D d E e G g I i J j K k L l) #[doc(hidden)]);
        function_pointers!($abi $handler [] (A a B b D d E e G g I i J j K k L l M m) #[doc(hidden)]);
        function_pointers!($abi $handler [] (A a B b D d E e G g I i J j K k L l M m N n) #[doc(hidden)]);
        function_pointers!($abi $handler [] (A a B b D d E e G g I i J j K k L l M m N n O o) #[doc(hidden)]);
        function_pointers!($abi $handler [] (A a B b D d E e G g I i J j K k L l M m N n O o P p) #[doc(hidden)]);
        function_pointers!($abi $handler [] (A a B b D d E e G g I i J j K k L l M m N n O o P p Q q) #[doc(hidden)]);
        function_pointers! {
            $abi $handler [] (A a B b D d E e G g I i J j K k L l M m N n O o P p Q q S s) #[doc(hidden)]
        }
        function_pointers! {
            $abi $handler [] (A a B b D d E e G g I i J j K k L l M m N n O o P p Q q S s U u) #[doc(hidden)]
        }
    };
}

// `extern "win64"` is a name for the convention on every system.
cfg_if::cfg_if! {
    if #[cfg(target_arch = "x86_64")] {
        every_number!("win64" "win64");
        every_number!("efiapi" "win64" #[doc(hidden)]);
        // These two are the same where the target's own code follows Microsoft's convention.
        #[cfg(any(windows, target_os = "uefi"))]
        every_number!("C" "win64" #[doc(hidden)]);
        #[cfg(any(windows, target_os = "uefi"))]
        every_number!("system" "win64" #[doc(hidden)]);
    } else if #[cfg(target_arch = "aarch64")] {
        every_number!("C" "C");
        every_number!("system" "system" #[doc(hidden)]);
        every_number!("efiapi" "efiapi" #[doc(hidden)]);
    } else if #[cfg(target_arch = "x86")] {
        every_number!("stdcall" "stdcall");
        every_number!("cdecl" "cdecl" #[doc(hidden)]);
        every_number!("thiscall" "thiscall" #[doc(hidden)]);
        every_number!("fastcall" "fastcall" #[doc(hidden)]);
        every_number!("C" "C" #[doc(hidden)]);
        #[cfg(windows)]
        every_number!("system" "stdcall" #[doc(hidden)]);
        #[cfg(not(windows))]
        every_number!("system" "system" #[doc(hidden)]);
        every_number!("efiapi" "efiapi" #[doc(hidden)]);
    }
}
