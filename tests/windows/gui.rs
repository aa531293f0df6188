//! Windows of the desktop: enumerations, messages, timers, hooks.

use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use calltable::{Callback, Convention, Signature, StaleReason, Type, set_stale_handler};
use windows_sys::Win32::Foundation::{HWND, LPARAM, LRESULT, WPARAM};
use windows_sys::Win32::System::LibraryLoader::GetModuleHandleW;
use windows_sys::Win32::System::Threading::GetCurrentThreadId;
use windows_sys::Win32::UI::WindowsAndMessaging::*;
use windows_sys::core::BOOL;
use windows_sys::w;

type EnumProc = unsafe extern "system" fn(HWND, LPARAM) -> BOOL;
type WindowProc = unsafe extern "system" fn(HWND, u32, WPARAM, LPARAM) -> LRESULT;
type HookProc = unsafe extern "system" fn(i32, WPARAM, LPARAM) -> LRESULT;
type TimerProc = unsafe extern "system" fn(HWND, u32, usize, u32);

/// A window that ends with this value.
struct Window(HWND);

impl Window {
    fn new(class: *const u16, parent: HWND) -> Option<Self> {
        let style = if parent.is_null() { WS_OVERLAPPEDWINDOW } else { WS_CHILD };
        // SAFETY: the strings end in zeros; the class exists for as long as the window.
        let window = unsafe {
            CreateWindowExW(
                0,
                class,
                w!("calltable"),
                style,
                0,
                0,
                50,
                50,
                parent,
                null_mut(),
                GetModuleHandleW(null()),
                null(),
            )
        };
        (!window.is_null()).then_some(Self(window))
    }

    fn plain(parent: HWND) -> Self {
        Self::new(w!("STATIC"), parent).expect("a window can be made: is there a display?")
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: made by this thread.
        unsafe { DestroyWindow(self.0) };
    }
}

/// Dispatches this thread's messages until `done`, or too long.
fn pump(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_millis(crate::threads::PATIENCE.into());
    // SAFETY: a MSG is plain numbers and a handle.
    let mut message: MSG = unsafe { std::mem::zeroed() };
    while !done() {
        assert!(Instant::now() < end, "the messages do not come");
        // SAFETY: the message is ours.
        unsafe {
            MsgWaitForMultipleObjects(0, null(), 0, 100, QS_ALLINPUT);
            while PeekMessageW(&mut message, null_mut(), 0, 0, PM_REMOVE) != 0 {
                DispatchMessageW(&message);
            }
        }
    }
}

#[test]
fn enum_windows() {
    let (first, second) = (Window::plain(null_mut()), Window::plain(null_mut()));
    let mut seen = Vec::new();
    let mut parameters = Vec::new();
    let mut closure = |window: HWND, parameter: LPARAM| {
        seen.push(window.addr());
        parameters.push(parameter);
        1
    };
    let callback = Callback::<EnumProc>::from_mut(&mut closure).unwrap();
    // SAFETY: the callback lives.
    assert_ne!(unsafe { EnumWindows(Some(callback.code()), -888) }, 0);
    drop(callback);
    assert!([first.0, second.0].iter().all(|window| seen.contains(&window.addr())), "our own windows are seen");
    assert!(parameters.iter().all(|parameter| *parameter == -888), "{parameters:?}");

    let mut calls = 0;
    let mut closure = |_: HWND, _: LPARAM| {
        calls += 1;
        0
    };
    let callback = Callback::<EnumProc>::from_mut(&mut closure).unwrap();
    // SAFETY: the callback lives.
    unsafe { EnumWindows(Some(callback.code()), 0) };
    drop(callback);
    assert_eq!(calls, 1, "the callback's FALSE ends the enumeration");
}

