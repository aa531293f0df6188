//! What users of C and their packagers do with a folder of `dist`, as steps of the suite `embed`: install it, build
//! `examples/c` by CMake, pkg-config and Meson, update the shared object, read the header's documentation.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use xtask::dist;
use xtask::suite::{Suite, folder, quietly};
use xtask::wine::{Wine, for_windows};

use crate::embed::{HOSTED, Hosted, configure_in, out_of};

const SOURCES: &str = "examples/c";

/// What the programs print, on every target; and on Windows alone.
const PROGRAMS: [(&str, &str); 4] = [
    ("sort", "Celle\nGera\nTrier\nUlm\n"),
    ("script", "square of a distance: 25\nrest of a budget: 40\n"),
    ("lambda", "no\ncode\nis\nwritten\n"),
    ("sort_shared", "Celle\nGera\nTrier\nUlm\n"),
];
const OF_WINDOWS: (&str, &str) = ("window", "tick 1\ntick 2\ntick 3\nclosed after 3 ticks\n");

/// For which Meson builds the programs.
const BY_MESON: [&str; 2] = ["x86_64-unknown-linux-gnu", "x86_64-pc-windows-gnu"];

/// The number of [`steps`].
pub const STEPS: usize = HOSTED.len() + BY_MESON.len() + 3;

/// Adds them; the folders of `dist` are there.
pub fn steps(suite: &mut Suite, wine: &Wine) {
    for hosted in &HOSTED {
        let title =
            format!("examples against an installed and moved folder, by CMake and pkg-config, {}", hosted.target);
        suite.check(&title, || installed(hosted, wine));
    }
    for target in BY_MESON {
        suite.check(&format!("examples by Meson, {target}"), || by_meson(target, wine));
    }
    suite.check("a program finds a later version of the shared object, and no incompatible one", || {
        later_versions(&out_of(HOSTED[0].target)?.join("versions"))
    });
    suite.check("Doxygen warns of nothing in the header", documentation);
    suite.check("a compiler that cannot say the convention is refused", refused_compiler);
}

/// A folder anew.
fn empty(folder: PathBuf) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// A folder of `dist`.
fn made_for(target: &str) -> Result<PathBuf> {
    let made = std::env::current_dir()?.join(dist::FOLDER).join(target);
    ensure!(made.exists(), "there is no such folder, see above");
    Ok(made)
}

/// What a program prints that finds its shared libraries in a folder.
fn output(wine: &Wine, target: &str, program: &Path, libraries: &Path) -> Result<String> {
    if !target.contains("windows") {
        return quietly(Command::new(program).env("LD_LIBRARY_PATH", libraries));
    }
    let mut command = Command::new("timeout");
    wine.set(&mut command).arg("600").arg(wine.program()).arg(program.with_extension("exe"));
    Ok(quietly(command.env("WINEPATH", for_windows(libraries)))?.replace('\r', ""))
}

/// Runs all programs in a folder.
fn run_all(wine: &Wine, target: &str, programs: &Path, libraries: &Path) -> Result<()> {
    let of_windows = target.contains("windows").then_some(OF_WINDOWS);
    for (name, expected) in PROGRAMS.into_iter().chain(of_windows) {
        let text = output(wine, target, &programs.join(name), libraries)?;
        ensure!(text == expected, "{name} prints {text:?}");
    }
    Ok(())
}

