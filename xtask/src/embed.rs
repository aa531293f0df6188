//! The suite `embed`: calltable in other languages' runtimes.

use anyhow::Result;

use crate::suite::Suite;
use crate::wine::Wine;
use crate::{lua, setup};

/// Runs the suite; returns whether all passed.
pub fn run() -> Result<bool> {
    setup::install(setup::HOST)?;
    setup::install(setup::WINDOWS)?;
    let wine = Wine::start()?;
    let mut suite = Suite::new("embed", lua::STEPS);
    lua::steps(&mut suite, &wine);
    Ok(suite.finish())
}