#[cfg(feature = "std")]
#[test]
fn a_panic_goes_on_when_enum_windows_has_returned() {
    let _two = [Window::plain(null_mut()), Window::plain(null_mut())];
    let (calls, returned) = (AtomicU32::new(0), AtomicU32::new(0));
    let closure = |_: HWND, _: LPARAM| -> BOOL {
        calls.fetch_add(1, Ordering::Relaxed);
        panic!("at the first window");
    };
    let enumerate = |code: EnumProc| {
        // SAFETY: the callback lives while this runs.
        unsafe { EnumWindows(Some(code), 0) };
        returned.fetch_add(1, Ordering::Relaxed);
    };
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Callback::<EnumProc>::scope(closure, || 0, enumerate).unwrap();
    }));
    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"at the first window"));
    let counts = (calls.into_inner(), returned.into_inner());
    assert_eq!(counts, (1, 1), "calls (the fallback, FALSE, ended the enumeration), returns of EnumWindows");
}

#[test]
fn enum_child_windows() {
    let parent = Window::plain(null_mut());
    let children: Vec<Window> = (0..3).map(|_| Window::plain(parent.0)).collect();
    let mut seen = Vec::new();
    let mut closure = |window: HWND, parameter: LPARAM| {
        seen.push((window.addr(), parameter));
        1
    };
    let callback = Callback::<EnumProc>::from_mut(&mut closure).unwrap();
    // SAFETY: the callback lives.
    unsafe { EnumChildWindows(parent.0, Some(callback.code()), 5) };
    drop(callback);
    let mut expected: Vec<_> = children.iter().map(|child| (child.0.addr(), 5)).collect();
    expected.sort();
    seen.sort();
    assert_eq!(seen, expected);
}

#[test]
fn a_window_class_whose_messages_arrive_in_a_closure() {
    const ADD: u32 = WM_APP;
    const NEST: u32 = WM_APP + 1;
    const POSTED: u32 = WM_APP + 2;
    let (seen, sum, posted) = (Mutex::new(Vec::new()), AtomicUsize::new(0), AtomicU32::new(0));
    let procedure = |window: HWND, message: u32, wide: WPARAM, long: LPARAM| -> LRESULT {
        seen.lock().unwrap().push(message);
        // SAFETY: a window procedure may send messages to its own window, and hands on what it does not know.
        unsafe {
            match message {
                ADD => (sum.fetch_add(wide, Ordering::Relaxed) + wide) as LRESULT - long,
                NEST if wide > 0 => 1 + SendMessageW(window, NEST, wide - 1, long),
                NEST => long,
                POSTED => {
                    posted.fetch_add(1, Ordering::Relaxed);
                    0
                }
                _ => DefWindowProcW(window, message, wide, long),
            }
        }
    };
    let callback = Callback::<WindowProc>::from_ref(&procedure).unwrap();
    let class = w!("calltable test");
    // SAFETY: the rest of the class may be zero, the name ends in one; class and window end before the callback.
    unsafe {
        let mut description: WNDCLASSW = std::mem::zeroed();
        description.lpfnWndProc = Some(callback.code());
        description.lpszClassName = class;
        description.hInstance = GetModuleHandleW(null());
        assert_ne!(RegisterClassW(&description), 0);
        let window = Window::new(class, null_mut()).unwrap();
        assert_eq!(SendMessageW(window.0, ADD, 30, 1), 29);
        assert_eq!(SendMessageW(window.0, ADD, 12, -1), 43);
        assert_eq!(SendMessageW(window.0, NEST, 50, 7), 57, "the procedure calls itself through SendMessage");
        for _ in 0..10 {
            assert_ne!(PostMessageW(window.0, POSTED, 0, 0), 0);
        }
        assert_eq!(posted.load(Ordering::Relaxed), 0, "posted messages wait for the loop");
        pump(|| posted.load(Ordering::Relaxed) == 10);
        drop(window);
        assert_ne!(UnregisterClassW(class, GetModuleHandleW(null())), 0);
    }
    drop(callback);
    let seen = seen.into_inner().unwrap();
    for (message, name) in [(WM_NCCREATE, "WM_NCCREATE"), (WM_CREATE, "WM_CREATE"), (WM_DESTROY, "WM_DESTROY")] {
        assert_eq!(seen.iter().filter(|found| **found == message).count(), 1, "{name}");
    }
    assert_eq!(seen.last(), Some(&WM_NCDESTROY));
}

