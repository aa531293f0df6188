//! The other image: finds the protocol that the application has installed, and calls its functions.
#![no_std]
#![no_main]

use core::sync::atomic::Ordering;

use calltable_uefi::{CAPTURED, Counter};
use uefi::boot::{self, OpenProtocolAttributes, OpenProtocolParams};
use uefi::prelude::*;

#[entry]
fn main() -> Status {
    match call() {
        Ok(()) => Status::SUCCESS,
        Err(error) => error.status(),
    }
}

fn call() -> uefi::Result {
    let handle = boot::get_handle_for_protocol::<Counter>()?;
    let params = OpenProtocolParams { handle, agent: boot::image_handle(), controller: None };
    // SAFETY: the application keeps the interface as long as this image runs.
    let counter = unsafe { boot::open_protocol::<Counter>(params, OpenProtocolAttributes::GetProtocol)? };
    for time in 0..counter.times {
        for function in [counter.add, counter.add_dynamic] {
            let (a, b, c, d, e) = (time, u64::MAX - 9, time as u8, time * 3, 1 << 40);
            let want = CAPTURED
                .wrapping_add(a as u64)
                .wrapping_add(b)
                .wrapping_add(c.into())
                .wrapping_add(d as u64)
                .wrapping_add(e);
            // SAFETY: by the protocol.
            if unsafe { function(&*counter, a, b, c, d, e) } != want {
                counter.wrong.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    Ok(())
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop(); // the runner's limit ends it
    }
}
