//! The steps of the suite `embed` that run the example `lua`: its scripts, on every target that it is for.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use xtask::mingw::{ARCHITECTURES, gnu, gnu_target, random};
use xtask::setup;
use xtask::suite::{OTHER_FOLDER, Suite, cargo, cargo_for, folder, quietly, variable};
use xtask::wine::Wine;

/// How many they are.
pub const STEPS: usize = 3 + 2 * ARCHITECTURES.len();

const PACKAGE: &str = "--package=calltable-lua";
const NAME: &str = "calltable-lua";

/// A script, and the line that it ends with if all went well.
type Script = (&'static str, &'static str);
const ERRORS: Script = ("errors", "errors: all as expected");
const SHORT_LIVED: Script = ("short_lived", "short_lived: all slots came back");
const LINUX: Script = ("linux", "linux: the same bytes came back");
const WINDOWS: Script = ("windows", "windows: all as expected");
const THREADS: Script = ("threads", "threads: all as expected");

pub fn steps(suite: &mut Suite, wine: &Wine) {
    suite.check("Lua and a hosted DLL, x86_64 Linux", || {
        // Of all packages, as the tests of the suite `host` build it.
        quietly(cargo().args(["build", "--workspace", "--all-features", "--bin", NAME]))?;
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
        let program = target.join("debug").join(NAME);
        [ERRORS, SHORT_LIVED, LINUX].iter().try_for_each(|script| run(Command::new(&program), *script, &[setup::DLL]))
    });

    let target = "i686-unknown-linux-gnu";
    let i686 = |command: &str| {
        let mut cargo = cargo_for(target, command, "")?;
        cargo.args([PACKAGE, "--target-dir", OTHER_FOLDER]);
        anyhow::Ok(cargo)
    };
    suite.tests_of("the Lua runtime's own tests, i686 Linux", || i686("test"));
    suite.check("Lua, i686 Linux", || {
        quietly(&mut i686("build")?)?;
        let program = Path::new(OTHER_FOLDER).join(target).join("debug").join(NAME);
        [ERRORS, SHORT_LIVED].iter().try_for_each(|script| run(Command::new(&program), *script, &[]))
    });

    for arch in ARCHITECTURES {
        let target = gnu_target(arch);
        // Also where the DLL is that Wine lacks.
        let ready = |command: &str| -> Result<Command> {
            let mut cargo = gnu(arch, command)?;
            wine.set(&mut cargo).args(["--profile=optimised", PACKAGE]);
            cargo.env(variable(&target, "RUNNER"), wine.runner());
            cargo.env("WINEPATH", random(arch)?);
            Ok(cargo)
        };
        let title = format!("the Lua runtime's own tests, {target}");
        suite.tests_of(&title, || ready("test"));
        suite.check(&format!("Lua and Windows' own functions, {target}"), || {
            quietly(&mut ready("build")?)?;
            for script in [ERRORS, SHORT_LIVED, WINDOWS, THREADS] {
                let mut program = ready("run")?;
                program.args(["--quiet", "--"]);
                run(program, script, &[])?;
            }
            Ok(())
        });
    }
}

/// Runs a script, shows what it prints, and looks for its last line.
fn run(mut program: Command, (name, end): Script, arguments: &[&str]) -> Result<()> {
    program.arg(format!("examples/lua/scripts/{name}.lua")).args(arguments);
    println!("    {program:?}");
    // A file, since the first program to run starts Wine's desktop, which would keep a pipe open as long as it lives.
    let said = folder("lua")?.join(name);
    let status = program.stdout(File::create(&said)?).status().with_context(|| format!("{program:?}"))?;
    let text = fs::read_to_string(said)?;
    for line in text.lines() {
        println!("    {line}");
    }
    ensure!(status.success(), "{name}: {status}");
    ensure!(text.lines().last() == Some(end), "{name} does not end with {end:?}");
    Ok(())
}