/// A window outlives its procedure, and sends to itself while that may run once at a time.
#[test]
fn refused_messages_of_a_window_go_to_its_default_procedure() {
    const LENGTH_FROM_WITHIN: u32 = WM_APP;
    static SIGNATURE: OnceLock<Signature> = OnceLock::new();
    static REFUSED: Mutex<Vec<(StaleReason, u32)>> = Mutex::new(Vec::new());
    let parameters = [Type::Pointer, Type::U32, Type::USIZE, Type::ISIZE];
    let signature = Signature::new(Convention::NATIVE, &parameters, Some(Type::ISIZE)).unwrap();
    SIGNATURE.set(signature).unwrap();
    // SAFETY: this test alone makes calls that are refused, of window procedures, which may return what the default one
    // does.
    unsafe {
        set_stale_handler(Some(|call| {
            let reason = call.reason;
            let mut frame = call.frame(SIGNATURE.get().unwrap());
            let (window, message) = (frame.get::<HWND>(0).unwrap(), frame.get(1).unwrap());
            REFUSED.lock().unwrap().push((reason, message));
            let result: LRESULT = DefWindowProcW(window, message, frame.get(2).unwrap(), frame.get(3).unwrap());
            frame.set_result(result).unwrap();
        }))
        .unwrap();
    }
    let mut calls = 0;
    let mut procedure = |window: HWND, message: u32, wide: WPARAM, long: LPARAM| -> LRESULT {
        calls += 1;
        // SAFETY: as for any window procedure.
        unsafe {
            match message {
                LENGTH_FROM_WITHIN => SendMessageW(window, WM_GETTEXTLENGTH, 0, 0),
                _ => DefWindowProcW(window, message, wide, long),
            }
        }
    };
    let callback = Callback::<WindowProc>::from_mut(&mut procedure).unwrap();
    let class = w!("calltable test of refused messages");
    // SAFETY: as above, but that the callback ends before the window: then its procedure is the stale handler.
    unsafe {
        let mut description: WNDCLASSW = std::mem::zeroed();
        description.lpfnWndProc = Some(callback.code());
        description.lpszClassName = class;
        description.hInstance = GetModuleHandleW(null());
        assert_ne!(RegisterClassW(&description), 0);
        let window = Window::new(class, null_mut()).unwrap();
        REFUSED.lock().unwrap().clear(); // Windows, too, sends from within
        assert_eq!(SendMessageW(window.0, LENGTH_FROM_WITHIN, 0, 0), 9, "the length of its name");
        assert_eq!(*REFUSED.lock().unwrap(), [(StaleReason::Running, WM_GETTEXTLENGTH)]);

        drop(callback);
        assert_ne!(calls, 0);
        REFUSED.lock().unwrap().clear();
        let mut text = [0; 20];
        assert_ne!(SetWindowTextW(window.0, w!("another name")), 0);
        let length = SendMessageW(window.0, WM_GETTEXT, text.len(), text.as_mut_ptr().addr() as LPARAM);
        assert_eq!(String::from_utf16_lossy(&text[..length as usize]), "another name");
        assert_eq!(SendMessageW(window.0, LENGTH_FROM_WITHIN, 1, 1), 0, "the default procedure does not know it");
        drop(window);
        assert_ne!(UnregisterClassW(class, GetModuleHandleW(null())), 0);
        set_stale_handler(None).unwrap();
    }
    let refused = REFUSED.lock().unwrap();
    assert!(refused.iter().all(|(reason, _)| *reason == StaleReason::Released), "{refused:?}");
    for message in [WM_SETTEXT, WM_GETTEXT, LENGTH_FROM_WITHIN, WM_DESTROY, WM_NCDESTROY] {
        assert_eq!(refused.iter().filter(|(_, found)| *found == message).count(), 1, "{message:#x} in {refused:?}");
    }
}

#[test]
fn a_timer_of_the_message_loop() {
    let ticks = Mutex::new(Vec::new());
    let closure = |window: HWND, message: u32, timer: usize, time: u32| {
        ticks.lock().unwrap().push((window.is_null(), message, timer, time));
    };
    let callback = Callback::<TimerProc>::from_ref(&closure).unwrap();
    // SAFETY: the timer is stopped before the callback ends.
    let timer = unsafe { SetTimer(null_mut(), 0, 10, Some(callback.code())) };
    assert_ne!(timer, 0);
    pump(|| ticks.lock().unwrap().len() >= 3);
    // SAFETY: it is this thread's timer.
    assert_ne!(unsafe { KillTimer(null_mut(), timer) }, 0);
    drop(callback);
    for (no_window, message, id, time) in ticks.into_inner().unwrap() {
        assert_eq!((no_window, message, id), (true, WM_TIMER, timer));
        assert_ne!(time, 0);
    }
}

