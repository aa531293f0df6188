//! This program once more, as a child.

use std::process::Command;

/// Through what runs the tests themselves, if the variable says so: the system does not know programs of a processor
/// that is emulated.
pub fn this_program() -> Command {
    let program = std::env::current_exe().unwrap();
    let runner = std::env::var("CALLTABLE_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(emulator) = words.next() else { return Command::new(program) };
    let mut child = Command::new(emulator);
    child.args(words).arg(program);
    child
}
