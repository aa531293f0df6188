//! What a script sees, and which error belongs to which foreign call.

use std::cell::RefCell;
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use calltable::{CAPACITY, Frame, table};
use mlua::{AnyUserData, Error, Function, Lua, MultiValue, Result, Table, UserData, UserDataMethods, Value};

use crate::call;
use crate::callback::{Call, Callback, Registered};
use crate::declaration::Declaration;
use crate::library::Library;
use crate::{memory, value};

/// What belongs to one interpreter.
pub struct State {
    /// For each foreign call under way, the innermost one last, the error of a callback that it has made.
    calls: RefCell<Vec<Option<Value>>>,
    /// By handler, the callbacks that Lua has not collected. Its values are weak.
    pub callbacks: Table,
    /// Callbacks to release, of which calls are still running.
    releasing: RefCell<Vec<Registered>>,
    /// What is to be raised when no foreign call was there to raise it.
    pub reports: (Sender<String>, Receiver<String>),
    /// Calls from other threads that wait for [`serve`].
    pub queue: (Sender<Call>, Receiver<Call>),
    /// Of prelude.lua.
    guard: Function,
    raising: Function,
}

impl State {
    pub fn of(lua: &Lua) -> Rc<Self> {
        lua.app_data_ref::<Rc<Self>>().expect("`new` has set it").clone()
    }

    /// Gives a callback back now or, if calls of it are running, later.
    pub fn release(&self, registered: Option<Registered>) {
        let mut releasing = self.releasing.borrow_mut();
        releasing.extend(registered);
        *releasing = releasing.drain(..).filter_map(Registered::try_release).collect();
    }

    /// Has Lua collect what it can, for slots.
    pub fn collect(&self, lua: &Lua) -> Result<()> {
        // The first one may only end a cycle that had begun before the last callbacks became garbage.
        lua.gc_collect()?;
        lua.gc_collect()?;
        self.release(None);
        Ok(())
    }

    /// Runs a callback. Once one has failed, the others of the same foreign call return zero at once: the script should
    /// not continue before it knows.
    pub fn run(&self, key: usize, declaration: &Declaration, frame: &mut Frame<'_>) {
        if let Some(Some(_)) = self.calls.borrow().last() {
            return;
        }
        let error = match self.answer(key, frame) {
            Ok(Ok(bits)) => match value::set_result(frame, bits) {
                Ok(()) => return,
                Err(error) => Value::Error(Box::new(Error::runtime(error))),
            },
            Ok(Err(error)) => error,
            Err(error) => {
                let error = Error::runtime(format!("callback {:?}: {error}", declaration.text));
                Value::Error(Box::new(error))
            }
        };
        if let Some(call) = self.calls.borrow_mut().last_mut() {
            *call = Some(error);
            return;
        }
        self.report(error);
    }

    /// The bits of the result, or the script's error.
    fn answer(&self, key: usize, frame: &Frame<'_>) -> Result<std::result::Result<u64, Value>> {
        let Some(callback) = self.callbacks.raw_get::<Option<AnyUserData>>(key)? else {
            return Err(Error::runtime("it was called when it had been collected"));
        };
        let function: Function = callback.user_value()?;
        let mut arguments = MultiValue::from_iter(frame.values().map(value::from_argument));
        arguments.push_front(Value::Function(function));
        let (ok, result) = self.guard.call::<(bool, Value)>(arguments)?;
        if !ok {
            return Ok(Err(result));
        }
        let Some(ty) = frame.signature().result() else { return Ok(Ok(0)) };
        value::to_bits(&result, ty).map(Ok).map_err(|error| Error::runtime(format!("its result: {error}")))
    }

    /// For the next foreign call to raise.
    fn report(&self, error: Value) {
        let text = error.to_string().unwrap_or_else(|_| "a callback has failed".to_owned());
        // The receiver lives as long as this.
        let _ = self.reports.0.send(text);
    }

