//! How the DLL that calls back is made. The suite `windows` includes this file, and so does the test, for machines
//! where cargo runs it without the suite.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// The environment variable that tells the test where the DLL is.
pub const VARIABLE: &str = "CALLTABLE_TEST_DLL";
pub const NAME: &str = "calltable_test.dll";

/// The conventions that C callers are compiled for, by architecture.
pub fn conventions(arch: &str) -> &'static [&'static str] {
    match arch {
        "x86_64" => &["win64"],
        "aarch64" => &["aapcs64"],
        _ => &["stdcall", "cdecl", "thiscall", "fastcall"],
    }
}

/// The commands that build it in `out` from the sources in `source`: C for each convention, without and with
/// optimisation, and C++. The tools are a C and a C++ compiler whose command lines are GCC's.
pub fn steps(arch: &str, tools: &[impl AsRef<OsStr>; 2], source: &Path, out: &Path) -> Vec<Command> {
    let [c, cxx] = tools;
    let is_i686 = conventions(arch).len() > 1;
    let mut steps = Vec::new();
    let mut objects = Vec::new();
    let mut compile = |compiler: &OsStr, file: &str, convention: &str, level: &str| {
        let object = out.join(format!("{file}.{convention}.{level}.o"));
        let mut step = Command::new(compiler);
        step.args(["-c", "-Wall", "-Wextra", "-Werror"]).args([format!("-{level}"), format!("-DLEVEL={level}")]);
        step.arg(format!("-DCONVENTION={convention}"));
        if is_i686 {
            step.arg("-fno-omit-frame-pointer"); // a wrong stack pointer is to be reported, not to crash
        }
        if is_i686 && compiler != "clang" {
            step.arg("-maccumulate-outgoing-args"); // ESP stays the same around a call, as it does with Clang
        }
        step.arg(source.join(file)).arg("-o").arg(&object);
        steps.push(step);
        objects.push(object);
    };
    for convention in conventions(arch) {
        for level in ["O0", "O2"] {
            compile(c.as_ref(), "callers.c", convention, level);
        }
    }
    compile(cxx.as_ref(), "exceptions.cpp", "all", "O2");
    for level in ["O0", "O2"] {
        compile(cxx.as_ref(), "faults.cpp", "all", level);
    }
    let mut link = Command::new(cxx);
    // The C++ library goes in: nobody need find its DLL.
    steps.push({
        link.args(["-shared", "-static", "-o"]).arg(out.join(NAME)).args(objects);
        link
    });
    steps
}
