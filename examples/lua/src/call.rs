//! Calls of foreign functions whose types are known only at run time.
//!
//! Arguments come as bits, one word of 64 for each, and the result goes as bits. It takes no code written at run time:
//! few function types stand for all, since the conventions tell few arguments apart.

use std::ffi::c_void;

use calltable::{Signature, Type};

/// The most argument positions that a call has, on i686 the most words.
pub const POSITIONS: usize = 16;

/// Calls it.
///
/// # Errors
/// If there are more positions than [`POSITIONS`].
///
/// # Safety
/// `code` must be a function that may be called with these arguments now, and that keeps to the signature.
pub unsafe fn call(code: *const c_void, signature: &Signature, arguments: &[u64]) -> Result<u64, String> {
    // A result in floating point comes in a register of its own.
    let floating = matches!(signature.result(), Some(Type::F32 | Type::F64));
    // SAFETY: by the caller's promise.
    unsafe { arch::call(code, signature, arguments, floating) }
        .ok_or_else(|| format!("a foreign call has at most {POSITIONS} argument positions"))
}

#[cfg(target_arch = "x86_64")]
mod arch {
    //! Each argument takes one position, of which the first four are registers: integer ones, or those of floating
    //! point. The caller removes the arguments, so it does no harm to pass more of them than the function takes.

    use super::*;

    /// Functions for one type of result: bit n of the index says that argument n is a float.
    macro_rules! by_floats {
        ($result:ty) => {
            [
                pass::<u64, u64, u64, u64, $result>,
                pass::<f64, u64, u64, u64, $result>,
                pass::<u64, f64, u64, u64, $result>,
                pass::<f64, f64, u64, u64, $result>,
                pass::<u64, u64, f64, u64, $result>,
                pass::<f64, u64, f64, u64, $result>,
                pass::<u64, f64, f64, u64, $result>,
                pass::<f64, f64, f64, u64, $result>,
                pass::<u64, u64, u64, f64, $result>,
                pass::<f64, u64, u64, f64, $result>,
                pass::<u64, f64, u64, f64, $result>,
                pass::<f64, f64, u64, f64, $result>,
                pass::<u64, u64, f64, f64, $result>,
                pass::<f64, u64, f64, f64, $result>,
                pass::<u64, f64, f64, f64, $result>,
                pass::<f64, f64, f64, f64, $result>,
            ]
        };
    }
    pub unsafe fn call(code: *const c_void, signature: &Signature, arguments: &[u64], floating: bool) -> Option<u64> {
        let mut positions = [0; POSITIONS];
        positions.get_mut(..arguments.len())?.copy_from_slice(arguments);
        let is_float = |(index, ty): (usize, &Type)| usize::from(matches!(ty, Type::F32 | Type::F64)) << index;
        let floats = signature.parameters().iter().take(4).enumerate().map(is_float).sum::<usize>();
        // SAFETY: by the caller's promise; the function's type has floats where the signature has.
        unsafe {
            Some(match floating {
                false => by_floats!(u64)[floats](code, &positions),
                true => by_floats!(f64)[floats](code, &positions).to_bits(),
            })
        }
    }

    /// What is passed in a register of one of the two kinds. The bits of an `f32` are the lower ones of an `f64`'s
    /// register.
    trait Word {
        fn from_bits(bits: u64) -> Self;
    }

    impl Word for u64 {
        fn from_bits(bits: u64) -> Self {
            bits
        }
    }

    impl Word for f64 {
        fn from_bits(bits: u64) -> Self {
            Self::from_bits(bits)
        }
    }

    unsafe fn pass<A: Word, B: Word, C: Word, D: Word, R>(code: *const c_void, words: &[u64; POSITIONS]) -> R {
        type W = u64;
        type Code<A, B, C, D, R> = unsafe extern "win64" fn(A, B, C, D, W, W, W, W, W, W, W, W, W, W, W, W) -> R;
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *words;
        let (a, b, c, d) = (A::from_bits(a), B::from_bits(b), C::from_bits(c), D::from_bits(d));
        // SAFETY: by the promise to `call`.
        unsafe {
            let code = std::mem::transmute::<*const c_void, Code<A, B, C, D, R>>(code);
            code(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)
        }
    }
}

#[cfg(target_arch = "x86")]
mod arch {
    //! Arguments are words on the stack, beside those in ECX and EDX. A structure of words, passed by value, is the
    //! same as its words. With most conventions the function removes exactly as many as it takes.

