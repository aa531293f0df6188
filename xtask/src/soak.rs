//! Everything at once, for a while: `tests/soak.rs`.

use std::process::Command;

use anyhow::{Result, ensure};
use xtask::setup;
use xtask::suite::cargo;

/// The test program, which is to run that long. Of few slots each is soon somebody else's, so that more calls come
/// while it changes hands.
pub fn command(minutes: f64) -> Command {
    let mut command = cargo();
    command.args(["test", "--profile=optimised", "--all-features", "--test=soak", "--", "--nocapture"]);
    command.env("CALLTABLE_CAPACITY", "256").env("CALLTABLE_SOAK_SECONDS", (60.0 * minutes).to_string());
    command
}

pub fn run(minutes: f64) -> Result<()> {
    ensure!(minutes > 0.0 && minutes.is_finite(), "how many minutes? {minutes} are none");
    setup::install(setup::HOST)?;
    let status = command(minutes).status()?;
    ensure!(status.success(), "the soak failed: {status}");
    Ok(())
}