/// Installs as a packager does, moves that to a place with a space in its name, and builds against nothing else.
fn installed(hosted: &Hosted, wine: &Wine) -> Result<()> {
    let target = hosted.target;
    let (made, out) = (made_for(target)?, empty(out_of(target)?.join("install"))?);
    let lib = if target == HOSTED[0].target { "lib/x86_64-linux-gnu" } else { "lib" };
    let mut configure = Command::new("cmake");
    configure.arg("-S").arg(&made).arg("-B").arg(out.join("install"));
    quietly(configure.arg("-DCMAKE_INSTALL_PREFIX=/usr").arg(format!("-DCMAKE_INSTALL_LIBDIR={lib}")))?;
    quietly(Command::new("cmake").env("DESTDIR", out.join("staged")).arg("--install").arg(out.join("install")))?;
    fs::rename(out.join("staged"), out.join("moved there"))?;
    let prefix = out.join("moved there/usr");
    let libraries = if target.contains("windows") { prefix.join("bin") } else { prefix.join(lib) };

    let programs = out.join("cmake");
    quietly(&mut configure_in(hosted, &prefix, Path::new(SOURCES), &programs)?)?;
    let found = format!("calltable_DIR:PATH={}/cmake/calltable\n", prefix.join(lib).display());
    ensure!(fs::read_to_string(programs.join("CMakeCache.txt"))?.contains(&found), "CMake has not found it there");
    quietly(Command::new("cmake").arg("--build").arg(&programs))?;
    run_all(wine, target, &programs, &libraries)?;

    for package in ["calltable", "calltable-shared"] {
        let program = out.join(package);
        // As pkg-config's manual has it for names with spaces.
        let mut compile = Command::new("sh");
        compile.args(["-c", r#"flags=$(pkg-config --cflags --libs "$0") && eval "\"\$@\" $flags""#, package]);
        compile.args([hosted.gcc[0], hosted.flag]).arg(format!("{SOURCES}/sort.c"));
        compile.arg("-o").arg(if target.contains("windows") { program.with_extension("exe") } else { program.clone() });
        quietly(compile.env("PKG_CONFIG_LIBDIR", prefix.join(lib).join("pkgconfig")))?;
        let text = output(wine, target, &program, &libraries)?;
        ensure!(text == PROGRAMS[0].1, "{package}: {text:?}");
    }
    Ok(())
}

/// Builds with the archive of a folder as a subproject; on Linux also with what pkg-config finds.
fn by_meson(target: &str, wine: &Wine) -> Result<()> {
    let made = made_for(target)?;
    let is_windows = target.contains("windows");
    let out = empty(out_of(target)?.join("meson"))?;
    quietly(Command::new("cp").arg("-r").arg(format!("{SOURCES}/.")).arg(&out))?;
    let (system, prefix) = if is_windows { ("windows", "x86_64-w64-mingw32-") } else { ("linux", "") };
    // Or the programs would want MinGW's DLLs.
    let arguments = if is_windows { "'-static'" } else { "" };
    let machine = format!(
        "[binaries]\nc = '{prefix}gcc'\ncpp = '{prefix}g++'\nstrip = '{prefix}strip'\npkgconfig = 'pkg-config'\n\
         [built-in options]\ncpp_link_args = [{arguments}]\n\
         [host_machine]\nsystem = '{system}'\ncpu_family = 'x86_64'\ncpu = 'x86_64'\nendian = 'little'\n"
    );
    fs::write(out.join("machine.ini"), machine)?;
    let setup = |folder: &str, pkg_config: &Path| {
        let mut setup = Command::new("meson");
        setup.args(["setup", folder, "--cross-file", "machine.ini"]).current_dir(&out);
        setup.env("PKG_CONFIG_LIBDIR", pkg_config);
        setup
    };
    let build = |folder: &str| quietly(Command::new("ninja").arg("-C").arg(out.join(folder)));

    let files = out.join("subprojects/packagefiles");
    fs::create_dir_all(&files)?;
    let none = setup("none", &files).output()?;
    ensure!(!none.status.success(), "Meson finds calltable where there is none");
    if !is_windows {
        quietly(&mut setup("found", &made.join("lib/pkgconfig")))?;
        build("found")?;
        run_all(wine, target, &out.join("found"), &made.join("lib"))?;
    }
    let [archive, wrap] = dist::pack(target)?;
    fs::copy(wrap, out.join("subprojects/calltable.wrap"))?;
    fs::copy(&archive, files.join(archive.file_name().context("an archive has a name")?))?;
    quietly(&mut setup("wrapped", &files))?;
    build("wrapped")?;
    let subproject = out.join("subprojects").join(archive.with_extension("").file_stem().context("a name")?);
    run_all(wine, target, &out.join("wrapped"), &subproject.join(if is_windows { "bin" } else { "lib" }))
}

/// Two libraries, each linked with the shared object of another version, in one process.
const USER: &str = r#"#include <calltable.h>
static void CALLTABLE_CALL handler(void *data) { (void)data; }
int USER(int registers);
int USER(int registers) {
    calltable_binding binding = CALLTABLE_DIRECT(handler, 0, NULL);
    calltable_slot slot;
    return (registers && calltable_register(&binding, &slot) != CALLTABLE_OK) ? -1 : (int)calltable_live_count();
}
"#;
const USERS: &str = r#"#include <stdio.h>
int old_user(int registers);
int new_user(int registers);
int main(void) { printf("%d", old_user(1)); printf(" %d", old_user(1)); printf(" %d\n", new_user(0)); return 0; }
"#;

/// Looks at what a program finds that was linked with today's version.
fn later_versions(out: &Path) -> Result<()> {
    let (made, out) = (made_for(HOSTED[0].target)?, empty(out.into())?);
    let version = dist::version()?;
    let numbers: Vec<u32> = version.split('.').map(str::parse).collect::<Result<_, _>>()?;
    let [major, minor, patch] = numbers[..] else { anyhow::bail!("{version} has three numbers") };
    let later = format!("{major}.{minor}.{}", patch + 7);
    let incompatible = if major == 0 { format!("0.{}.0", minor + 1) } else { format!("{}.0.0", major + 1) };

    // Later versions have more functions.
    let (source, object) = (out.join("added.c"), out.join("added.o"));
    fs::write(&source, "int calltable_added(void) { return 7; }\n")?;
    quietly(Command::new("gcc").args(["-fPIC", "-c"]).arg(&source).arg("-o").arg(&object))?;
    let library = made.join("lib/libcalltable.a");
    let added: &[(&Path, &str)] = &[(&object, "calltable_added")];
    for (version, more) in [(&later, added), (&incompatible, &[])] {
        dist::share_linux("x86_64", &library, &out.join(version), version, more)?;
    }
    let compile = |name: &str, arguments: &[&str], library: &Path| -> Result<PathBuf> {
        let mut gcc = Command::new("gcc");
        gcc.args(arguments).arg("-I").arg(made.join("include")).arg("-o").arg(out.join(name));
        quietly(gcc.arg("-L").arg(library).arg("-lcalltable"))?;
        Ok(out.join(name))
    };
    let program = compile("old", &[&format!("{SOURCES}/sort.c")], &made.join("lib"))?;
    let run = |folder: &Path| Command::new(&program).env("LD_LIBRARY_PATH", folder).output();
    for folder in [made.join("lib"), out.join(&later)] {
        let ran = run(&folder)?;
        let text = String::from_utf8_lossy(&ran.stdout);
        ensure!(ran.status.success() && text == PROGRAMS[0].1, "{}: {ran:?}", folder.display());
    }
    let refused = run(&out.join(&incompatible))?;
    ensure!(!refused.status.success(), "the program runs with {incompatible}");

    let source = out.join("user.c");
    fs::write(&source, USER)?;
    for (user, folder) in [("old_user", made.join("lib")), ("new_user", out.join(&incompatible))] {
        let arguments = ["-shared", "-fPIC", &format!("-DUSER={user}"), &format!("-Wl,-rpath,{}", folder.display())];
        compile(&format!("lib{user}.so"), &[&arguments[..], &[&source.to_string_lossy()]].concat(), &folder)?;
    }
    let source = out.join("users.c");
    fs::write(&source, USERS)?;
    let mut link = Command::new("gcc");
    link.arg(source).arg("-o").arg(out.join("users")).arg(format!("-Wl,-rpath,{}", out.display()));
    quietly(link.arg("-L").arg(&out).args(["-lold_user", "-lnew_user"]))?;
    let text = quietly(&mut Command::new(out.join("users")))?;
    ensure!(text == "1 2 0\n", "two versions in one process have counted {text:?}, and not each its own");
    Ok(())
}

/// Builds the documentation, and looks for what Doxygen does not warn of.
fn documentation() -> Result<()> {
    let out = empty(std::env::current_dir()?.join("target/doxygen"))?;
    quietly(Command::new("doxygen").arg("capi/Doxyfile"))?;
    ensure!(out.join("html/calltable_8h.html").exists(), "there is no page of the header");
    let text = fs::read_to_string(out.join("xml/calltable_8h.xml"))?;
    let values: Vec<_> = text.split("<enumvalue ").skip(1).collect();
    ensure!(values.len() > 50, "Doxygen has found {} numbers", values.len());
    for value in values {
        let documented = ["briefdescription", "detaileddescription"].iter().any(|part| {
            value.split_once(&format!("<{part}>")).is_some_and(|(_, text)| text.trim_start().starts_with("<para>"))
        });
        let name = value.split_once("<name>").and_then(|(_, rest)| rest.split('<').next());
        ensure!(documented, "{} is not documented", name.unwrap_or(value));
    }
    Ok(())
}

/// Debian's TCC knows no attribute of the kind, and takes it without a word.
fn refused_compiler() -> Result<()> {
    let source = Path::new(&folder("embed")?).join("refused.c");
    fs::write(&source, "#include <calltable.h>\n")?;
    for compiler in ["tcc", "i386-tcc"] {
        let mut compile = Command::new(compiler);
        compile.args(["-Icapi/include", "-c", "-o"]).arg(source.with_extension("o")).arg(&source);
        let made = compile.output().with_context(|| format!("{compile:?}"))?;
        let text = String::from_utf8_lossy(&made.stderr);
        ensure!(!made.status.success() && text.contains("cannot say the convention"), "{compiler}: {text}");
    }
    Ok(())
}
