//! A window whose procedure is a closure over the program's own state:
//! `cargo run --example window [-- --close-after MILLISECONDS]`.

#[cfg(windows)]
mod windows {
    use std::cell::Cell;
    use std::env;
    use std::error::Error;
    use std::io;
    use std::ptr::{null, null_mut};

    use calltable::Callback;
    use windows_sys::Win32::Foundation::{HWND, LPARAM, LRESULT, WPARAM};
    use windows_sys::Win32::Graphics::Gdi::*;
    use windows_sys::Win32::System::LibraryLoader::GetModuleHandleW;
    use windows_sys::Win32::UI::WindowsAndMessaging::*;
    use windows_sys::w;

    /// What the window is about.
    #[derive(Default)]
    struct State {
        clicks: Cell<u32>,
        messages: Cell<u32>,
        /// Messages that came while another one was being handled, and how many are being handled now.
        nested: Cell<u32>,
        depth: Cell<u32>,
    }

    fn add(number: &Cell<u32>, more: u32) {
        number.set(number.get() + more);
    }

    impl State {
        fn handle(&self, window: HWND, message: u32, wparam: WPARAM, lparam: LPARAM) -> LRESULT {
            add(&self.messages, 1);
            let depth = self.depth.get();
            self.depth.set(depth + 1);
            add(&self.nested, u32::from(depth > 0));
            let mut result = 0;
            // SAFETY: Windows passes the handle of a window that exists; a PAINTSTRUCT is plain numbers and a handle.
            unsafe {
                match message {
                    WM_LBUTTONDOWN => {
                        add(&self.clicks, 1);
                        InvalidateRect(window, null(), 1); // asks for a WM_PAINT
                    }
                    WM_PAINT => {
                        let text = format!("{} clicks", self.clicks.get());
                        let mut paint: PAINTSTRUCT = std::mem::zeroed();
                        let context = BeginPaint(window, &mut paint);
                        TextOutA(context, 20, 20, text.as_ptr(), text.len() as i32);
                        EndPaint(window, &paint);
                    }
                    WM_TIMER => _ = DestroyWindow(window), // sends WM_DESTROY
                    WM_DESTROY => PostQuitMessage(0),
                    _ => result = DefWindowProcW(window, message, wparam, lparam),
                }
            }
            self.depth.set(depth);
            result
        }
    }

    pub fn main() -> Result<(), Box<dyn Error>> {
        let close_after = env::args().skip_while(|argument| argument != "--close-after").nth(1);
        let close_after = close_after.map(|milliseconds| milliseconds.parse()).transpose()?;

        // A window procedure is entered again while it runs: `DestroyWindow`, `DefWindowProcW` and many others send
        // messages before they return. So it takes state that is changed through a shared reference; with `from_mut`
        // the second call would be refused and stop the program.
        let state = State::default();
        let closure = |window, message, wparam, lparam| state.handle(window, message, wparam, lparam);
        // SAFETY: a window's messages come to the thread that has made it.
        let callback = unsafe { Callback::<WNDPROC>::from_local(&closure)? };

        // SAFETY: `callback` lives until the message loop has ended, and with it the only window of the class;
        // WNDCLASSW and MSG are plain numbers, handles and pointers; the strings end in zeros.
        unsafe {
            let module = GetModuleHandleW(null());
            let class = WNDCLASSW {
                lpfnWndProc: callback.code(),
                hInstance: module,
                lpszClassName: w!("calltable example"),
                hCursor: LoadCursorW(null_mut(), IDC_ARROW),
                hbrBackground: (COLOR_WINDOW + 1) as usize as *mut _,
                ..std::mem::zeroed()
            };
            RegisterClassW(&class);
            let style = WS_OVERLAPPEDWINDOW | WS_VISIBLE;
            let (name, title) = (class.lpszClassName, w!("A closure's window"));
            let window =
                CreateWindowExW(0, name, title, style, 50, 50, 400, 200, null_mut(), null_mut(), module, null());
            if window.is_null() {
                return Err(io::Error::last_os_error().into());
            }
            if let Some(milliseconds) = close_after {
                SetTimer(window, 1, milliseconds, None);
            }
            let mut message: MSG = std::mem::zeroed();
            while GetMessageW(&mut message, null_mut(), 0, 0) > 0 {
                DispatchMessageW(&message);
            }
        }
        drop(callback);

        let (messages, nested) = (state.messages.into_inner(), state.nested.into_inner());
        println!("{messages} messages, {nested} of them while another one was being handled");
        Ok(())
    }
}

#[cfg(windows)]
use windows::main;

#[cfg(not(windows))]
fn main() {
    println!("this example is for Windows");
}
