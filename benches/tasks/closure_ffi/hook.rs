//! A hook of this thread.

use std::cell::Cell;
use std::ptr::{null, null_mut};
use std::rc::Rc;

use closure_ffi::BareFn;
use windows_sys::Win32::Foundation::{LPARAM, LRESULT, WPARAM};
use windows_sys::Win32::System::Threading::GetCurrentThreadId;
use windows_sys::Win32::UI::WindowsAndMessaging::*;
use windows_sys::w;

type Procedure = unsafe extern "system" fn(i32, WPARAM, LPARAM) -> LRESULT;

struct Hook {
    handle: HHOOK,
    _procedure: BareFn<'static, Procedure>,
}

impl Hook {
    /// Counts the windows that this thread makes.
    fn new(windows: Rc<Cell<u32>>) -> Self {
        let procedure = move |code, wide, long| {
            windows.set(windows.get() + u32::from(code == HCBT_CREATEWND as i32));
            // SAFETY: these are the arguments of the call.
            unsafe { CallNextHookEx(null_mut(), code, wide, long) }
        };
        let procedure = BareFn::<Procedure>::new(procedure);
        // SAFETY: the procedure lives until the hook is off.
        let handle = unsafe { SetWindowsHookExW(WH_CBT, Some(procedure.bare()), null_mut(), GetCurrentThreadId()) };
        Self { handle, _procedure: procedure }
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe { UnhookWindowsHookEx(self.handle) };
    }
}

fn open_and_close() {
    // SAFETY: the class is the system's; the window ends here.
    unsafe {
        let (class, parent) = (w!("STATIC"), HWND_MESSAGE);
        DestroyWindow(CreateWindowExW(0, class, null(), 0, 0, 0, 9, 9, parent, null_mut(), null_mut(), null()));
    }
}

pub fn run() {
    let windows = Rc::new(Cell::new(0));
    let hook = Hook::new(Rc::clone(&windows));
    open_and_close();
    open_and_close();
    drop(hook);
    open_and_close();
    assert_eq!(windows.get(), 2);
}
