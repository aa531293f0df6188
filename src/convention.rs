//! Calling conventions.

use core::fmt;

/// How the foreign code calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Convention {
    /// The x64 convention of Microsoft: Windows, UEFI. In Rust `extern "win64"` and `extern "efiapi"`, on Windows
    /// also `"C"` and `"system"`. Source: "x64 calling convention", Microsoft C++ documentation.
    Win64,
    /// i686: arguments on the stack, removed by the callee.
    Stdcall,
    /// i686: arguments on the stack, removed by the caller.
    Cdecl,
    /// i686: `this` in ECX, the others on the stack, removed by the callee.
    Thiscall,
    /// i686: the first two small arguments in ECX and EDX, the others on the stack, removed by the callee.
    Fastcall,
}

impl Convention {
    /// The convention that the target's own foreign code uses if nothing else is said.
    pub const NATIVE: Self = crate::arch::NATIVE;

    /// The convention of plain C in foreign code, and of handlers (`extern "efiapi"`): win64 on x86_64, cdecl on i686.
    pub const C: Self = crate::arch::C;

    /// Whether the table's entries can be called this way on this target.
    #[must_use]
    pub const fn is_available(self) -> bool {
        crate::arch::is_available(self)
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
        })
    }
}