/// A hook of this thread, which ends with this value.
struct Hook(HHOOK);

impl Hook {
    /// # Safety
    /// The procedure must live as long as the hook.
    unsafe fn new(kind: WINDOWS_HOOK_ID, procedure: HookProc) -> Self {
        // SAFETY: by the caller's promise.
        let hook = unsafe { SetWindowsHookExW(kind, Some(procedure), null_mut(), GetCurrentThreadId()) };
        assert!(!hook.is_null());
        Self(hook)
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe { UnhookWindowsHookEx(self.0) };
    }
}

#[test]
fn a_hook_that_refuses_a_window() {
    let refused = AtomicU32::new(0);
    let closure = |code: i32, wide: WPARAM, long: LPARAM| -> LRESULT {
        if code == HCBT_CREATEWND as i32 {
            refused.fetch_add(1, Ordering::Relaxed);
            return 1;
        }
        // SAFETY: hands on what it got.
        unsafe { CallNextHookEx(null_mut(), code, wide, long) }
    };
    let callback = Callback::<HookProc>::from_ref(&closure).unwrap();
    // SAFETY: the callback lives longer.
    let hook = unsafe { Hook::new(WH_CBT, callback.code()) };
    assert!(Window::new(w!("STATIC"), null_mut()).is_none(), "the hook's result is what Windows acts on");
    assert_eq!(refused.load(Ordering::Relaxed), 1);
    drop(hook);
    assert!(Window::new(w!("STATIC"), null_mut()).is_some());
    assert_eq!(refused.load(Ordering::Relaxed), 1);
}

/// Doubles a WH_GETMESSAGE hook's message; returns what it was.
///
/// # Safety
/// The parameters must be those of such a hook's call, which may change its message.
unsafe fn double(code: i32, long: LPARAM) -> Option<WPARAM> {
    let message = std::ptr::without_provenance_mut::<MSG>(long as usize);
    // SAFETY: by the caller's promise.
    unsafe {
        let ours = code == HC_ACTION as i32 && (*message).message == WM_APP;
        ours.then(|| std::mem::replace(&mut (*message).wParam, (*message).wParam * 2))
    }
}

#[test]
fn a_hook_that_sees_and_changes_messages() {
    unsafe extern "system" fn plain(code: i32, wide: WPARAM, long: LPARAM) -> LRESULT {
        // SAFETY: they are, and it hands them on.
        unsafe {
            double(code, long);
            CallNextHookEx(null_mut(), code, wide, long)
        }
    }
    let window = Window::plain(null_mut());
    let posted_under = |procedure: HookProc| {
        // SAFETY: the procedure lives longer than the hook; the message is ours.
        unsafe {
            let _hook = Hook::new(WH_GETMESSAGE, procedure);
            assert_ne!(PostMessageW(window.0, WM_APP, 21, 4), 0);
            let mut message: MSG = std::mem::zeroed();
            assert_ne!(GetMessageW(&mut message, window.0, WM_APP, WM_APP), 0);
            (message.wParam, message.lParam)
        }
    };
    let seen = Mutex::new(Vec::new());
    let closure = |code: i32, wide: WPARAM, long: LPARAM| -> LRESULT {
        // SAFETY: as above.
        unsafe {
            seen.lock().unwrap().extend(double(code, long));
            CallNextHookEx(null_mut(), code, wide, long)
        }
    };
    let callback = Callback::<HookProc>::from_ref(&closure).unwrap();
    let arrived = posted_under(callback.code());
    drop(callback);
    assert_eq!(seen.into_inner().unwrap(), [21]);
    // Wine 8 lets the hooks of 32-bit programs change a copy.
    assert_eq!(arrived, posted_under(plain), "as with a plain function");
    assert!(cfg!(target_pointer_width = "32") || arrived == (42, 4), "{arrived:?}");
}
