//! What the kernel prints.

use core::fmt::{self, Write};

/// The console. Each call of [`line!`] is a whole line, and only one processor prints.
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(crate::machine::print);
        Ok(())
    }
}

/// Prints a line.
macro_rules! line {
    ($($part:tt)*) => {{
        use core::fmt::Write as _;
        // The console takes everything.
        let _ = writeln!($crate::console::Console, $($part)*);
    }};
}
pub(crate) use line;
