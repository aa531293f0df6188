//! Messages of somebody else's window, which pass through our code first.

use std::cell::Cell;
use std::ptr::{null, null_mut, with_exposed_provenance};
use std::rc::Rc;

use calltable::{Callback, Error};
use windows_sys::Win32::Foundation::{HWND, LPARAM, LRESULT, WPARAM};
use windows_sys::Win32::UI::Shell::{DefSubclassProc, RemoveWindowSubclass, SetWindowSubclass};
use windows_sys::Win32::UI::WindowsAndMessaging::*;
use windows_sys::w;

/// `SetWindowSubclass` keeps a number of ours, the state's address: a plain function is enough.
///
/// # Safety
/// The window must be this thread's.
unsafe fn with_reference_data(window: HWND) {
    unsafe extern "system" fn count(
        window: HWND,
        message: u32,
        wide: WPARAM,
        long: LPARAM,
        _id: usize,
        texts: usize,
    ) -> LRESULT {
        // SAFETY: that is the number below; the cell lives until the subclass is off.
        let texts = unsafe { &*with_exposed_provenance::<Cell<u32>>(texts) };
        texts.set(texts.get() + u32::from(message == WM_SETTEXT));
        // SAFETY: these are the arguments of the call.
        unsafe { DefSubclassProc(window, message, wide, long) }
    }
    let texts = Cell::new(0);
    // SAFETY: the cell lives until the subclass is off.
    unsafe {
        SetWindowSubclass(window, Some(count), 1, (&raw const texts).expose_provenance());
        SetWindowTextW(window, w!("a text"));
        RemoveWindowSubclass(window, Some(count), 1);
    }
    assert_eq!(texts.get(), 1);
}

/// Who replaces the procedure itself has no such number: GWLP_USERDATA is for the code that made the window's class.
struct Subclass {
    window: HWND,
    before: WNDPROC,
    _procedure: Callback<'static, WNDPROC>,
}

/// Replaces a window's procedure, and returns the one before.
///
/// # Safety
/// The window must be this thread's, and the procedure one for as long as it is the window's.
unsafe fn replace(window: HWND, procedure: WNDPROC) -> WNDPROC {
    let address = procedure.map_or(0, |procedure| procedure as usize);
    // SAFETY: by the caller's promise; what comes back is null or a procedure.
    unsafe { std::mem::transmute(SetWindowLongPtrW(window, GWLP_WNDPROC, address as _) as usize) }
}

impl Subclass {
    /// # Safety
    /// The window must be this thread's, and outlive what this returns.
    unsafe fn new(window: HWND, texts: Rc<Cell<u32>>) -> Result<Self, Error> {
        // SAFETY: the number is a window procedure.
        let before: WNDPROC = unsafe { std::mem::transmute(GetWindowLongPtrW(window, GWLP_WNDPROC) as usize) };
        let procedure = move |window, message, wide, long| {
            texts.set(texts.get() + u32::from(message == WM_SETTEXT));
            // SAFETY: these are the arguments of the call.
            unsafe { CallWindowProcW(before, window, message, wide, long) }
        };
        // SAFETY: the window is this thread's, and `Self` stays there; the procedure lives until it is taken off.
        unsafe {
            let procedure = Callback::<WNDPROC>::new_local(procedure)?;
            replace(window, procedure.code());
            Ok(Self { window, before, _procedure: procedure })
        }
    }
}

impl Drop for Subclass {
    fn drop(&mut self) {
        // SAFETY: by the promise of `new`.
        unsafe { replace(self.window, self.before) };
    }
}

pub fn run() -> Result<(), Error> {
    let (class, parent) = (w!("STATIC"), HWND_MESSAGE);
    let texts = Rc::new(Cell::new(0));
    // SAFETY: the class is the system's; the window lives until the end.
    unsafe {
        let window = CreateWindowExW(0, class, null(), 0, 0, 0, 9, 9, parent, null_mut(), null_mut(), null());
        with_reference_data(window);
        let subclass = Subclass::new(window, Rc::clone(&texts))?;
        SetWindowTextW(window, w!("one"));
        drop(subclass);
        SetWindowTextW(window, w!("another"));
        DestroyWindow(window);
    }
    assert_eq!(texts.get(), 1);
    Ok(())
}