    /// A level for errors of callbacks, while `work` is done: returns its result or the error.
    fn level<T>(&self, work: impl FnOnce() -> T) -> std::result::Result<T, Value> {
        self.calls.borrow_mut().push(None);
        let result = work();
        // A callback that was released while it was running has ended by now.
        self.release(None);
        let error = self.calls.borrow_mut().pop().flatten();
        let report = || self.reports.1.try_recv().ok().map(|report| Value::Error(Box::new(Error::runtime(report))));
        error.or_else(report).map_or(Ok(result), Err)
    }
}

/// An interpreter with the table `ffi`:
/// - `ffi.load(name)`: a DLL. `dll:func(name, type)`: one of its functions. `dll:address(name)`: where it is.
/// - `ffi.func(address, type)`: the function there.
/// - `ffi.callback(type, f)`: a function as a callback. It lives as long as the script keeps this value: foreign code
///   that keeps the pointer must not call it later. `callback:release()`, or the end of a `local callback <close>`,
///   gives the slot back at once. `callback:address()`: what foreign code calls.
/// - `ffi.queued(type, f)`: the same, for calls from other threads: they wait until `ffi.serve(milliseconds)` runs
///   them. It waits so long for the first one, and returns how many it has run. Calls of other callbacks from other
///   threads return zero, and the next foreign call raises an error.
/// - `ffi.live()`, `ffi.capacity`: slots in use, and all there are.
/// - `ffi.buffer`, `ffi.bytes`, `ffi.text`, `ffi.copy`: see [`memory::add`].
///
/// A foreign function takes numbers and booleans by value, and for a `pointer`: a number, nil, a string (whose bytes
/// it must not change), a buffer, or a callback. For `fn ...` it also takes a Lua function, as a callback for the
/// duration of the call.
///
/// An error in a callback becomes an error of the foreign call that has called back, when that returns.
pub fn new() -> Result<Lua> {
    // SAFETY: with all of Lua's libraries a script could break the program; it can call foreign functions anyway.
    let lua = unsafe { Lua::unsafe_new() };
    let (guard, raising) = lua.load(include_str!("prelude.lua")).set_name("=prelude").eval::<(Function, Function)>()?;
    let callbacks = lua.create_table()?;
    let weak = lua.create_table_from([("__mode", "v")])?;
    callbacks.set_metatable(Some(weak))?;
    lua.set_app_data(Rc::new(State {
        calls: RefCell::default(),
        callbacks,
        releasing: RefCell::default(),
        reports: mpsc::channel(),
        queue: mpsc::channel(),
        guard,
        raising,
    }));

    let ffi = lua.create_table()?;
    ffi.set("load", lua.create_function(|_, name: String| Library::load(&name).map_err(Error::runtime))?)?;
    ffi.set(
        "func",
        lua.create_function(|lua, (address, declaration): (Value, String)| {
            let address = value::to_bits(&address, calltable::Type::Pointer).map_err(Error::runtime)?;
            function(lua, std::ptr::with_exposed_provenance(address as usize), &declaration)
        })?,
    )?;
    for (name, queued) in [("callback", false), ("queued", true)] {
        let create = lua.create_function(move |lua, (declaration, function): (String, Function)| {
            let declaration = Declaration::parse(&declaration).map_err(Error::runtime)?;
            Callback::create(lua, &Arc::new(declaration), function, queued)
        })?;
        ffi.set(name, create)?;
    }
    ffi.set("serve", State::of(&lua).raising.call::<Function>(lua.create_function(serve)?)?)?;
    ffi.set("live", lua.create_function(|_, ()| Ok(table::live_count()))?)?;
    ffi.set("capacity", CAPACITY)?;
    memory::add(&lua, &ffi)?;
    lua.globals().set("ffi", ffi)?;
    Ok(lua)
}

