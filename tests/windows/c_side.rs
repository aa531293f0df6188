//! The DLL written in C and C++.

use std::env;
use std::ffi::{CString, OsString, c_void};
use std::fs;
use std::os::windows::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use windows_sys::Win32::System::LibraryLoader::{GetProcAddress, LoadLibraryW};

use crate::build_dll::{self, Tools};

/// Levels of optimisation at which the C callers were compiled.
pub const LEVELS: [&str; 2] = ["O0", "O2"];

/// A function of the DLL.
///
/// # Safety
/// `F` must be a function pointer, of the type that the C side declares.
pub unsafe fn function<F: Copy>(name: &str) -> F {
    assert_eq!(size_of::<F>(), size_of::<*const c_void>());
    let symbol = CString::new(name).unwrap();
    // SAFETY: the module stays loaded; the name ends in a zero.
    let found = unsafe { GetProcAddress(module() as *mut c_void, symbol.as_ptr().cast()) };
    let found = found.unwrap_or_else(|| panic!("the DLL has no function {name}"));
    // SAFETY: by the caller's promise.
    unsafe { std::mem::transmute_copy(&found) }
}

/// The DLL's base address.
pub fn module() -> usize {
    static MODULE: OnceLock<usize> = OnceLock::new();
    *MODULE.get_or_init(|| {
        let path = env::var_os(build_dll::VARIABLE).unwrap_or_else(build);
        let wide: Vec<u16> = path.encode_wide().chain([0]).collect();
        // SAFETY: the path ends in a zero; the DLL does nothing when it is loaded.
        let module = unsafe { LoadLibraryW(wide.as_ptr()) };
        assert!(!module.is_null(), "{path:?} does not load: {}", std::io::Error::last_os_error());
        module.addr()
    })
}

/// Builds the DLL with a compiler found in PATH.
fn build() -> OsString {
    const CHOICES: [Tools; 2] = [Tools { c: "gcc", cxx: "g++" }, Tools { c: "clang", cxx: "clang++" }];
    let works = |name| Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success());
    let tools = CHOICES.iter().find(|tools| works(tools.c) && works(tools.cxx)).unwrap_or_else(|| {
        panic!(
            "this test needs a DLL written in C: set {} to its path, as `cargo xtask test windows` does, or put gcc \
             and g++, or clang and clang++, into PATH",
            build_dll::VARIABLE
        )
    });
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(&out).unwrap();
    for mut step in build_dll::steps(tools, &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/windows"), &out) {
        let output = step.output().unwrap();
        assert!(output.status.success(), "{step:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    out.join(build_dll::NAME).into()
}
