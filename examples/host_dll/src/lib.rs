//! A loader of Windows DLLs for plain Linux, without Wine.
//!
//! A DLL's code calls what it imports through bare function pointers, in Windows' calling convention. Here every one
//! of them is an entry of the table, which calls a Rust closure with state:
//!
//! 1. `image` maps the DLL, and `imports` makes a callback for each of its imports; [`Guest`] puts these together.
//!    What the callbacks do is in `host` and the modules that it names: heap, locks and threads, pages, C runtime.
//! 2. [`enter`] gives the thread what Windows code expects behind GS, and the DLL's entry point runs.
//! 3. [`sandbox`] forbids the process any new executable memory, for good, and proves it.
//!
//! An import that no module implements says its name when it is called, and ends the program.
//!
//! What is left out of a loader: other DLLs, and so forwarders; exceptions in the DLL; Windows' files, windows and
//! registry.

cfg_if::cfg_if! {
    if #[cfg(all(target_os = "linux", target_arch = "x86_64"))] {
        mod address;
        mod guest;
        mod heap;
        mod host;
        mod image;
        mod imports;
        mod locks;
        mod pages;
        mod runtime;
        pub mod sandbox;
        mod thread;

        pub use address::Address;
        pub use guest::Guest;
        pub use heap::{Heap, unpoisoned};
        pub use image::{Error, Export, Image, Linker};
        pub use thread::{Entered, enter};

        /// What went wrong, in one line.
        pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
    }
}
