//! Calling conventions.

use core::fmt;

/// How the foreign code calls.
///
/// ```
/// use calltable::Convention;
///
/// assert!(Convention::C.is_available() && Convention::NATIVE.is_available());
/// assert_eq!(Convention::Win64.is_available(), cfg!(target_arch = "x86_64"));
/// assert_eq!(Convention::Win64.to_string(), "win64");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Convention {
    /// The x64 convention of Microsoft: Windows, UEFI. In Rust `extern "win64"` and `extern "efiapi"`, on Windows
    /// also `"C"` and `"system"`. Source: "x64 calling convention", Microsoft C++ documentation.
    Win64,
    /// i686: arguments on the stack, removed by the callee. Most functions of Windows. Source of this and the
    /// following: "Argument passing and naming conventions", Microsoft C++ documentation.
    Stdcall,
    /// i686: arguments on the stack, removed by the caller. A structure of 1, 2, 4 or 8 bytes is returned in registers,
    /// another one through a hidden pointer, which the caller removes with the arguments.
    Cdecl,
    /// i686: `this` in ECX, the others on the stack, removed by the callee.
    Thiscall,
    /// i686: the first two small arguments in ECX and EDX, the others on the stack, removed by the callee.
    Fastcall,
    /// i686: C's own convention where the system is not Windows or UEFI. As [`Self::Cdecl`], but every structure is
    /// returned through a hidden pointer, and the callee removes that pointer. (On FreeBSD, OpenBSD and DragonFly small
    /// structures are returned as with `Cdecl`.) Source: "System V Application Binary Interface, Intel386 Architecture
    /// Processor Supplement", "Functions Returning Structures or Unions".
    Sysv,
    /// AArch64: C's own convention, arguments by class in X0 to X7 and V0 to V7. Windows and UEFI follow it, too.
    /// Sources: "Procedure Call Standard for the Arm 64-bit Architecture" (AAPCS64), Arm; "Overview of ARM64 ABI
    /// conventions", Microsoft, whose variadic functions differ: they get all numbers in integer registers.
    Aapcs64,
}

impl Convention {
    /// The convention that the target's foreign code uses if nothing else is said: on i686 Windows
    /// [`Self::Stdcall`], elsewhere [`Self::C`].
    pub const NATIVE: Self = if cfg!(all(windows, target_arch = "x86")) { Self::Stdcall } else { Self::C };

    /// The convention of plain C in foreign code, and of handlers (`extern "efiapi"`): win64 on x86_64,
    /// [`Self::Aapcs64`] on AArch64; on i686 cdecl for Windows and UEFI, [`Self::Sysv`] for other systems.
    pub const C: Self = if cfg!(target_arch = "x86_64") {
        Self::Win64
    } else if cfg!(target_arch = "aarch64") {
        Self::Aapcs64
    } else if cfg!(any(windows, target_os = "uefi")) {
        Self::Cdecl // Rust's UEFI target calls as Windows does
    } else {
        Self::Sysv
    };

    /// Whether the table's entries can be called this way on this target. Example: [`Self`].
    #[must_use]
    pub const fn is_available(self) -> bool {
        match self {
            Self::Win64 => cfg!(target_arch = "x86_64"),
            Self::Stdcall | Self::Cdecl | Self::Thiscall | Self::Fastcall | Self::Sysv => cfg!(target_arch = "x86"),
            Self::Aapcs64 => cfg!(target_arch = "aarch64"),
        }
    }
}

impl fmt::Display for Convention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Win64 => "win64",
            Self::Stdcall => "stdcall",
            Self::Cdecl => "cdecl",
            Self::Thiscall => "thiscall",
            Self::Fastcall => "fastcall",
            Self::Sysv => "sysv",
            Self::Aapcs64 => "aapcs64",
        })
    }
}
