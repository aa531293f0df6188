//! How the DLL that calls back is made. The suite `windows` includes this file, and so does the test, for machines
//! where cargo runs it without the suite.

use std::path::Path;
use std::process::Command;

/// The environment variable that tells the test where the DLL is.
pub const VARIABLE: &str = "CALLTABLE_TEST_DLL";
pub const NAME: &str = "calltable_test.dll";

/// Compilers whose command lines are GCC's.
pub struct Tools {
    pub c: &'static str,
    pub cxx: &'static str,
}

/// The commands that build it in `out` from the sources in `source`: C without and with optimisation, and C++.
pub fn steps(tools: &Tools, source: &Path, out: &Path) -> Vec<Command> {
    let mut steps = Vec::new();
    let mut objects = Vec::new();
    for (compiler, file, level) in [
        (tools.c, "callers.c", "O0"),
        (tools.c, "callers.c", "O2"),
        (tools.cxx, "exceptions.cpp", "O2"),
        (tools.cxx, "faults.cpp", "O0"),
        (tools.cxx, "faults.cpp", "O2"),
    ] {
        let object = out.join(format!("{file}.{level}.o"));
        let mut step = Command::new(compiler);
        step.args(["-c", "-Wall", "-Wextra", "-Werror"]).args([format!("-{level}"), format!("-DLEVEL={level}")]);
        step.arg(source.join(file)).arg("-o").arg(&object);
        steps.push(step);
        objects.push(object);
    }
    let mut link = Command::new(tools.cxx);
    // The C++ library goes in: nobody need find its DLL.
    steps.push({
        link.args(["-shared", "-static", "-o"]).arg(out.join(NAME)).args(objects);
        link
    });
    steps
}
