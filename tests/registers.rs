//! Every register, flag and stack word around a call, with handlers that wreck whatever they may.
#![cfg(any(target_os = "linux", all(windows, target_env = "gnu", target_arch = "x86")))]

use std::sync::Mutex;

/// The cases, which the kernel of `tests-qemu` runs, too.
#[cfg_attr(target_arch = "x86_64", path = "registers/x86_64.rs")]
#[cfg_attr(target_arch = "x86", path = "registers/x86.rs")]
#[cfg_attr(target_arch = "aarch64", path = "registers/aarch64.rs")]
mod cases;

/// The assembly keeps what it sees in static memory.
static SERIAL: Mutex<()> = Mutex::new(());

#[test]
fn direct_lane() {
    let _serial = SERIAL.lock();
    cases::direct_lane();
}

#[test]
fn frame_lane() {
    let _serial = SERIAL.lock();
    cases::frame_lane();
}

#[cfg(target_arch = "aarch64")]
#[test]
fn stale_call() {
    let _serial = SERIAL.lock();
    cases::stale_call();
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn without_the_save_wrecked_registers_show() {
    let _serial = SERIAL.lock();
    cases::without_the_save();
}
