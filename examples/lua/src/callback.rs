//! Lua functions as callbacks.
//!
//! What a script holds is a userdata, the [`Callback`]; the function is the userdata's user value, so that Lua's
//! collector sees it, even if the function refers to its own callback. What the table holds is the address of a
//! [`Handler`].
//!
//! Each registration is tracked: its handler is freed when the slot has been released and no call is running. Neither
//! a release within the callback itself, nor a call from another thread at the wrong moment meets memory that is gone.

use std::cell::RefCell;
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use calltable::table::{self, Binding, SlotKey};
use calltable::{Error, Frame, NotReleased, RawFrame};
use mlua::{AnyUserData, Function, Lua, MetaMethod, UserData, UserDataMethods, WeakLua};

use crate::declaration::Declaration;
use crate::runtime::State;

/// A registration, as a script holds it.
pub struct Callback {
    registered: RefCell<Option<Registered>>,
    declaration: Arc<Declaration>,
    state: Rc<State>,
}

/// What is to be given back.
pub struct Registered {
    key: SlotKey,
    handler: *mut Handler,
}

/// The data of a registration.
pub struct Handler {
    shared: Shared,
    /// For the interpreter's thread alone.
    lua: WeakLua,
}

/// The part that every thread may look at.
struct Shared {
    /// The interpreter's thread.
    home: usize,
    declaration: Arc<Declaration>,
    reports: Sender<String>,
    /// Where calls from other threads wait, if they are not to be refused.
    queue: Option<Sender<Call>>,
}

const _: () = {
    const fn is_shared<T: Sync>() {}
    is_shared::<Shared>();
};

/// A call from another thread, which waits until `done` is dropped.
pub struct Call {
    handler: *mut Handler,
    frame: *mut RawFrame,
    done: Sender<()>,
}

// SAFETY: the interpreter's thread, which owns the handler, gets the frame for as long as the caller's thread waits.
unsafe impl Send for Call {}

impl Callback {
    /// Registers a function. When the table is full, Lua collects its garbage first.
    pub fn create(
        lua: &Lua,
        declaration: &Arc<Declaration>,
        function: Function,
        queued: bool,
    ) -> mlua::Result<AnyUserData> {
        let state = State::of(lua);
        let shared = Shared {
            home: here(),
            declaration: declaration.clone(),
            reports: state.reports.0.clone(),
            queue: queued.then(|| state.queue.0.clone()),
        };
        let handler = Box::into_raw(Box::new(Handler { shared, lua: lua.weak() }));
        // SAFETY: `handle` takes a handler, from any thread; it is freed after the release.
        let binding = unsafe { Binding::frame(handle, &declaration.signature, handler.cast()).tracked() };
        let mut key = table::register(&binding);
        if matches!(key, Err(Error::TableFull { .. })) {
            state.collect(lua)?;
            key = table::register(&binding);
        }
        let key = key.map_err(|error| {
            // SAFETY: it has not been registered.
            drop(unsafe { Box::from_raw(handler) });
            mlua::Error::runtime(error)
        })?;
        let registered = RefCell::new(Some(Registered { key, handler }));
        let callback = Self { registered, declaration: declaration.clone(), state: state.clone() };
        let callback = lua.create_userdata(callback)?;
        callback.set_user_value(function)?;
        state.callbacks.raw_set(handler.addr(), &callback)?;
        Ok(callback)
    }

    pub fn declaration(&self) -> &Declaration {
        &self.declaration
    }

    /// What foreign code calls.
    pub fn address(&self) -> Result<usize, String> {
        let registered = self.registered.borrow();
        let registered = registered.as_ref().ok_or("the callback has been released")?;
        Ok(registered.key.code().as_ptr().expose_provenance())
    }

    /// Gives the slot back, now or when its running calls have ended.
    pub fn release(&self) {
        self.state.release(self.registered.take());
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        self.release();
    }
}

impl UserData for Callback {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("address", |_, callback, ()| callback.address().map_err(mlua::Error::runtime));
        methods.add_method("release", |_, callback, ()| {
            callback.release();
            Ok(())
        });
        methods.add_meta_method(MetaMethod::Close, |_, callback, _: mlua::Value| {
            callback.release();
            Ok(())
        });
    }
}

impl Registered {
    /// Gives all back, or comes back to be tried again later. For the interpreter's thread.
    pub fn try_release(self) -> Option<Self> {
        use calltable::ReleaseError::{Busy, InFlight};
        if let Err(NotReleased { handle: key, error: Busy | InFlight }) = table::try_release(self.key) {
            return Some(Self { key, ..self });
        }
        // SAFETY: no call is running, and none can begin.
        drop(unsafe { Box::from_raw(self.handler) });
        None
    }
}

/// A number that no other thread has while this one lives; 0 in a thread that is ending.
fn here() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.try_with(|here| (&raw const *here).addr()).unwrap_or(0)
}

/// Every callback's call begins here, on whatever thread. A panic would stop the program: it does not pass foreign
/// frames.
unsafe extern "efiapi" fn handle(data: *mut c_void, frame: *mut RawFrame) {
    let handler = data.cast::<Handler>();
    // SAFETY: the handler lives while calls are running; this part of it is for every thread.
    let shared = unsafe { &(*handler).shared };
    if shared.home == here() {
        // SAFETY: this is the interpreter's thread; the frame is this call's own.
        unsafe { run(handler, frame) };
    } else {
        shared.hand_over(handler, frame);
    }
}

/// Runs the function on the interpreter's thread.
///
/// # Safety
/// It must be the thread, and the frame that of a running call of the handler.
unsafe fn run(handler: *mut Handler, frame: *mut RawFrame) {
    // SAFETY: by the caller's promise; the handler lives while the call is running.
    let (Handler { shared, lua }, frame) = unsafe { (&*handler, &mut *frame) };
    let signature = &shared.declaration.signature;
    // SAFETY: the frame's call was registered with this signature.
    let mut frame = unsafe { Frame::new(frame, signature) };
    match lua.try_upgrade() {
        Some(lua) => State::of(&lua).run(handler.addr(), &shared.declaration, &mut frame),
        None => shared.refuse("comes after the interpreter has ended"),
    }
}

impl Call {
    /// Runs it, on the interpreter's thread, and lets the other thread continue.
    pub fn run(self) {
        // SAFETY: only this thread takes calls out of the queue, and the caller waits for `done`.
        unsafe { run(self.handler, self.frame) };
        // It waits: its end of the channel is there.
        let _ = self.done.send(());
    }
}

impl Shared {
    /// On another thread: waits in the queue, or refuses the call, which returns zero then.
    fn hand_over(&self, handler: *mut Handler, frame: *mut RawFrame) {
        let Some(queue) = &self.queue else {
            return self.refuse("was refused: make the callback with ffi.queued, and let ffi.serve run such calls");
        };
        let (done, end) = mpsc::channel();
        let sent = queue.send(Call { handler, frame, done });
        if sent.is_err() || end.recv().is_err() {
            self.refuse("comes after the interpreter has ended");
        }
    }

    fn refuse(&self, why: &str) {
        let report = format!("a call of the callback {:?} from another thread {why}", self.declaration.text);
        // If the interpreter has ended, there is nobody to tell but the user.
        if let Err(report) = self.reports.send(report) {
            eprintln!("calltable-lua: {}", report.0);
        }
    }
}
