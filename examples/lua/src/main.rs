//! Runs a Lua script that calls Windows functions and gives them its closures as callbacks:
//!
//! `cargo run -p calltable-lua -- examples/lua/scripts/windows.lua`
//!
//! A small language runtime, to be read by those who bring calltable to theirs. On Windows it loads any DLL; on Linux
//! for x86_64 one, with the loader of the example `host_dll`. What a script can do is said in `runtime`.
//!
//! 1. `declaration` reads a type string, such as `"stdcall i32(pointer, isize)"`, into a `calltable::Signature`.
//! 2. `call` calls a foreign function of such a type.
//! 3. `callback` registers a Lua function in the frame lane, runs it when foreign code calls, and gives the slot back
//!    when Lua has collected it.
//! 4. `runtime` puts these together: which error belongs to which foreign call, and what a script sees.

mod call;
mod callback;
mod declaration;
mod library;
mod memory;
mod runtime;
mod value;

use std::path::Path;
use std::process::ExitCode;

/// What went wrong, in a sentence.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(script) = arguments.next() else {
        eprintln!("calltable-lua: usage: calltable-lua SCRIPT [ARGUMENT...]");
        return ExitCode::from(2);
    };
    match run(&script, arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("calltable-lua: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(script: &str, arguments: impl Iterator<Item = String>) -> mlua::Result<()> {
    let lua = runtime::new()?;
    let arguments = lua.create_sequence_from(arguments)?;
    lua.globals().set("arg", arguments)?;
    lua.load(Path::new(script)).exec()?;
    runtime::finish(&lua)
}
