//! Programs that use `calltable.hpp`, and what it refuses to compile.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, ensure};
use xtask::arm64;
use xtask::suite::{Suite, quietly};
use xtask::wine::Wine;

use super::{Hosted, SOURCES, WARNINGS, emulated, flags_for, link_msvc, out_of, start};

const PROGRAM: &str = "embed17.cpp";
const STANDARD: &str = "-std=c++17";
const PLAIN: [&str; 2] = ["-fno-exceptions", "-fno-rtti"];

/// Compilers for C and C++ of each kind that there is for a target.
fn compilers(hosted: &Hosted) -> impl Iterator<Item = [&'static str; 2]> {
    [Some(hosted.gcc), hosted.clang.then_some(["clang-19", "clang++-19"])].into_iter().flatten()
}

/// The steps that [`hosted`] takes.
pub fn steps(hosted: &Hosted) -> usize {
    2 * compilers(hosted).count()
}

/// Programs of a target that has a C++ library: with exceptions, and without; foreign code comes from the other
/// compiler, if there is one.
pub fn hosted(suite: &mut Suite, wine: &Wine, hosted: &Hosted, made: Option<&Path>) {
    let target = hosted.target;
    for [_, compiler] in compilers(hosted) {
        let foreign = compilers(hosted).map(|[c, _]| c).find(|c| c.contains("clang") != compiler.contains("clang"));
        let foreign = foreign.unwrap_or(hosted.gcc[0]);
        for (title, flags) in [("", ["-O2"].as_slice()), (", no exceptions", &["-O0", PLAIN[0], PLAIN[1]])] {
            let title = format!("{PROGRAM}, built by {compiler}, foreign code by {foreign}{title}, {target}");
            suite.program(&title, || {
                let made = made.context("there is no such folder, see above")?;
                let out = out_of(target)?;
                let packaged = flags_for(made, "calltable")?;
                let include = made.join("include");
                let objects = [("platform.c", hosted.gcc[0]), ("foreign.c", foreign)].map(|(source, compiler)| {
                    let object = out.join(format!("{source}-{compiler}.o"));
                    let mut compile = Command::new(compiler);
                    compile.args(["-O2", hosted.flag, "-std=c99"]).args(WARNINGS).arg("-I").arg(&include);
                    quietly(compile.arg("-c").arg(format!("{SOURCES}/{source}")).arg("-o").arg(&object))?;
                    Ok(object)
                });
                let program = out.join(format!("hpp-{compiler}{}", flags[0]));
                let mut compile = Command::new(compiler);
                compile.args(flags).arg(hosted.flag).args(WARNINGS).arg(STANDARD);
                compile.arg(format!("{SOURCES}/{PROGRAM}")).args(objects.into_iter().collect::<Result<Vec<_>>>()?);
                let name = if target.contains("windows") { program.with_extension("exe") } else { program.clone() };
                quietly(compile.args(packaged.split_whitespace()).arg("-o").arg(name))?;
                Ok(start(wine, target, &program))
            });
        }
    }
}

/// The program for Clang, which has no C++ library for the target: as Clang calls it, with its flags.
fn build(triple: &str, flags: &[&str], made: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    let sources = [("platform.c", "clang-19"), ("foreign.c", "clang-19"), (PROGRAM, "clang++-19")];
    let objects = sources.map(|(source, compiler)| {
        let object = out.join(format!("hpp-{source}.o"));
        let mut command = Command::new(compiler);
        command.arg(format!("--target={triple}")).args(["-O2", "-c"]).args(WARNINGS).args(flags);
        if source == PROGRAM {
            command.args(PLAIN).args([STANDARD, "-nostdinc++"]);
        } else {
            command.arg("-std=c99");
        }
        command.arg("-I").arg(made.join("include")).arg(format!("{SOURCES}/{source}"));
        quietly(command.arg("-o").arg(&object))?;
        Ok(object)
    });
    objects.into_iter().collect()
}

/// The program of AArch64 Linux.
pub fn aarch64_linux(suite: &mut Suite, target: &str, made: Option<&Path>) {
    suite.program(&format!("{PROGRAM} without a C++ library, built by Clang, {target}"), || {
        let made = made.context("there is no such folder, see above")?;
        let out = out_of(target)?;
        let objects = build("aarch64-linux-gnu", &["-mbranch-protection=standard"], made, &out)?;
        let program = out.join("hpp");
        let mut link = Command::new("clang-19");
        link.args(["--target=aarch64-linux-gnu", "-fuse-ld=lld"]).args(objects);
        quietly(link.args(flags_for(made, "calltable")?.split_whitespace()).arg("-o").arg(&program))?;
        Ok(emulated(&program))
    });
}

