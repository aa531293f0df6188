//! A window procedure over state that the program shares with it.

use std::cell::RefCell;
use std::ptr::{null, null_mut};
use std::rc::Rc;

use closure_ffi::BareFn;
use windows_sys::Win32::Foundation::{HWND, LPARAM, LRESULT, WPARAM};
use windows_sys::Win32::UI::WindowsAndMessaging::*;
use windows_sys::core::PCWSTR;
use windows_sys::w;

#[derive(Debug, Default, PartialEq)]
struct State {
    clicks: u32,
    size: LPARAM,
}

const CLASS: PCWSTR = w!("a window of a closure");

type Procedure = unsafe extern "system" fn(HWND, u32, WPARAM, LPARAM) -> LRESULT;

/// A window, its class and its procedure. (One at a time: the class has but one name.)
struct Window {
    handle: HWND,
    _procedure: BareFn<'static, Procedure>, // a field is dropped after the body of `drop`
}

impl Window {
    fn new(state: Rc<RefCell<State>>) -> Self {
        let procedure = move |window, message, wide, long| match message {
            WM_LBUTTONDOWN => {
                state.borrow_mut().clicks += 1;
                0
            }
            WM_SIZE => {
                state.borrow_mut().size = long;
                0
            }
            // Not while the state is borrowed: this may call the closure again, with WM_SIZE for example.
            // SAFETY: these are the arguments of the call.
            _ => unsafe { DefWindowProcW(window, message, wide, long) },
        };
        let procedure = BareFn::<Procedure>::new(procedure);
        let class = WNDCLASSW { lpfnWndProc: Some(procedure.bare()), lpszClassName: CLASS, ..Default::default() };
        // SAFETY: the name ends in a zero; the window ends before the procedure.
        let handle = unsafe {
            RegisterClassW(&class);
            CreateWindowExW(0, CLASS, null(), WS_POPUP, 0, 0, 9, 9, null_mut(), null_mut(), null_mut(), null())
        };
        Self { handle, _procedure: procedure }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe {
            DestroyWindow(self.handle); // sends the last messages
            UnregisterClassW(CLASS, null_mut());
        }
    }
}

pub fn run() {
    let state = Rc::new(RefCell::new(State::default()));
    let window = Window::new(Rc::clone(&state));
    // SAFETY: it exists.
    unsafe {
        SendMessageW(window.handle, WM_LBUTTONDOWN, 0, 0);
        SetWindowPos(window.handle, null_mut(), 0, 0, 300, 200, SWP_NOMOVE);
    }
    assert_eq!(*state.borrow(), State { clicks: 1, size: 200 << 16 | 300 });
    drop(window);
    assert_eq!(Rc::strong_count(&state), 1);
}
