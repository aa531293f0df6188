//! The steps of the suite `libffi` that run language runtimes of Debian's, which take their closures from calltable
//! instead of libffi: the tests of callbacks that these runtimes bring along.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use xtask::debian;
use xtask::suite::{AARCH64_LINUX, Suite, quietly, shared_folder};

/// How many they are.
pub const STEPS: usize = 3;

const RELEASE: &str = "bookworm";

/// Debian's packages for another architecture, which are unpacked and not installed.
struct Runtimes {
    target: &'static str,
    /// Debian's name.
    architecture: &'static str,
    /// What Debian calls folders of its libraries.
    triplet: &'static str,
    /// With what stands before it, if this machine cannot run it by itself.
    loader: (&'static str, &'static str),
    packages: &'static [&'static str],
    /// The package whose source has the tests that no package has, and the folders of them.
    source: Option<(&'static str, &'static [&'static str])>,
}

const I686: Runtimes = Runtimes {
    target: "i686-unknown-linux-gnu",
    architecture: "i386",
    triplet: "i386-linux-gnu",
    loader: ("", "lib/ld-linux.so.2"),
    packages: &[
        "libc6",
        "libgcc-s1",
        "libffi8",
        "zlib1g",
        "python3.11-minimal",
        "libpython3.11-minimal",
        "libpython3.11-stdlib",
        "libpython3.11-testsuite",
        "libexpat1",
        "ruby3.1",
        "libruby3.1",
        "libgmp10",
        "libcrypt1",
    ],
    // With the framework that they are written for.
    source: Some(("ruby3.1", &["test/fiddle", "test/lib", "tool/lib"])),
};

const AARCH64: Runtimes = Runtimes {
    target: AARCH64_LINUX,
    architecture: "arm64",
    triplet: "aarch64-linux-gnu",
    loader: ("qemu-aarch64", "lib/ld-linux-aarch64.so.1"),
    packages: &[
        "libc6",
        "libgcc-s1",
        "libffi8",
        "zlib1g",
        "python3.11-minimal",
        "libpython3.11-minimal",
        "libpython3.11-stdlib",
        "libpython3.11-testsuite",
        "libexpat1",
    ],
    source: None,
};

/// Those that `library` gives the shared library for, by the target, which takes libffi's place. (A test of Fiddle has
/// 10000 closures at once.)
pub fn steps(suite: &mut Suite, library: impl Fn(&str) -> Result<PathBuf>) {
    suite.program("CPython's tests of ctypes, i686 Linux, without new executable memory", || {
        I686.tests(&PYTHON, &library(I686.target)?)
    });
    suite.program("Ruby's tests of Fiddle, i686 Linux, without new executable memory", || {
        I686.tests(&RUBY, &library(I686.target)?)
    });
    suite.program("CPython's tests of ctypes, AArch64 Linux", || AARCH64.tests(&PYTHON, &library(AARCH64.target)?));
}

/// How a program runs our script, with the runtime's own tests or without them.
struct Script {
    program: &'static str,
    set: fn(&Path, &mut Command, bool),
}

const PYTHON: Script = Script { program: "python3.11", set: ctypes };
const RUBY: Script = Script { program: "ruby3.1", set: fiddle };

fn ctypes(home: &Path, python: &mut Command, with_tests: bool) {
    python.env("PYTHONHOME", home.join("usr")).env("PYTHONDONTWRITEBYTECODE", "1");
    python.arg("tests/runtimes/ctypes_tests.py").args((!with_tests).then_some("--closures"));
}

fn fiddle(home: &Path, ruby: &mut Command, with_tests: bool) {
    let folders = ["lib/ruby/vendor_ruby", "lib/ruby/3.1.0", "lib/i386-linux-gnu/ruby/3.1.0"];
    let folders = folders.map(|name| home.join("usr").join(name).display().to_string());
    // The second one is what tests run that want a program of their own.
    ruby.env("RUBYLIB", folders.join(":")).env("RUBY", home.join(RUBY.program));
    ruby.args(["--disable-gems", "tests/runtimes/fiddle_tests.rb"]);
    if with_tests {
        ruby.arg("--source").arg(home.join("source"));
    }
}

impl Runtimes {
    /// What runs a runtime's own tests with the library. What is looked at beside these is looked at first with libffi
    /// alone: there it must fail, or it would prove nothing.
    fn tests(&self, script: &Script, library: &Path) -> Result<Command> {
        let home = self.install()?;
        let command = |with_tests: bool| -> Result<Command> {
            let program = home.join(script.program);
            // The emulator writes code itself, and does not know the request.
            let is_native = self.loader.0.is_empty();
            let mut command = Command::new(if is_native { std::env::current_exe()? } else { program.clone() });
            if is_native {
                command.arg("under-mdwe").arg(program);
            }
            command.env_clear().env("PATH", "/usr/bin:/bin").env("LANG", "C.UTF-8").env("HOME", "/tmp");
            (script.set)(&home, &mut command, with_tests);
            command.arg("--library").arg(library).args(is_native.then_some("--refused"));
            Ok(command)
        };
        let mut libffi = command(false)?;
        println!("    {libffi:?}");
        let output = libffi.output().with_context(|| format!("{libffi:?}"))?;
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let failed: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("FAILED ")).collect();
        ensure!(failed == ["closures are those of the library", "no code is made"], "libffi by itself:\n{text}");
        let mut tests = command(true)?;
        tests.env("DROP_IN", library);
        Ok(tests)
    }

    /// Puts them where all checkouts find them.
    fn install(&self) -> Result<PathBuf> {
        let home = shared_folder("runtimes")?.join(self.architecture);
        fs::create_dir_all(&home)?;
        let lock = File::create(home.with_extension("lock"))?;
        lock.lock()?;
        // Written last, so that half a tree is not taken for one, nor what was made in another way.
        let complete = home.join("complete");
        let made = format!("{RELEASE} {:?} {:?}", self.packages, self.source);
        if fs::read_to_string(&complete).is_ok_and(|found| found == made) {
            return Ok(home);
        }
        println!("    unpacking runtimes of {} in {} (once)", self.architecture, home.display());
        fs::remove_dir_all(&home)?;
        let download = home.join("download");
        fs::create_dir_all(&download)?;
        let archive = debian::archive_of_release(RELEASE)?;
        for package in debian::download(&download, &[self.architecture], &archive, self.packages)? {
            quietly(Command::new("dpkg").arg("-x").arg(package).arg(&home))?;
        }
        if let Some((package, folders)) = self.source {
            let (from, to) = (debian::download_source(&download, &archive, package)?, home.join("source"));
            fs::create_dir_all(&to)?;
            let mut tar = Command::new("tar");
            tar.arg("-xf").arg(from).arg("-C").arg(to).args(["--strip-components=1", "--wildcards"]);
            quietly(tar.args(folders.iter().map(|folder| format!("*/{folder}"))))?;
        }
        fs::remove_dir_all(download)?;
        for script in [PYTHON, RUBY] {
            if home.join("usr/bin").join(script.program).exists() {
                self.write_program(&home, script.program)?;
            }
        }
        fs::write(complete, made)?;
        Ok(home)
    }

    /// Programs find no library of the machine's, and first the one that DROP_IN names, if there is one.
    fn write_program(&self, home: &Path, name: &str) -> Result<()> {
        let (program, (emulator, loader)) = (home.join(name), self.loader);
        let at = home.to_str().context("the path of the cache is not UTF-8")?;
        let text = format!(
            "#!/bin/sh\nexec {emulator} {at}/{loader} --library-path {at}/lib/{0}:{at}/usr/lib/{0} \
             ${{DROP_IN:+--preload \"$DROP_IN\"}} {at}/usr/bin/{name} \"$@\"\n",
            self.triplet
        );
        fs::write(&program, text)?;
        quietly(Command::new("chmod").arg("+x").arg(program)).map(drop)
    }
}
