//! Lists the titles of all top-level windows: `cargo run --example enum_windows`.

#[cfg(windows)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use calltable::Callback;
    use windows_sys::Win32::Foundation::{HWND, LPARAM};
    use windows_sys::Win32::UI::WindowsAndMessaging::{EnumWindows, GetWindowTextW, WNDENUMPROC};

    let mut titles = Vec::new();
    let mut closure = |window: HWND, _parameter: LPARAM| {
        let mut text = [0; 256];
        // SAFETY: the buffer has that length; a window that is gone by now has no title.
        let length = unsafe { GetWindowTextW(window, text.as_mut_ptr(), text.len() as i32) };
        if length > 0 {
            titles.push(String::from_utf16_lossy(&text[..length as usize]));
        }
        1 // TRUE: continue
    };

    // The type says all that there is to know about a call: the callback's convention and parameters are taken from it.
    // `from_mut`, since the closure changes what it captured. `EnumWindows` calls it for one window after the other; a
    // callback that may be called while it runs, as a window procedure, wants `from_local`: see the example `window`.
    let callback = Callback::<WNDENUMPROC>::from_mut(&mut closure)?;
    // SAFETY: `callback` lives until `EnumWindows` has returned, and `EnumWindows` keeps no copy of the pointer.
    let complete = unsafe { EnumWindows(callback.code(), 0) };
    if complete == 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    drop(callback); // ends the loan of `titles`, and gives the slot back

    for title in &titles {
        println!("{title}");
    }
    println!("({} windows have a title)", titles.len());
    Ok(())
}

#[cfg(not(windows))]
fn main() {
    println!("this example is for Windows");
}
