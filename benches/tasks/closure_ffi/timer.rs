//! A timer of the message loop.

use std::cell::Cell;
use std::ptr::null_mut;
use std::rc::Rc;

use closure_ffi::BareFn;
use windows_sys::Win32::Foundation::HWND;
use windows_sys::Win32::UI::WindowsAndMessaging::*;

type Procedure = unsafe extern "system" fn(HWND, u32, usize, u32);

struct Timer {
    id: usize,
    _procedure: BareFn<'static, Procedure>,
}

impl Timer {
    /// Counts ticks, and ends the message loop at the third.
    fn new(ticks: Rc<Cell<u32>>) -> Self {
        let procedure = move |_window, _message, _timer, _time| {
            ticks.set(ticks.get() + 1);
            if ticks.get() == 3 {
                // SAFETY: it takes a number.
                unsafe { PostQuitMessage(0) };
            }
        };
        let procedure = BareFn::<Procedure>::new(procedure);
        // SAFETY: the procedure lives until the timer is off.
        let id = unsafe { SetTimer(null_mut(), 0, 10, Some(procedure.bare())) };
        Self { id, _procedure: procedure }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe { KillTimer(null_mut(), self.id) };
    }
}

pub fn run() {
    let ticks = Rc::new(Cell::new(0));
    let timer = Timer::new(Rc::clone(&ticks));
    let mut message = MSG::default();
    // SAFETY: the message is ours.
    unsafe {
        while GetMessageW(&mut message, null_mut(), 0, 0) > 0 {
            DispatchMessageW(&message); // calls the procedure
        }
    }
    drop(timer);
    assert_eq!(ticks.get(), 3);
}
