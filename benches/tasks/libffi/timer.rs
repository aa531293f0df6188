//! A timer of the message loop.

use std::cell::Cell;
use std::mem::transmute;
use std::ptr::null_mut;
use std::rc::Rc;

use libffi::high::Closure4;
use windows_sys::Win32::Foundation::HWND;
use windows_sys::Win32::UI::WindowsAndMessaging::*;

type Handler = Box<dyn Fn(HWND, u32, usize, u32)>;

struct Timer {
    id: usize,
    _procedure: Closure4<'static, HWND, u32, usize, u32, ()>,
    _handler: Rc<Handler>, // dropped after what borrows it
}

impl Timer {
    /// Counts ticks, and ends the message loop at the third.
    fn new(ticks: Rc<Cell<u32>>) -> Self {
        let handler: Rc<Handler> = Rc::new(Box::new(move |_window, _message, _timer, _time| {
            ticks.set(ticks.get() + 1);
            if ticks.get() == 3 {
                // SAFETY: it takes a number.
                unsafe { PostQuitMessage(0) };
            }
        }));
        // SAFETY: it stays where it is, and is dropped last; the loop of this thread calls it.
        let procedure = Closure4::new(unsafe { &*Rc::as_ptr(&handler) });
        // SAFETY: on x86_64 "system" is the same as "C".
        let code: TIMERPROC = unsafe { transmute(*procedure.code_ptr()) };
        // SAFETY: the procedure lives until the timer is off.
        let id = unsafe { SetTimer(null_mut(), 0, 10, code) };
        Self { id, _procedure: procedure, _handler: handler }
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
