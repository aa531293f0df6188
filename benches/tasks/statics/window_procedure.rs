//! A window procedure over state that the program shares with it.

use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr::{null, null_mut, with_exposed_provenance};
use std::rc::Rc;

use windows_sys::Win32::Foundation::{HWND, LPARAM, LRESULT, WPARAM};
use windows_sys::Win32::UI::WindowsAndMessaging::*;
use windows_sys::core::PCWSTR;
use windows_sys::w;

#[derive(Debug, Default, PartialEq)]
struct State {
    clicks: u32,
    size: LPARAM,
}

const CLASS: PCWSTR = w!("a window of a function");

/// A window and its class, and the state whose address is the window's user data.
struct Window {
    handle: HWND,
    _state: Rc<RefCell<State>>, // a field is dropped after the body of `drop`
}

unsafe extern "system" fn procedure(window: HWND, message: u32, wide: WPARAM, long: LPARAM) -> LRESULT {
    if message == WM_NCCREATE {
        // SAFETY: that is what this message brings; the window is this one.
        unsafe {
            let create = with_exposed_provenance::<CREATESTRUCTW>(long as usize);
            SetWindowLongPtrW(window, GWLP_USERDATA, (*create).lpCreateParams.expose_provenance() as _);
        }
    }
    // SAFETY: the window is this one.
    let state = unsafe { GetWindowLongPtrW(window, GWLP_USERDATA) } as usize;
    // SAFETY: it is null, before WM_NCCREATE, or the state, which lives as long as the window.
    let state = unsafe { with_exposed_provenance::<RefCell<State>>(state).as_ref() };
    match (message, state) {
        (WM_LBUTTONDOWN, Some(state)) => {
            state.borrow_mut().clicks += 1;
            0
        }
        (WM_SIZE, Some(state)) => {
            state.borrow_mut().size = long;
            0
        }
        // Not while the state is borrowed: this may call the procedure again, with WM_SIZE for example.
        // SAFETY: these are the arguments of the call.
        _ => unsafe { DefWindowProcW(window, message, wide, long) },
    }
}

impl Window {
    fn new(state: Rc<RefCell<State>>) -> Self {
        let class = WNDCLASSW { lpfnWndProc: Some(procedure), lpszClassName: CLASS, ..Default::default() };
        let data = Rc::as_ptr(&state).cast::<c_void>();
        // SAFETY: the name ends in a zero; the window ends before the state.
        let handle = unsafe {
            RegisterClassW(&class);
            CreateWindowExW(0, CLASS, null(), WS_POPUP, 0, 0, 9, 9, null_mut(), null_mut(), null_mut(), data)
        };
        Self { handle, _state: state }
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
