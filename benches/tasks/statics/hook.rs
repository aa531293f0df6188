//! A hook of this thread. One at a time: nothing in a call says which hook it is for.

use std::cell::{Cell, RefCell};
use std::ptr::{null, null_mut};
use std::rc::Rc;

use windows_sys::Win32::Foundation::{LPARAM, LRESULT, WPARAM};
use windows_sys::Win32::System::Threading::GetCurrentThreadId;
use windows_sys::Win32::UI::WindowsAndMessaging::*;
use windows_sys::w;

thread_local! {
    static WINDOWS: RefCell<Option<Rc<Cell<u32>>>> = const { RefCell::new(None) };
}

struct Hook {
    handle: HHOOK,
}

unsafe extern "system" fn procedure(code: i32, wide: WPARAM, long: LPARAM) -> LRESULT {
    let windows = WINDOWS.with_borrow(Option::clone);
    if let Some(windows) = windows {
        windows.set(windows.get() + u32::from(code == HCBT_CREATEWND as i32));
    }
    // SAFETY: these are the arguments of the call.
    unsafe { CallNextHookEx(null_mut(), code, wide, long) }
}

impl Hook {
    /// Counts the windows that this thread makes.
    fn new(windows: Rc<Cell<u32>>) -> Self {
        let before = WINDOWS.replace(Some(windows));
        assert!(before.is_none(), "there is a hook");
        // SAFETY: it is a function of this program.
        let handle = unsafe { SetWindowsHookExW(WH_CBT, Some(procedure), null_mut(), GetCurrentThreadId()) };
        Self { handle }
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe { UnhookWindowsHookEx(self.handle) };
        WINDOWS.set(None);
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
