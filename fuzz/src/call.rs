//! A foreign caller of the Microsoft x64 convention.

use std::arch::asm;

use calltable::MAX_POSITIONS;

/// What a call returned.
pub struct Returned {
    /// An integer or an address.
    pub rax: u64,
    /// A floating-point number or an integer of 128 bits.
    pub xmm0: [u64; 2],
}

/// Calls with as many argument positions as there may be, the first four also in XMM0 to XMM3, which get `floats`: a
/// callee looks at those that its signature has, and the caller removes them all.
///
/// # Safety
/// The address must be that of an entry of the table.
pub unsafe fn call(code: *const (), positions: &[u64; MAX_POSITIONS], floats: &[u64; 4]) -> Returned {
    let rax;
    let mut xmm0 = [0_u64; 2];
    // SAFETY: the positions are on the stack, the first four being the home space, and RSP is a multiple of 16; what
    // the convention does not preserve is said to be lost. R12, which it does, keeps RSP, R13 the address for XMM0.
    unsafe {
        asm!(
            "mov r12, rsp",
            "sub rsp, 8 * {count}",
            "and rsp, -16",
            "mov rdi, rsp",
            "mov ecx, {count}",
            "rep movsq",
            "movsd xmm0, [rdx]",
            "movsd xmm1, [rdx + 8]",
            "movsd xmm2, [rdx + 16]",
            "movsd xmm3, [rdx + 24]",
            "mov rcx, [rsp]",
            "mov rdx, [rsp + 8]",
            "mov r8, [rsp + 16]",
            "mov r9, [rsp + 24]",
            "call rax",
            "mov rsp, r12",
            "movups [r13], xmm0",
            count = const MAX_POSITIONS,
            inout("rax") code => rax,
            inout("rsi") positions.as_ptr() => _,
            out("rdi") _,
            inout("rdx") floats.as_ptr() => _,
            out("r12") _,
            in("r13") xmm0.as_mut_ptr(),
            clobber_abi("win64"),
        );
    }
    Returned { rax, xmm0 }
}
