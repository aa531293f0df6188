//! Each thread's block, and signals that are made exceptions: what a host of Windows code does on Linux.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Once;

use calltable::seh::{self, Block, END, ExceptionRecord};

thread_local! {
    static BLOCK: UnsafeCell<Block> =
        const { UnsafeCell::new(Block { head: END, stack_base: 0, stack_limit: 0 }) };
}

/// This thread's block.
pub unsafe extern "efiapi" fn block() -> *mut Block {
    BLOCK.with(UnsafeCell::get)
}

#[cfg(target_arch = "x86_64")]
unsafe fn declare_block() {
    // SAFETY: each thread has its own.
    unsafe { seh::declare(block) }.unwrap();
}

/// Has FS lead to the block.
#[cfg(target_arch = "x86")]
unsafe fn declare_block() {
    // SAFETY: sets up a segment of this thread that nothing else uses; glibc's is GS.
    unsafe {
        // struct user_desc: number (-1: any free one), base, limit, flags: 32 bits, limit in pages, usable.
        let mut segment = [u32::MAX, block().addr() as u32, 0xf_ffff, 0b101_0001];
        assert_eq!(libc::syscall(libc::SYS_set_thread_area, segment.as_mut_ptr()), 0);
        let selector = segment[0] << 3 | 3;
        std::arch::asm!("mov fs, {0:e}", in(reg) selector, options(nostack, preserves_flags));
        seh::declare().unwrap();
    }
}

/// Gives this thread a block of its own, and lets signals be exceptions.
pub fn declare() {
    const SIGNAL_STACK: usize = 0x2_0000;
    static SIGNALS: Once = Once::new();
    SIGNALS.call_once(|| {
        for signal in [libc::SIGSEGV, libc::SIGFPE, libc::SIGILL] {
            // SAFETY: the handler only asks the chain; zeros are an empty set of signals. A handler that leaves by
            // unwinding leaves the signal unblocked. That of a stack which is used up comes on another one.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_signal as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
                if signal == libc::SIGSEGV {
                    action.sa_flags |= libc::SA_ONSTACK;
                }
                assert_eq!(libc::sigaction(signal, &action, null_mut()), 0);
            }
        }
    });
    let (mut address, mut size) = (null_mut(), 0);
    // SAFETY: the calls fill in what they are given.
    unsafe {
        let mut attributes = std::mem::zeroed();
        assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), &mut attributes), 0);
        assert_eq!(libc::pthread_attr_getstack(&attributes, &mut address, &mut size), 0);
        libc::pthread_attr_destroy(&mut attributes);
        let signal_stack = libc::stack_t {
            ss_sp: Box::leak(vec![0_u8; SIGNAL_STACK].into_boxed_slice()).as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: SIGNAL_STACK,
        };
        assert_eq!(libc::sigaltstack(&signal_stack, null_mut()), 0);
        block().write(Block { head: END, stack_base: address.addr() + size, stack_limit: address.addr() });
        declare_block();
    }
}

unsafe extern "C" fn on_signal(signal: i32, information: *const libc::siginfo_t, context: *mut c_void) {
    let (code, parameters) = match signal {
        // SAFETY: the system passes it.
        libc::SIGSEGV => (seh::ACCESS_VIOLATION, [0, unsafe { (*information).si_addr().addr() }]),
        libc::SIGFPE => (seh::INTEGER_DIVISION_BY_ZERO, [0; 2]),
        _ => (seh::ILLEGAL_INSTRUCTION, [0; 2]),
    };
    if !raise(code, &parameters, context) {
        std::process::abort();
    }
}

/// Asks the chain about an exception. Returns whether execution goes on where it came from.
pub fn raise(code: u32, parameters: &[usize], context: *mut c_void) -> bool {
    let mut record = ExceptionRecord {
        code,
        flags: 0,
        nested: null_mut(),
        address: null_mut(),
        parameter_count: parameters.len() as u32,
        parameters: [0; 15],
    };
    record.parameters[..parameters.len()].copy_from_slice(parameters);
    // SAFETY: this thread has declared its block.
    unsafe { seh::dispatch(&mut record, context).unwrap() }
}
