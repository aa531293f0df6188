//! A kernel that runs calltable's cases on a machine without an operating system, and then ends the machine.
//!
//! Prints `ok NAME` for each case, or `FAILED NAME: why` for the first that fails, and ends with `N passed, N failed`.
//! What the processor is able to do decides which cases there are; the first line says it.
#![no_std]
#![no_main]

mod cases;
mod console;
#[cfg_attr(any(target_arch = "x86", target_arch = "x86_64"), path = "x86/mod.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64/mod.rs")]
mod machine;
mod smp;
mod traps;

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cases::Need;
use console::line;

static PASSED: AtomicUsize = AtomicUsize::new(0);
/// The case that is running, an index of `cases::ALL`.
static CASE: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Rust begins here.
#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    machine::start();
    let second = smp::start();
    let protection = machine::protection();
    line!(
        "calltable kernel: {}, {}, {}, {}",
        machine::NAME,
        machine::FLOATS,
        if second { "2 processors" } else { "1 processor" },
        protection.unwrap_or(machine::NO_PROTECTION),
    );
    cases::prepare();
    for (index, (name, need, run)) in cases::ALL.iter().enumerate() {
        let is_there = match need {
            Need::Nothing => true,
            Need::Second => second,
            Need::SteppedAtomics => machine::STEPS_ATOMICS,
            Need::Protection => protection.is_some(),
        };
        if !is_there {
            continue;
        }
        CASE.store(index, Ordering::SeqCst);
        run();
        PASSED.fetch_add(1, Ordering::SeqCst);
        line!("ok {name}");
    }
    line!("{} passed, 0 failed", PASSED.load(Ordering::SeqCst));
    machine::end(true)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    static PANICS: AtomicBool = AtomicBool::new(false);
    if PANICS.swap(true, Ordering::SeqCst) {
        machine::end(false); // a panic in here, or on both processors
    }
    let case = cases::ALL.get(CASE.load(Ordering::SeqCst)).map_or("start", |case| case.0);
    match info.location() {
        Some(place) => line!("FAILED {case}: {} ({}:{})", info.message(), place.file(), place.line()),
        None => line!("FAILED {case}: {}", info.message()),
    }
    line!("{} passed, 1 failed", PASSED.load(Ordering::SeqCst));
    machine::end(false)
}
