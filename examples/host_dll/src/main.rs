//! Real Windows DLLs on plain Linux, without Wine:
//!
//! `cargo run --release -p calltable-host-dll -- [--file FILE] DLL...`
//!
//! The loader is this package's library. For three DLLs there is work, whose results are compared with what is right:
//!
//! - `zlib` compresses and decompresses FILE. The callbacks that this takes are zlib's allocator, and `inflateBack`'s
//!   input and output. Another implementation of zlib's formats does the same, crate `flate2`.
//! - `sqlite` keeps FILE in a database, piece by piece. The database's files are callbacks, too (`sqlite::vfs`), and so
//!   are a function, an aggregate, a collation, and what gets the rows.
//! - `zstd` compresses FILE in threads of the DLL, with an allocator of ours, and trains a dictionary.
//!
//! All of these are registered when no new code is allowed any more: registering writes none. Other DLLs are loaded,
//! their entry points run, and it is listed what they export and what they import.

cfg_if::cfg_if! {
    if #[cfg(all(target_os = "linux", target_arch = "x86_64"))] {
        mod demo;
        mod report;
        mod sqlite;
        mod zlib;
        mod zstd;

        use calltable_host_dll::Result;

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
