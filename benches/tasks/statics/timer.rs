//! A timer of the message loop. A call says which one it is for, so there can be several.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::rc::Rc;

use windows_sys::Win32::Foundation::HWND;
use windows_sys::Win32::UI::WindowsAndMessaging::*;

thread_local! {
    static TICKS: RefCell<HashMap<usize, Rc<Cell<u32>>>> = RefCell::default();
}

struct Timer {
    id: usize,
    _here: PhantomData<*const ()>, // not `Send`
}

unsafe extern "system" fn procedure(_window: HWND, _message: u32, timer: usize, _time: u32) {
    let ticks = TICKS.with_borrow(|all| all.get(&timer).cloned());
    if let Some(ticks) = ticks {
        ticks.set(ticks.get() + 1);
        if ticks.get() == 3 {
            // SAFETY: it takes a number.
            unsafe { PostQuitMessage(0) };
        }
    }
}

impl Timer {
    /// Counts ticks, and ends the message loop at the third.
    fn new(ticks: Rc<Cell<u32>>) -> Self {
        // SAFETY: it is a function of this program.
        let id = unsafe { SetTimer(null_mut(), 0, 10, Some(procedure)) };
        TICKS.with_borrow_mut(|all| all.insert(id, ticks));
        Self { id, _here: PhantomData }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe { KillTimer(null_mut(), self.id) };
        TICKS.with_borrow_mut(|all| all.remove(&self.id));
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
