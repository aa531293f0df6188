//! This program once more, or another one, as a child.

use std::path::Path;
use std::process::Command;

pub fn this_program() -> Command {
    program(&std::env::current_exe().unwrap())
}

/// Through what runs the tests themselves, if the variable says so: the system does not know programs of a processor
/// that is emulated.
pub fn program(program: &Path) -> Command {
    let runner = std::env::var("CALLTABLE_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(emulator) = words.next() else { return Command::new(program) };
    let mut child = Command::new(emulator);
    child.args(words).arg(program);
    child
}