    use calltable::Convention;

    use super::*;

    pub unsafe fn call(code: *const c_void, signature: &Signature, arguments: &[u64], floating: bool) -> Option<u64> {
        let mut for_registers = match signature.convention() {
            Convention::Thiscall => 0..1,
            Convention::Fastcall => 0..2,
            _ => 0..0,
        };
        let (mut registers, mut words, mut count) = ([0; 2], [0; POSITIONS], 0);
        for (ty, argument) in signature.parameters().iter().zip(arguments) {
            let small = ty.size() <= 4 && *ty != Type::F32;
            if let Some(register) = if small { for_registers.next() } else { None } {
                registers[register] = *argument as u32;
                continue;
            }
            for word in [*argument as u32, (*argument >> 32) as u32].iter().take(ty.size().div_ceil(4)) {
                *words.get_mut(count)? = *word;
                count += 1;
            }
        }
        let By(to_float, to_word) = match signature.convention() {
            Convention::Cdecl | Convention::Sysv => cdecl(),
            Convention::Thiscall => thiscall(),
            Convention::Fastcall => fastcall(),
            _ => stdcall(),
        };
        // SAFETY: by the caller's promise; the arguments are where the convention wants them.
        Some(unsafe {
            // A result in floating point comes as the widest type, whatever its own.
            match signature.result() {
                Some(Type::F32) => (to_float[count](code, registers, &words) as f32).to_bits().into(),
                _ if floating => to_float[count](code, registers, &words).to_bits(),
                _ => to_word[count](code, registers, &words),
            }
        })
    }

    type Pass<R> = unsafe fn(*const c_void, [u32; 2], &[u32; POSITIONS]) -> R;

    /// Functions for one convention, by the number of words on the stack.
    struct By([Pass<f64>; POSITIONS + 1], [Pass<u64>; POSITIONS + 1]);

    #[repr(C)]
    struct Words<const N: usize>([u32; N]);

    macro_rules! by_words {
        ($pass:ident, $result:ty) => {
            by_words!($pass, $result: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)
        };
        ($pass:ident, $result:ty: $($words:literal)*) => {
            [$($pass::<$result, $words>),*]
        };
    }

    macro_rules! convention {
        ($name:ident, $abi:literal, $($register:literal: $type:ty),*) => {
            fn $name() -> By {
                unsafe fn pass<R, const N: usize>(
                    code: *const c_void,
                    _registers: [u32; 2],
                    words: &[u32; POSITIONS],
                ) -> R {
                    let words = Words::<N>(std::array::from_fn(|index| words[index]));
                    // SAFETY: by the promise to `call`.
                    unsafe {
                        let code = std::mem::transmute::<
                            *const c_void,
                            unsafe extern $abi fn($($type,)* Words<N>) -> R,
                        >(code);
                        code($(_registers[$register],)* words)
                    }
                }
                By(by_words!(pass, f64), by_words!(pass, u64))
            }
        };
    }
    convention!(stdcall, "stdcall",);
    convention!(cdecl, "cdecl",);
    convention!(thiscall, "thiscall", 0: u32);
    convention!(fastcall, "fastcall", 0: u32, 1: u32);
}

#[cfg(test)]
mod tests {
    use calltable::Convention;

    use super::*;

    fn signature(convention: Convention, parameters: &[Type], result: Type) -> Signature {
        Signature::new(convention, parameters, Some(result)).unwrap()
    }

