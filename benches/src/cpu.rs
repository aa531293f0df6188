//! What is the system's and the processor's own.

/// Keeps the calling thread on one processor, if the system lets it.
#[cfg(target_os = "linux")]
pub fn pin(processor: usize) {
    // SAFETY: a set of processors may start as zeros; both calls read and write only what they are given.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        if libc::sched_setaffinity(0, size_of_val(&set), &set) != 0 {
            eprintln!("not pinned to processor {processor}: {}", std::io::Error::last_os_error());
        }
    }
}

/// Keeps the calling thread on one processor, if the system lets it.
#[cfg(windows)]
pub fn pin(processor: usize) {
    use windows_sys::Win32::System::Threading::{GetCurrentThread, SetThreadAffinityMask};
    // SAFETY: the handle is the calling thread's own.
    if unsafe { SetThreadAffinityMask(GetCurrentThread(), 1 << processor) } == 0 {
        eprintln!("not pinned to processor {processor}: {}", std::io::Error::last_os_error());
    }
}

/// The processor's clock. What came before has ended by then.
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86")]
    use std::arch::x86::{_mm_lfence, _rdtsc};
    #[cfg(target_arch = "x86_64")]
    use std::arch::x86_64::{_mm_lfence, _rdtsc};
    // SAFETY: every processor that these targets are for has both.
    unsafe {
        _mm_lfence();
        let ticks = _rdtsc();
        _mm_lfence();
        ticks
    }
}

/// Nanoseconds of one tick.
pub fn tick() -> f64 {
    let (start, ticks_before) = (std::time::Instant::now(), ticks());
    while start.elapsed().as_millis() < 50 {}
    let ticks = ticks() - ticks_before;
    start.elapsed().as_nanos() as f64 / ticks as f64
}