/// When the script has ended: is an error if there is something that no foreign call was there to raise.
pub fn finish(lua: &Lua) -> Result<()> {
    match State::of(lua).reports.1.try_recv() {
        Ok(report) => Err(Error::runtime(report)),
        Err(_) => Ok(()),
    }
}

impl UserData for Library {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("func", |lua, library, (name, declaration): (String, String)| {
            function(lua, library.function(&name).map_err(Error::runtime)?, &declaration)
        });
        methods.add_method("address", |_, library, name: String| {
            Ok(library.function(&name).map_err(Error::runtime)?.expose_provenance())
        });
    }
}

/// A foreign function as one of Lua.
fn function(lua: &Lua, code: *const c_void, declaration: &str) -> Result<Function> {
    let declaration = Declaration::parse(declaration).map_err(Error::runtime)?;
    if code.is_null() {
        return Err(Error::runtime("there is no function at address 0"));
    }
    let call = lua.create_function(move |lua, arguments: MultiValue| {
        // These stay in Lua's hands until the call has returned, and with them what they point to.
        let (arguments, temporary) = prepare(lua, &declaration, arguments)?;
        let parameters = declaration.signature.parameters();
        let bits = arguments.iter().zip(parameters).enumerate().map(|(index, (argument, ty))| {
            value::to_bits(argument, *ty).map_err(|error| wrong(&declaration, index, &error))
        });
        let bits = bits.collect::<Result<Vec<_>>>()?;
        // SAFETY: by the script's promise the function is of that type. No handler of ours lets an error or a panic
        // out.
        let result = State::of(lua).level(|| unsafe { call::call(code, &declaration.signature, &bits) });
        for callback in temporary {
            callback.borrow::<Callback>()?.release();
        }
        match result {
            Ok(bits) => Ok((true, value::from_bits(bits.map_err(Error::runtime)?, declaration.signature.result()))),
            Err(error) => Ok((false, error)),
        }
    })?;
    State::of(lua).raising.call(call)
}

/// Puts callbacks in the place of functions. Returns all arguments, and the callbacks made for this call.
fn prepare(lua: &Lua, declaration: &Declaration, given: MultiValue) -> Result<(Vec<Value>, Vec<AnyUserData>)> {
    let mut arguments = Vec::from_iter(given);
    if arguments.len() != declaration.callbacks.len() {
        let (wanted, given) = (declaration.callbacks.len(), arguments.len());
        return Err(Error::runtime(format!("{:?} takes {wanted} arguments, not {given}", declaration.text)));
    }
    let mut temporary = Vec::new();
    for (index, (argument, wanted)) in arguments.iter_mut().zip(&declaration.callbacks).enumerate() {
        let Some(wanted) = wanted else { continue };
        match argument {
            Value::Function(function) => {
                let callback = Callback::create(lua, wanted, function.clone(), false)?;
                temporary.push(callback.clone());
                *argument = Value::UserData(callback);
            }
            Value::UserData(data) => {
                let callback = data.borrow::<Callback>()?;
                let given = callback.declaration();
                if given.signature != wanted.signature {
                    let error = format!("{:?} is wanted, not {:?}", wanted.text, given.text);
                    return Err(wrong(declaration, index, &error));
                }
            }
            _ => {}
        }
    }
    Ok((arguments, temporary))
}

fn wrong(declaration: &Declaration, argument: usize, error: &str) -> Error {
    Error::runtime(format!("argument {} of {:?}: {error}", argument + 1, declaration.text))
}

