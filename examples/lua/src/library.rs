//! Where foreign functions come from.

use std::ffi::c_void;

use crate::Result;

pub use system::Library;

/// Windows' own loader.
#[cfg(windows)]
mod system {
    use std::ffi::CString;

    use windows_sys::Win32::Foundation::HMODULE;
    use windows_sys::Win32::System::LibraryLoader::{GetProcAddress, LoadLibraryA};

    use super::*;

    /// A DLL, which stays loaded.
    pub struct Library(HMODULE);

    impl Library {
        pub fn load(name: &str) -> Result<Self> {
            let name = CString::new(name)?;
            // SAFETY: the name ends with a zero. What a DLL does when it is loaded is the script's business.
            let module = unsafe { LoadLibraryA(name.as_ptr().cast()) };
            if module.is_null() {
                return Err(format!("{name:?}: {}", std::io::Error::last_os_error()).into());
            }
            Ok(Self(module))
        }

        pub fn function(&self, name: &str) -> Result<*const c_void> {
            let name = CString::new(name)?;
            // SAFETY: the module stays loaded, and the name ends with a zero.
            match unsafe { GetProcAddress(self.0, name.as_ptr().cast()) } {
                Some(function) => Ok(function as *const c_void),
                None => Err(format!("the DLL exports no function {name:?}").into()),
            }
        }
    }
}

/// The loader of the example `host_dll`, for one DLL: once it is there, the process gets no new code.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod system {
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use calltable_host_dll::{Guest, enter, sandbox};

    use super::*;

    static LOADED: AtomicBool = AtomicBool::new(false);

    /// A DLL, which stays loaded.
    pub struct Library(&'static Guest);

    impl Library {
        pub fn load(path: &str) -> Result<Self> {
            let guest = Guest::load(Path::new(path))?;
            if LOADED.swap(true, Ordering::Relaxed) {
                return Err("a script on Linux can load one DLL, and there is one already".into());
            }
            let guest = Box::leak(Box::new(guest));
            std::mem::forget(enter()?);
            // SAFETY: this thread has entered, for good.
            unsafe { guest.attach() }?;
            // What is registered from now on writes no code, or it would be refused.
            sandbox::forbid_new_code()?;
            Ok(Self(guest))
        }

        pub fn function(&self, name: &str) -> Result<*const c_void> {
            Ok(std::ptr::with_exposed_provenance(self.0.image.function(name)?))
        }
    }
}

#[cfg(not(any(windows, all(target_os = "linux", target_arch = "x86_64"))))]
mod system {
    use super::*;

    /// There is none.
    pub enum Library {}

    impl Library {
        pub fn load(_name: &str) -> Result<Self> {
            Err("DLLs can be loaded on Windows, and on Linux for x86_64".into())
        }

        pub fn function(&self, _name: &str) -> Result<*const c_void> {
            match *self {}
        }
    }
}