/// The program of a target of Microsoft's, with nothing but the system's DLLs.
pub fn msvc(suite: &mut Suite, wine: &Wine, arm64: &Result<arm64::Wine>, target: &str, made: Option<&Path>) {
    suite.program(&format!("{PROGRAM} without a C library, built by clang and lld-link, {target}"), || {
        let made = made.context("there is no such folder, see above")?;
        // Without the second flag Clang makes no unwind data then, by which a call of one's own is seen.
        let flags = ["-ffreestanding", "-funwind-tables", "-DEMBED_BARE"];
        let objects = build(target, &flags, made, &out_of(target)?)?;
        let program = link_msvc(target, made, &objects, "hpp")?;
        if target.starts_with("aarch64") {
            let arm64 = arm64.as_ref().map_err(|error| anyhow!("no Wine for ARM64: {error:#}"))?;
            let mut command = Command::new("sh");
            command.args(["-c", &format!("{} {}.exe", arm64.runner(), program.display())]);
            return Ok(command);
        }
        Ok(start(wine, target, &program))
    });
}

/// Targets for what does not compile, by the names that the cases have for them.
const REFUSING: [(&str, &str, &[&str]); 5] = [
    ("x86_64-linux", "g++", &[]),
    ("i686-linux", "clang++-19", &["-m32"]),
    ("i686-mingw", "i686-w64-mingw32-g++", &[]),
    ("x86_64-msvc", "clang++-19", &["--target=x86_64-pc-windows-msvc", "-ffreestanding", "-nostdinc++", PLAIN[0]]),
    ("aarch64-linux", "clang++-19", &["--target=aarch64-linux-gnu", "-nostdinc++", PLAIN[0]]),
];

/// Each case of `refused.cpp` is refused with its message, and CASE 0 is not.
pub fn refusals(made: &Path) -> Result<()> {
    let source = Path::new(SOURCES).join("refused.cpp");
    let text = std::fs::read_to_string(&source)?;
    let cases: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("#elif CASE == ")?.split_once(" // ")).collect();
    ensure!(cases.len() > 10, "{} cases are in it", cases.len());
    for (target, compiler, flags) in REFUSING {
        let compile = |case: &str| {
            let mut command = Command::new(compiler);
            command.args(flags).args([STANDARD, "-fsyntax-only", &format!("-DCASE={case}")]);
            command.arg("-I").arg(made.join("include")).arg(&source);
            command
        };
        quietly(compile("0").args(WARNINGS))?;
        for (case, expected) in &cases {
            let (targets, messages) = expected.split_once(": ").context("a case says where, and what")?;
            if targets != "all" && !target.contains(targets) {
                continue;
            }
            let output = compile(case).output()?;
            let errors = String::from_utf8_lossy(&output.stderr);
            let is_said = messages.split('|').any(|message| errors.contains(message));
            ensure!(!output.status.success(), "{target}: case {case} compiles, which is {messages:?}");
            ensure!(is_said, "{target}: case {case} is not refused by {messages:?}:\n{errors}");
        }
    }
    Ok(())
}

/// Runs each C++ program of the guide.
pub fn run_guide(hosted: &Hosted, made: &Path) -> Result<()> {
    let guide = std::fs::read_to_string("docs/c.md")?;
    let programs: Vec<_> = guide.split("```cpp\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let mains = guide.matches("int main() {").count();
    ensure!(mains > 0 && programs.len() == mains, "{} texts in C++ are in it, and {mains} programs", programs.len());
    let flags = flags_for(made, "calltable")?;
    for (number, text) in programs.into_iter().enumerate() {
        let program = out_of(hosted.target)?.join(format!("guide-cpp-{number}"));
        let source = program.with_extension("cpp");
        std::fs::write(&source, text)?;
        let mut compile = Command::new(hosted.gcc[1]);
        compile.args(WARNINGS).arg(STANDARD).arg(source).args(flags.split_whitespace()).arg("-o").arg(&program);
        quietly(&mut compile)?;
        let text = quietly(&mut Command::new(program))?;
        ensure!(number != 0 || text == "nearest to 40: 38, in 3 calls\n", "{text}");
    }
    Ok(())
}