    macro_rules! conventions {
        ($($name:ident $abi:literal $convention:ident;)*) => { $(
            #[test]
            fn $name() {
                use Type::*;
                type Pointer = *const c_void;
                // With fastcall rustc and Microsoft differ in small arguments after a large one, if a register is
                // left.
                unsafe extern $abi fn all(a: u8, b: f32, c: i16, d: f64, e: i64, f: f64, g: Pointer, h: f32) -> f64 {
                    assert_eq!((a, b, c, d, e, f, g.addr(), h), (250, -1.5, -2, 0.1, -3 << 40, 1e300, 0x1234, 0.25));
                    f
                }
                unsafe extern $abi fn narrow(a: f32, b: i8) -> f32 {
                    a * f32::from(b)
                }
                unsafe extern $abi fn wide(a: u32, b: u32, c: u32) -> u64 {
                    u64::from(a) << 32 | u64::from(b - c)
                }
                unsafe extern $abi fn nothing() -> i16 {
                    -5
                }
                let arguments = [
                    250, (-1.5f32).to_bits().into(), -2i64 as u64, 0.1f64.to_bits(), (-3i64 << 40) as u64,
                    1e300f64.to_bits(), 0x1234, 0.25f32.to_bits().into(),
                ];
                let types = [U8, F32, I16, F64, I64, F64, Type::Pointer, F32];
                let of_all = signature(Convention::$convention, &types, F64);
                let of_narrow = signature(Convention::$convention, &[F32, I8], F32);
                let of_wide = signature(Convention::$convention, &[U32; 3], U64);
                let of_nothing = signature(Convention::$convention, &[], I16);
                // Often, so that a stack pointer which is not as before would be noticed.
                for _ in 0..10_000 {
                    // SAFETY: these are their types.
                    unsafe {
                        assert_eq!(call(all as *const c_void, &of_all, &arguments), Ok(1e300f64.to_bits()));
                        let bits = call(narrow as *const c_void, &of_narrow, &[2.5f32.to_bits().into(), -4i64 as u64]);
                        assert_eq!(f32::from_bits(bits.unwrap() as u32), -10.0);
                        let bits = call(wide as *const c_void, &of_wide, &[0x1234_5678, 9, 2]);
                        assert_eq!(bits, Ok(0x1234_5678_0000_0007));
                        assert_eq!(call(nothing as *const c_void, &of_nothing, &[]).unwrap() as i16, -5);
                    }
                }
                let many = signature(Convention::$convention, &[U64; POSITIONS + 1][..(POSITIONS + 1).min(MOST)], U8);
                // SAFETY: nothing is called.
                let refused = unsafe { call(nothing as *const c_void, &many, &[0; POSITIONS + 1]) };
                assert!(refused.unwrap_err().contains("at most 16"));
            }
        )* };
    }

    /// Arguments of 64 bits that a signature holds.
    const MOST: usize = 32 / (8 / size_of::<usize>());

    #[cfg(target_arch = "x86_64")]
    conventions! {
        win64 "win64" Win64;
    }
    #[cfg(target_arch = "x86")]
    conventions! {
        stdcall "stdcall" Stdcall;
        cdecl "cdecl" Cdecl;
        thiscall "thiscall" Thiscall;
        fastcall "fastcall" Fastcall;
    }

    #[cfg(target_arch = "x86_64")]
    mod registers {
        use super::*;

        trait Argument {
            const TYPE: Type;
            fn bits(self) -> u64;
        }

        impl Argument for u64 {
            const TYPE: Type = Type::U64;
            fn bits(self) -> u64 {
                self
            }
        }

        impl Argument for f64 {
            const TYPE: Type = Type::F64;
            fn bits(self) -> u64 {
                self.to_bits()
            }
        }

        fn check<A: Argument, B: Argument, C: Argument, D: Argument, R: Argument>() {
            unsafe extern "win64" fn function<A: Argument, B: Argument, C: Argument, D: Argument, R>(
                a: A,
                b: B,
                c: C,
                d: D,
                e: R,
            ) -> R {
                assert_eq!([a.bits(), b.bits(), c.bits(), d.bits()], [11, 22, 33, 44]);
                e
            }
            let signature = signature(Convention::Win64, &[A::TYPE, B::TYPE, C::TYPE, D::TYPE, R::TYPE], R::TYPE);
            // SAFETY: that is its type.
            let result = unsafe { call(function::<A, B, C, D, R> as *const c_void, &signature, &[11, 22, 33, 44, 55]) };
            assert_eq!(result, Ok(55));
        }

        fn fourth<A: Argument, B: Argument, C: Argument, R: Argument>() {
            check::<A, B, C, u64, R>();
            check::<A, B, C, f64, R>();
        }

        fn third<A: Argument, B: Argument, R: Argument>() {
            fourth::<A, B, u64, R>();
            fourth::<A, B, f64, R>();
        }

        fn second<A: Argument, R: Argument>() {
            third::<A, u64, R>();
            third::<A, f64, R>();
        }

        #[test]
        fn each_argument_is_in_the_register_of_its_kind() {
            second::<u64, u64>();
            second::<u64, f64>();
            second::<f64, u64>();
            second::<f64, f64>();
        }
    }
}
