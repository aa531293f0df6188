//! What an operating system gives, where there is one that may be asked: feature `os`.
//!
//! Each system's module has the same functions: `print`, `sleep`, `is_ending`, `process_mark`,
//! `forget_mark_in_children`, `walk`.

use core::ffi::CStr;

cfg_if::cfg_if! {
    if #[cfg(all(windows, feature = "os"))] {
        mod windows;
        pub(crate) use windows::*;
    } else if #[cfg(all(target_os = "linux", feature = "os"))] {
        mod linux;
        pub(crate) use linux::*;
    } else {
        mod none;
        pub(crate) use none::*;
    }
}

/// Declares functions of one of Windows' libraries. MinGW brings the import library that its linker wants; rustc gives
/// MSVC's linker one, so that no SDK is needed.
#[cfg(windows)]
macro_rules! import {
    ($library:literal: $($functions:tt)*) => {
        #[cfg_attr(not(target_env = "msvc"), link(name = $library))]
        #[cfg_attr(all(target_env = "msvc", not(target_arch = "x86")), link(name = $library, kind = "raw-dylib"))]
        #[cfg_attr(
            all(target_env = "msvc", target_arch = "x86"),
            link(name = $library, kind = "raw-dylib", import_name_type = "undecorated")
        )]
        unsafe extern "system" {
            $($functions)*
        }
    };
}
#[cfg(windows)]
pub(crate) use import;

/// Stops the program on the spot.
pub fn trap() -> ! {
    // SAFETY: an invalid instruction; nothing runs after it.
    unsafe {
        #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
        core::arch::asm!("ud2", options(noreturn, nomem, nostack));
        #[cfg(target_arch = "aarch64")]
        core::arch::asm!("udf #0", options(noreturn, nomem, nostack));
    }
}

/// Says why, where there is somewhere to say it, and stops the program on the spot.
pub(crate) fn stop(message: &CStr) -> ! {
    print(message);
    trap()
}

/// Waits for what another thread is about to do: first for some microseconds without the system's help, then asleep for
/// longer and longer times, so that a thread of lower priority comes to run on the same processor.
pub(crate) struct Wait {
    rounds: u32,
    /// Of the last sleep, in microseconds; 0 before the first one.
    interval: u32,
    /// Asleep until now, in microseconds.
    slept: u32,
}

/// Some 10 microseconds: longer than the lock is held by whoever is not interrupted, but for the first user.
const SPINS: u32 = 256;
const SHORTEST: u32 = 50;
const LONGEST: u32 = 1000;

impl Wait {
    pub(crate) const fn new() -> Self {
        Self { rounds: 0, interval: 0, slept: 0 }
    }

    /// Whether the next pause is the first one that is not short.
    pub(crate) fn is_getting_long(&self) -> bool {
        self.rounds == SPINS && self.interval == 0
    }

    /// Microseconds asleep.
    pub(crate) fn slept(&self) -> u32 {
        self.slept
    }

    pub(crate) fn pause(&mut self) {
        if self.rounds < SPINS {
            self.rounds += 1;
            core::hint::spin_loop();
            return;
        }
        self.interval = (2 * self.interval).clamp(SHORTEST, LONGEST);
        self.slept = self.slept.saturating_add(self.interval);
        sleep(self.interval);
    }
}
