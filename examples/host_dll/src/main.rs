//! A host for a real Windows DLL, on plain Linux, without Wine:
//!
//! `cargo run --release -p calltable-host-dll -- zlib1.dll FILE`
//!
//! A 64-bit zlib1.dll is in Debian's package libz-mingw-w64, for one; FILE is anything.
//!
//! A DLL's code calls what it imports through bare function pointers, in Windows' calling convention. Here every one
//! of them is an entry of the table, which calls a Rust closure with state:
//!
//! 1. `image` maps the DLL and binds its imports to callbacks made by `imports`;
//! 2. `thread` gives the thread what Windows code expects behind GS, and the DLL's entry point runs;
//! 3. `sandbox` forbids the process any new executable memory, for good, and proves it;
//! 4. `zlib` compresses and decompresses FILE through the DLL. The callbacks that this takes (zlib's allocator, and
//!    `inflateBack`'s input and output) are registered only now: registering writes no code.
//!
//! The results are compared with an independent implementation of zlib's formats, crate `flate2`. What is left out of
//! a loader: threads, exceptions in the DLL, delayed and forwarded imports, other DLLs.

cfg_if::cfg_if! {
    if #[cfg(all(target_os = "linux", target_arch = "x86_64"))] {
        mod demo;
        mod image;
        mod imports;
        mod sandbox;
        mod thread;
        mod zlib;

        /// What went wrong, in one line.
        type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

        fn main() -> std::process::ExitCode {
            demo::run()
        }
    } else {
        fn main() -> std::process::ExitCode {
            eprintln!("host_dll: this example needs Linux on x86_64");
            std::process::ExitCode::FAILURE
        }
    }
}