/// Runs calls from other threads.
fn serve(lua: &Lua, milliseconds: u64) -> Result<(bool, Value)> {
    let state = State::of(lua);
    let end = Instant::now() + Duration::from_millis(milliseconds);
    let mut served = 0;
    // What has come by then is run, too.
    while let Ok(call) = match served {
        0 => state.queue.1.recv_timeout(end.saturating_duration_since(Instant::now())).map_err(drop),
        _ => state.queue.1.try_recv().map_err(drop),
    } {
        served += 1;
        if let Err(error) = state.level(|| call.run()) {
            return Ok((false, error));
        }
    }
    Ok((true, Value::Integer(served)))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// A callback's type in this file: `i32(i32)`.
    type Code = unsafe extern "efiapi" fn(i32) -> i32;

    /// Stands for foreign code: calls three times, and says what it got.
    unsafe extern "efiapi" fn three_times(code: Code) -> i32 {
        // SAFETY: by the caller's promise it may be called now.
        unsafe { code(1) * 100 + code(2) * 10 + code(3) }
    }

    /// The same from a thread of its own.
    unsafe extern "efiapi" fn on_a_thread(code: Code) -> i32 {
        // SAFETY: as above.
        thread::spawn(move || unsafe { three_times(code) }).join().unwrap()
    }

    fn script(text: &str) {
        let lua = new().unwrap();
        let globals = lua.globals();
        globals.set("three_times", three_times as *const c_void as usize).unwrap();
        globals.set("on_a_thread", on_a_thread as *const c_void as usize).unwrap();
        globals.set("code", "cdecl i32(i32)").unwrap();
        lua.load(text).exec().unwrap();
        finish(&lua).unwrap();
    }

    #[test]
    fn nothing_runs_after_an_error() {
        script(
            r#"
            local calls = 0
            local f = ffi.func(three_times, "cdecl i32(fn cdecl i32(i32))")
            assert(f(function(n) return n end) == 123)
            local ok, message = pcall(f, function(n)
                calls = calls + 1
                if n == 2 then error("the second one") end
                return n
            end)
            assert(not ok and message:find("the second one", 1, true), message)
            assert(calls == 2)
            "#,
        );
    }

    #[test]
    fn calls_of_other_threads_are_refused() {
        script(
            r#"
            local f = ffi.func(on_a_thread, "cdecl i32(fn cdecl i32(i32))")
            local ok, message = pcall(f, function() error("it ran") end)
            assert(not ok and tostring(message):find("another thread was refused", 1, true), message)
            -- One report for each of the three calls.
            local g = ffi.func(three_times, "cdecl i32(fn cdecl i32(i32))")
            for n = 1, 2 do assert(not pcall(g, function() return 0 end)) end
            assert(g(function() return 1 end) == 111)
            "#,
        );
    }

    #[test]
    fn calls_of_other_threads_wait_to_be_served() {
        let lua = new().unwrap();
        let address: usize = lua
            .load(r#"queued = ffi.queued("cdecl i32(i32)", function(n) return n + 1 end); return queued:address()"#)
            .eval()
            .unwrap();
        // SAFETY: it is such a callback, and lives as long as Lua does.
        let foreign = thread::spawn(move || unsafe {
            three_times(std::mem::transmute::<*const c_void, Code>(std::ptr::with_exposed_provenance(address)))
        });
        let mut served = 0;
        while !foreign.is_finished() {
            served += lua.load("return ffi.serve(10)").eval::<i32>().unwrap();
        }
        assert_eq!((foreign.join().unwrap(), served), (234, 3));
    }

    #[test]
    fn a_waiting_call_ends_with_the_interpreter() {
        let lua = new().unwrap();
        let address: usize =
            lua.load(r#"queued = ffi.queued("cdecl i32(i32)", print); return queued:address()"#).eval().unwrap();
        // SAFETY: as above; the call is one that begins before Lua ends.
        let foreign = thread::spawn(move || unsafe {
            std::mem::transmute::<*const c_void, Code>(std::ptr::with_exposed_provenance(address))(1)
        });
        let slot = table::slot_of(std::ptr::without_provenance(address)).unwrap();
        while table::live_slot(slot).unwrap().in_flight != Some(1) {
            thread::yield_now();
        }
        drop(lua);
        assert_eq!(foreign.join().unwrap(), 0);
    }
}
