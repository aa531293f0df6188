//! The DLL written in C and C++.

use std::env;
use std::ffi::{CString, OsString, c_void};
use std::fs;
use std::os::windows::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use windows_sys::Win32::System::LibraryLoader::{GetProcAddress, LoadLibraryW};

use crate::build_dll;

/// Levels of optimisation at which the C callers were compiled.
pub const LEVELS: [&str; 2] = ["O0", "O2"];

/// The convention of plain C, as the DLL's names have it.
pub const C: &str = if cfg!(target_arch = "x86_64") {
    "win64"
} else if cfg!(target_arch = "aarch64") {
    "aapcs64"
} else {
    "cdecl"
};

pub type Unary = unsafe extern "C" fn(isize) -> isize;
pub type Caller = unsafe extern "C" fn(Unary, isize) -> isize;

/// `repeat` or `nest`, for callbacks of plain C.
pub fn caller(name: &str, level: &str) -> Caller {
    // SAFETY: both have this type.
    unsafe { function(&format!("{name}_{C}_{level}")) }
}

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
        #[cfg(target_arch = "x86")]
        register_frames(module);
        module.addr()
    })
}

/// Builds the DLL with a compiler found in PATH.
fn build() -> OsString {
    const CHOICES: [[&str; 2]; 2] = [["gcc", "g++"], ["clang", "clang++"]];
    let works = |name| Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success());
    let tools = CHOICES.iter().find(|tools| tools.iter().all(works)).unwrap_or_else(|| {
        panic!(
            "this test needs a DLL written in C: set {} to its path, as `cargo xtask test windows` does, or put gcc \
             and g++, or clang and clang++, into PATH",
            build_dll::VARIABLE
        )
    });
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(&out).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/windows");
    for mut step in build_dll::steps(env::consts::ARCH, tools, &source, &out) {
        let output = step.output().unwrap();
        assert!(output.status.success(), "{step:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    out.join(build_dll::NAME).into()
}

/// Tells the DLL's C++ library where the program has its unwind data.
#[cfg(target_arch = "x86")]
fn register_frames(module: *mut c_void) {
    unsafe extern "C" {
        // Where rustc's first object begins it.
        static __EH_FRAME_BEGIN__: u8;
    }
    // SAFETY: the DLL has that function; the data is the program's own, and ends in a zero.
    unsafe {
        let register = GetProcAddress(module, c"register_frames".as_ptr().cast()).unwrap();
        let register: unsafe extern "C" fn(*const u8) = std::mem::transmute(register);
        register(&raw const __EH_FRAME_BEGIN__);
    }
}
