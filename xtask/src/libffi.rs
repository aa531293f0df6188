//! The suite `libffi`: libffi's own tests of closures, once with its closures and once with ours; and runtimes.
//!
//! Each test is a program that DejaGNU would compile, start and read. Here those of a target, a convention and a level
//! of optimisation are linked into one, and run one after the other; one that fails runs again in a process of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use xtask::suite::{
    AARCH64_LINUX, OTHER_FOLDER, RUN_AARCH64_LINUX, Suite, cargo, cargo_for, cargo_for_aarch64_linux, folder, quietly,
    shared_folder, variable,
};
use xtask::wine::Wine;

use crate::runtime;
use xtask::{arm64, dist, gnullvm};

const SOURCES: &str = "tests/libffi";
const LEVELS: [&str; 2] = ["-O0", "-O2"];

/// A target for which libffi is built: how its configure script and the compilers are called.
struct Target {
    /// As Rust calls it.
    name: &'static str,
    configure: &'static [&'static str],
    /// Of C and C++; if none are named, Zig's.
    compilers: Option<[&'static str; 2]>,
    /// For compiling and for linking.
    flags: &'static [&'static str],
    link: &'static [&'static str],
    conventions: &'static [Convention],
    /// Whether it has complex numbers there.
    is_complex: bool,
    /// Tests that do not end with libffi's functions, and are left out.
    hang: &'static [Hang],
    /// Tests that libffi itself fails, at each level and with each convention.
    failed: &'static [&'static str],
}

/// What `ABI_NUM` is, and the attribute of functions that goes with it.
struct Convention {
    abi: &'static str,
    attribute: &'static str,
}

/// The one that libffi has by default, for which all tests are; only some name `ABI_NUM`.
const DEFAULT: Convention = Convention { abi: "", attribute: "" };
const STDCALL: Convention = Convention { abi: "FFI_STDCALL", attribute: "stdcall" };
const THISCALL: Convention = Convention { abi: "FFI_THISCALL", attribute: "thiscall" };
const FASTCALL: Convention = Convention { abi: "FFI_FASTCALL", attribute: "fastcall" };
const GNUW64: Convention = Convention { abi: "FFI_GNUW64", attribute: "ms_abi" };

const TARGETS: &[Target] = &[
    Target {
        name: "x86_64-unknown-linux-gnu",
        configure: &[],
        compilers: Some(["gcc", "g++"]),
        flags: &["-m64"],
        link: &[],
        conventions: &[GNUW64],
        is_complex: true,
        hang: &[],
        failed: &[],
    },
    Target {
        name: "i686-unknown-linux-gnu",
        configure: &["--host=i686-linux-gnu"],
        compilers: Some(["gcc", "g++"]),
        flags: &["-m32"],
        link: &[],
        conventions: &[DEFAULT, STDCALL, THISCALL, FASTCALL],
        is_complex: true,
        hang: &[],
        failed: &[],
    },
    Target {
        name: "aarch64-unknown-linux-gnu",
        configure: &["--host=aarch64-linux-gnu", "AR=llvm-ar-19", "RANLIB=llvm-ranlib-19", "NM=llvm-nm-19"],
        compilers: Some(["clang-19", "clang++-19"]),
        flags: &["--target=aarch64-linux-gnu"],
        link: &["-fuse-ld=lld"],
        conventions: &[DEFAULT],
        is_complex: true,
        hang: &[],
        failed: &[],
    },
    Target {
        name: "x86_64-pc-windows-gnu",
        configure: &["--host=x86_64-w64-mingw32"],
        compilers: Some(["x86_64-w64-mingw32-gcc", "x86_64-w64-mingw32-g++"]),
        flags: &[],
        link: &["-static"],
        conventions: &[DEFAULT],
        is_complex: true,
        hang: &[],
        failed: &[],
    },
    Target {
        name: "i686-pc-windows-gnu",
        configure: &["--host=i686-w64-mingw32"],
        compilers: Some(["i686-w64-mingw32-gcc", "i686-w64-mingw32-g++"]),
        flags: &[],
        link: &["-static"],
        conventions: &[DEFAULT, STDCALL, THISCALL, FASTCALL],
        is_complex: true,
        hang: &[],
        failed: MINGW_FLOATS,
    },
    Target {
        name: ARM64_WINDOWS,
        configure: &["--host=aarch64-w64-mingw32", "AR=llvm-ar-19", "RANLIB=llvm-ranlib-19", "NM=llvm-nm-19"],
        compilers: None,
        flags: &[],
        link: &[],
        conventions: &[DEFAULT],
        is_complex: false,
        hang: NO_UNWIND_DATA,
        failed: &[],
    },
];

/// Structures of one `float` or `double` as results: GCC returns them in the x87's register, libffi does not.
const MINGW_FLOATS: &[&str] = &["test-callback 54", "test-callback 55", "test-callback 56"];

/// The folder of the tests of complex numbers, and the names by which several of them have something.
const COMPLEX: &str = "libffi.complex";
const COMPLEX_NAMES: &[&str] = &["gc", "closure_test_fn", "closure_test_gn", "cls_struct_align_fn"];

/// A test that does not end with libffi's closures, or with whichever there are.
struct Hang {
    test: &'static str,
    with_ours: bool,
}

/// libffi's assembly for Windows on ARM64 has no unwind data: an exception finds no way through it. The second test has
/// it pass through `ffi_call`.
const NO_UNWIND_DATA: &[Hang] =
    &[Hang { test: "unwindtest", with_ours: false }, Hang { test: "unwindtest_ffi_call", with_ours: true }];

const ARM64_WINDOWS: &str = "aarch64-pc-windows-msvc";

/// Runs the suite; returns whether all passed.
pub fn run() -> Result<bool> {
    let wines = Wines { x86: Wine::start()?, arm64: arm64::Wine::install() };
    let conventions: usize = TARGETS.iter().map(|target| target.conventions.len()).sum();
    let mut suite = Suite::new("libffi", 2 * TARGETS.len() + 2 * conventions + 2 + runtime::STEPS);
    let mut table = String::from(HEAD);
    let mut drop_ins = BTreeMap::new();
    for target in TARGETS {
        let mut built = None;
        suite.check(&format!("libffi, {}", target.name), || {
            built = Some(Libffi::of(target)?);
            Ok(())
        });
        suite.check(&format!("the drop-in, {}", target.name), || {
            let lib = std::env::current_dir()?.join(folder(&format!("libffi/{}", target.name))?);
            drop_ins.insert(target.name, dist::drop_in(target.name, &lib)?);
            Ok(())
        });
        for convention in target.conventions {
            let mut theirs = BTreeMap::new();
            let title = format!("{}{}", target.name, convention.suffix());
            suite.check(&format!("libffi's own closures, {title}"), || {
                let libffi = built.as_ref().context("there is no libffi, see above")?;
                theirs = libffi.run(convention, None, &wines)?;
                check_theirs(&theirs, target.failed)
            });
            let mut row = None;
            suite.cases_of(&format!("calltable's closures, {title}"), || {
                let libffi = built.as_ref().context("there is no libffi, see above")?;
                let drop_in = drop_ins.get(target.name).context("there is no drop-in, see above")?;
                let ours = libffi.run(convention, Some(&drop_in.archive), &wines)?;
                let own = theirs.values().filter(|result| result.is_ok()).count();
                let passed = ours.values().filter(|result| result.is_ok()).count();
                row = Some(format!("| {title} | {} | {own} | {passed} |\n", ours.len()));
                Ok(judge(&theirs, ours))
            });
            table += &row.unwrap_or_default();
        }
    }
    // On x86_64 Linux they are tests of the workspace.
    suite.tests_of("the drop-in's own tests, i686 Linux", || {
        let mut cargo = cargo_for("i686-unknown-linux-gnu", "test", "")?;
        cargo.args(["--package=calltable-libffi", "--target-dir", OTHER_FOLDER]);
        Ok(cargo)
    });
    suite.tests_of("the drop-in's own tests, AArch64 Linux, emulated", || {
        let mut cargo = cargo_for_aarch64_linux("test", "")?;
        cargo.args(["--package=calltable-libffi", "--tests", "--target-dir", OTHER_FOLDER]);
        cargo.env(variable(AARCH64_LINUX, "RUNNER"), RUN_AARCH64_LINUX);
        Ok(cargo)
    });
    runtime::steps(&mut suite, |target| {
        let shared = drop_ins.get(target).and_then(|drop_in| drop_in.shared.clone());
        shared.context("there is no drop-in, see above")
    });
    let file = folder("libffi")?.join("table.md");
    fs::write(&file, &table)?;
    println!("{table}(in {})", file.display());
    Ok(suite.finish())
}

const HEAD: &str = "| target | tests | with libffi's closures | with calltable's |\n| --- | --- | --- | --- |\n";

/// Refuses any other failures of libffi's closures than those that are known: they would be overlooked with ours.
fn check_theirs(theirs: &Results, known: &[&str]) -> Result<()> {
    let mut failed = Vec::new();
    for (test, result) in theirs {
        if let Err(error) = result {
            println!("    libffi itself fails {test}: {error:#}");
            failed.push(test.clone());
        }
    }
    let mut expected: Vec<_> = known.iter().flat_map(|test| LEVELS.map(|level| format!("{test} {level}"))).collect();
    expected.sort();
    ensure!(failed == expected, "libffi itself fails {failed:?}, and is known to fail {expected:?}");
    Ok(())
}

/// What runs programs for Windows.
struct Wines {
    x86: Wine,
    arm64: Result<arm64::Wine>,
}

/// What is asked of ours: each test that passes with theirs, but those that look into libffi's own closures.
fn judge(theirs: &Results, ours: Results) -> Vec<(String, Result<()>)> {
    let wanted = |test: &str| theirs.get(test).is_some_and(Result::is_ok) && !looks_inside(test);
    let (wanted, other): (Vec<_>, Vec<_>) = ours.into_iter().partition(|(test, result)| result.is_ok() || wanted(test));
    for (test, result) in other {
        println!("    not asked for: {test}: {:#}", result.err().unwrap_or_else(|| anyhow!("passed")));
    }
    wanted
}

/// Whether a test compares the closure with the code at the code pointer.
fn looks_inside(test: &str) -> bool {
    test.starts_with("closure_loc_fn0 ")
}

/// Each test, and why it failed.
type Results = BTreeMap<String, Result<()>>;

impl Convention {
    fn suffix(&self) -> String {
        if self.abi.is_empty() { String::new() } else { format!(", {}", self.abi) }
    }
}

/// A libffi that is built, and its tests.
struct Libffi {
    target: &'static Target,
    /// The compilers of C and C++.
    compilers: [PathBuf; 2],
    /// Its sources.
    source: PathBuf,
    /// Where all is that is made of it.
    home: PathBuf,
    /// Where it is built.
    build: PathBuf,
}

impl Libffi {
    /// Builds what is missing.
    fn of(target: &'static Target) -> Result<Self> {
        let compilers = match target.compilers {
            Some(names) => names.map(PathBuf::from),
            None => [gnullvm::compiler("cc")?, gnullvm::compiler("c++")?],
        };
        let source = source()?;
        let version = source.parent().and_then(Path::file_name).context("the crate's folder has a name")?;
        // What another compiler or another list of flags has made is not taken.
        let mut hash = DefaultHasher::new();
        (target.configure, target.flags, quietly(Command::new(&compilers[0]).arg("--version"))?).hash(&mut hash);
        let home = shared_folder("libffi")?.join(version).join(format!("{}-{:x}", target.name, hash.finish()));
        fs::create_dir_all(&home)?;
        let lock = fs::File::create(home.join("lock"))?;
        lock.lock()?;
        let libffi = Self { target, compilers, source, build: home.join("build"), home };
        let complete = libffi.build.join("complete");
        if !complete.exists() {
            println!("    building it in {} (once)", libffi.build.display());
            fs::remove_dir_all(&libffi.build).ok(); // of a run that was ended
            fs::create_dir_all(&libffi.build)?;
            let flags = target.flags.join(" ");
            let mut configure = Command::new("sh");
            configure.arg(libffi.source.join("configure")).args(target.configure).args([
                "--enable-static",
                "--disable-shared",
                "--disable-docs",
                "--disable-multi-os-directory",
            ]);
            for (variable, compiler) in ["CC", "CXX"].iter().zip(&libffi.compilers) {
                configure.arg(format!("{variable}={} {flags}", compiler.display()));
            }
            if !target.link.is_empty() {
                configure.arg(format!("LDFLAGS={}", target.link.join(" ")));
            }
            quietly(configure.current_dir(&libffi.build))?;
            quietly(Command::new("make").arg("--jobs=2").current_dir(&libffi.build))?;
            fs::write(complete, "")?;
        }
        Ok(libffi)
    }

    fn library(&self) -> PathBuf {
        self.build.join(".libs/libffi.a")
    }

    /// Makes a copy in which the functions that ours take the place of have other names: Zig lets no linker overlook
    /// that there are two.
    fn without_closures(&self) -> Result<PathBuf> {
        let copy = std::env::current_dir()?.join(folder(&format!("libffi/{}", self.target.name))?).join("libffi.a");
        let mut objcopy = Command::new("llvm-objcopy-19");
        objcopy.args(dist::REPLACED.map(|function| format!("--redefine-sym={function}=libffi_own_{function}")));
        quietly(objcopy.arg(self.library()).arg(&copy))?;
        Ok(copy)
    }

    /// Runs all tests of a convention, with the drop-in or with libffi's own closures.
    fn run(&self, convention: &Convention, drop_in: Option<&Path>, wines: &Wines) -> Result<Results> {
        let mut all = Results::new();
        for level in LEVELS {
            let mut group = self.group(convention, level)?;
            let is_left_out = |hang: &Hang, name: &str| hang.test == name && (hang.with_ours || drop_in.is_none());
            group.tests.retain(|test| !self.target.hang.iter().any(|hang| is_left_out(hang, &test.name)));
            let program = self.link(&group, drop_in)?;
            println!("    {}", program.display());
            let results = run_all(&group.tests, |first| start(self.target, &program, first, drop_in.is_some(), wines))?;
            all.extend(group.tests.iter().map(|test| format!("{} {level}", test.name)).zip(results));
        }
        Ok(all)
    }

    /// Compiles the tests of a convention.
    fn group(&self, convention: &Convention, level: &str) -> Result<Group> {
        let tests = self.source.join("testsuite");
        let name = format!("{}{level}", if convention.abi.is_empty() { "default" } else { convention.abi });
        let out = self.home.join(name);
        fs::create_dir_all(&out)?;
        let mut group = Group { tests: Vec::new(), objects: Vec::new(), out };
        let case = std::env::current_dir()?.join(SOURCES).join("case.h");
        let mut commands = Vec::new();
        let mut compile = |file: &Path, symbol: Option<&str>| -> Result<PathBuf> {
            let is_cpp = file.extension().is_some_and(|end| end == "cc");
            let mut command = Command::new(&self.compilers[usize::from(is_cpp)]);
            command.args(self.target.flags).args([level, "-w", "-c", "-include"]).arg(&case);
            match symbol {
                Some(symbol) => command.arg(format!("-DLIBFFI_TEST=\"{symbol}\"")),
                None => command.arg("-DDGTEST").arg("-I").arg(tests.join("libffi.bhaible")),
            };
            if file.parent().is_some_and(|folder| folder.ends_with(COMPLEX)) {
                let name = file.file_stem().unwrap_or_default().display();
                command.args(COMPLEX_NAMES.iter().map(|global| format!("-D{global}={name}_{global}")));
            }
            if !convention.abi.is_empty() {
                command.arg(format!("-DABI_NUM={}", convention.abi));
                command.arg(format!("-DABI_ATTR=__attribute__(({}))", convention.attribute));
            }
            for folder in [self.build.join("include"), self.build.clone(), self.source.join("include")] {
                command.arg("-I").arg(folder);
            }
            let object = group.out.join(file.with_extension("o").file_name().context("a file has a name")?);
            command.arg(file).arg("-o").arg(&object);
            commands.push(command);
            Ok(object)
        };

        // It takes longest.
        let source = fs::read_to_string(tests.join("libffi.bhaible/test-callback.c"))?;
        let (text, cases) = with_cases(&source)?;
        let callbacks = group.out.join("test-callback.c");
        fs::write(&callbacks, &text)?;
        group.objects.push(compile(&callbacks, None)?);
        for number in 1..=cases {
            let (name, symbol) = (format!("test-callback {number}"), format!("libffi_case_{number}"));
            group.tests.push(Test { name, symbol, output: String::new() });
        }
        let mut files = fs::read_dir(tests.join("libffi.closures"))?.collect::<Result<Vec<_>, _>>()?;
        if self.target.is_complex {
            let of_closures = |file: &fs::DirEntry| file.file_name().to_string_lossy().starts_with("cls_");
            let complex = fs::read_dir(tests.join(COMPLEX))?.collect::<Result<Vec<_>, _>>()?;
            files.extend(complex.into_iter().filter(of_closures));
        }
        files.sort_by_key(fs::DirEntry::path);
        for file in files.iter().map(fs::DirEntry::path) {
            let is_test = file.extension().is_some_and(|end| end == "c" || end == "cc");
            let text = if is_test { fs::read_to_string(&file)? } else { continue };
            if convention.abi.is_empty() || text.contains("ABI_NUM") {
                let name = file.file_stem().and_then(|name| name.to_str()).context("a file has a name")?;
                let symbol = format!("libffi_test_{name}");
                group.objects.push(compile(&file, Some(&symbol))?);
                group.tests.push(Test { name: name.into(), symbol, output: expected(&text)? });
            }
        }

        let made = format!("{commands:?}{}{text}", fs::read_to_string(&case)?);
        let complete = group.out.join("complete");
        if !fs::read_to_string(&complete).is_ok_and(|found| found == made) {
            println!("    compiling {} files, {level}", commands.len());
            at_once(commands)?;
            group.refuse_clashes()?;
            fs::write(complete, made)?;
        }
        Ok(group)
    }

    /// Links a program of all tests.
    fn link(&self, group: &Group, drop_in: Option<&Path>) -> Result<PathBuf> {
        let out = folder(&format!("libffi/{}", self.target.name))?;
        let list = out.join("list.c");
        fs::write(&list, group.list())?;
        let program = std::env::current_dir()?.join(out).join(format!(
            "{}-{}.exe",
            group.out.file_name().and_then(|name| name.to_str()).unwrap_or_default(),
            if drop_in.is_some() { "ours" } else { "theirs" }
        ));
        let objects: Vec<_> = [list, Path::new(SOURCES).join("run.c")]
            .into_iter()
            .map(|source| {
                let object = program.with_extension(format!("{}.o", source.file_stem().unwrap_or_default().display()));
                let mut compile = Command::new(&self.compilers[0]);
                compile
                    .args(self.target.flags)
                    .args(["-O1", "-Wall", "-Wextra", "-Werror", "-c", "-I"])
                    .arg(self.build.join("include"));
                quietly(compile.arg(source).arg("-o").arg(&object)).map(|_| object)
            })
            .collect::<Result<_>>()?;
        let mut link = Command::new(&self.compilers[1]);
        link.args(self.target.flags).args(self.target.link).args(objects).args(&group.objects);
        match drop_in {
            Some(drop_in) if self.target.compilers.is_none() => link.arg(drop_in).arg(self.without_closures()?),
            Some(drop_in) => link.arg(drop_in).arg("-Wl,--allow-multiple-definition").arg(self.library()),
            None => link.arg(self.library()),
        };
        link.arg("-o").arg(&program);
        if self.target.name.contains("windows") {
            link.arg("-lntdll");
        }
        // Of hundreds of objects.
        let output = link.output()?;
        ensure!(output.status.success(), "linking {}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
        Ok(program)
    }
}

/// libffi's sources, as the crate has them that `tests/libffi` depends on.
fn source() -> Result<PathBuf> {
    let manifest = Path::new(SOURCES).join("Cargo.toml");
    let mut metadata = cargo();
    metadata.args(["metadata", "--locked", "--format-version=1", "--manifest-path"]).arg(manifest);
    let text = String::from_utf8(metadata.output()?.stdout)?;
    // No path of a registry has a quotation mark in it.
    let paths = text.split(r#""manifest_path":""#).skip(1).filter_map(|rest| rest.split('"').next());
    let folder = paths.map(|path| Path::new(path).with_file_name("libffi")).find(|folder| folder.exists());
    folder.context("cargo has no sources of libffi")
}

/// The tests that are linked into one program.
struct Group {
    tests: Vec<Test>,
    objects: Vec<PathBuf>,
    out: PathBuf,
}

struct Test {
    name: String,
    /// Of its function.
    symbol: String,
    /// What it must print.
    output: String,
}

impl Group {
    /// The list that `run.c` goes through.
    fn list(&self) -> String {
        let mut text = String::from("#include <stddef.h>\n");
        for (number, Test { symbol, .. }) in self.tests.iter().enumerate() {
            let _ = writeln!(text, "int test_{number}(void) __asm__(\"{symbol}\");");
        }
        text += "const struct {\n    const char *name;\n    int (*run)(void);\n} libffi_tests[] = {\n";
        for (number, Test { name, .. }) in self.tests.iter().enumerate() {
            let _ = writeln!(text, "    {{\"{name}\", test_{number}}},");
        }
        text + "    {NULL, NULL},\n};\n"
    }

    /// The linker, which is to overlook that libffi has what our library has, would overlook these, too.
    fn refuse_clashes(&self) -> Result<()> {
        let mut nm = Command::new("llvm-nm-19");
        let output = nm.args(["--defined-only", "--extern-only", "--format=posix"]).args(&self.objects).output()?;
        let text = String::from_utf8(output.stdout)?;
        let mut names: Vec<_> = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, _)| name)
            // Inline functions of C++ are to be in each file that uses them, and so is what compilers name with a dot.
            .filter(|name| !name.trim_start_matches('_').starts_with('Z') && !name.contains('.'))
            .collect();
        ensure!(names.len() >= self.objects.len(), "{nm:?}: {text}");
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => bail!("two tests have {}", pair[0]),
            None => Ok(()),
        }
    }
}

/// What the comments of a test say that it prints: plain text so far, though DejaGNU takes it for a pattern.
fn expected(source: &str) -> Result<String> {
    let mut all = String::new();
    for text in source.split("dg-output \"").skip(1) {
        let mut letters = text.chars();
        loop {
            match letters.next().context("a text does not end")? {
                '"' => break,
                '\\' => match letters.next() {
                    Some('n') => all.push('\n'),
                    // Before it, of the pattern itself.
                    Some('\\') => {}
                    Some('-') => all.push('-'),
                    other => bail!("what does \\{other:?} mean in {text:?}?"),
                },
                letter => {
                    ensure!(!"[](){}*+?|^$".contains(letter), "{letter} in {text:?}: a pattern");
                    all.push(letter);
                }
            }
        }
    }
    Ok(all)
}

/// Has a file of many cases, of which the preprocessor would choose one for `main`, make a function of each. Returns
/// their number, too.
fn with_cases(source: &str) -> Result<(String, usize)> {
    const CASE: &str = "#if (!defined(DGTEST)) || DGTEST == ";
    let numbers = source.lines().filter_map(|line| line.strip_prefix(CASE)?.trim().parse::<usize>().ok());
    let cases = numbers.clone().count();
    ensure!(numbers.eq(1..=cases) && cases >= 80, "there are {cases} cases");
    let (before, main) = source.split_once("\nint main (void)\n").context("where is `main`?")?;
    let (brace, main) = main.split_at(main.find('{').map_or(0, |at| at + 1));
    let mut text = format!("{before}\n");
    for number in 1..=cases {
        let name = format!("libffi_case_{number}");
        let head = format!("#undef DGTEST\n#define DGTEST {number}\nint {name}(void) __asm__(\"{name}\");\n");
        // A case begins as if no other one had run.
        let _ = write!(text, "{head}LIBFFI_CASE int {name}(void)\n{brace}count = 0; *rbuf1 = 0;{main}\n");
    }
    Ok((text, cases))
}

/// Runs commands, as many at a time as there are processors.
fn at_once(commands: Vec<Command>) -> Result<()> {
    let width = std::thread::available_parallelism()?.get();
    let left = Mutex::new(commands);
    let next = || left.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
    std::thread::scope(|scope| {
        let work = || {
            while let Some(mut command) = next() {
                let output = command.output().with_context(|| format!("{command:?}"))?;
                ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
            }
            Ok(())
        };
        let workers: Vec<_> = (0..width).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a thread panicked"))?)
    })
}

/// Runs a program from a test on; returns what it has printed.
fn start(target: &Target, program: &Path, first: usize, is_ours: bool, wines: &Wines) -> Result<String> {
    let before = match target.name {
        ARM64_WINDOWS => wines.arm64.as_ref().map_err(|error| anyhow!("no Wine for ARM64: {error:#}"))?.runner(),
        name if name.contains("windows") => wines.x86.runner(),
        name if name.starts_with("aarch64") => format!("timeout 600 {}", xtask::suite::RUN_AARCH64_LINUX),
        _ => "timeout 600".into(),
    };
    let mut command = Command::new("sh");
    wines.x86.set(&mut command).args(["-c", &format!("exec {before} {} {first}", program.display())]);
    // Into a file: what Wine starts at its first program, and leaves running, would keep a pipe open.
    let said = program.with_extension("out");
    let status = command.stdout(fs::File::create(&said)?).stderr(Stdio::null()).status()?;
    let text = String::from_utf8_lossy(&fs::read(said)?).replace('\r', "");
    // Whose closures they are can be seen: libffi's code is not in the program's file, or in another copy of it.
    let (whose, text) = text.split_once('\n').unwrap_or_default();
    let wanted = if is_ours { "@closures own" } else { "@closures elsewhere" };
    ensure!(whose == wanted, "not {wanted}: {command:?}: {status}: {whose}{text}");
    ensure!(text.starts_with("\n@test "), "{command:?}: {status}: {text}");
    Ok(text.into())
}

/// Runs all tests of a program. One that fails ends it. Then it runs again with that test as its first, for which it is
/// as if DejaGNU had started it; and then from the next one on.
fn run_all(tests: &[Test], mut start: impl FnMut(usize) -> Result<String>) -> Result<Vec<Result<()>>> {
    let mut results = Vec::new();
    while results.len() < tests.len() {
        let text = start(results.len())?;
        for (place, part) in text.split("\n@test ").skip(1).enumerate() {
            let test = tests.get(results.len()).context("more tests ran than there are")?;
            let result = outcome(test, part)?;
            if result.is_err() && place > 0 {
                break;
            }
            results.push(result);
        }
    }
    Ok(results)
}

/// Whether a test has passed, by what was printed from its name on.
fn outcome(test: &Test, text: &str) -> Result<Result<()>> {
    let said =
        text.strip_prefix(&format!("{}\n", test.name)).with_context(|| format!("not {}: {text:?}", test.name))?;
    Ok(match said.rsplit_once("\n@code ") {
        None => Err(anyhow!("it stopped; it said {said:?}")),
        Some((said, code)) if code.trim_end() != "0" => {
            Err(anyhow!("it ended with {}; it said {said:?}", code.trim_end()))
        }
        Some((said, _)) if !said.contains(&test.output) => Err(anyhow!("it said {said:?}")),
        Some(_) => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_test_must_print_is_read_from_its_comments() {
        let source = r#"/* { dg-output "1 2: \\-3" } */ text /* { dg-output "\nres: \-3.5" } */"#;
        assert_eq!(expected(source).unwrap(), "1 2: -3\nres: -3.5");
        assert_eq!(expected("int main(void) {}").unwrap(), "");
        for other in [r#"{ dg-output "[0-9]" }"#, r#"{ dg-output "\t" }"#, r#"{ dg-output "1"#] {
            assert!(expected(other).is_err(), "{other}");
        }
    }

    #[test]
    fn each_case_becomes_a_function() {
        let case = |number| format!("#if (!defined(DGTEST)) || DGTEST == {number}  \n  case({number});\n#endif\n");
        let all: String = (1..=80).map(case).collect();
        let (text, cases) = with_cases(&format!("int count;\nint main (void)\n{{\n  int x;\n{all}}}\n")).unwrap();
        assert_eq!(cases, 80);
        assert_eq!(text.matches("LIBFFI_CASE int libffi_case_").count(), 80);
        assert!(text.contains("#define DGTEST 7\n") && text.contains("libffi_case_7(void)\n{count = 0;"), "{text}");
        let lacking = all.replace("DGTEST == 40 ", "DGTEST == 140 ");
        assert!(with_cases(&format!("\nint main (void)\n{{{lacking}}}")).is_err());
        assert!(with_cases(&all).is_err(), "no `main`");
    }

    #[test]
    fn other_failures_of_libffi_than_the_known_ones_are_noticed() {
        let results = |failed: &[&str]| -> Results {
            let all = ["a -O0", "a -O2", "b -O0", "b -O2"].into_iter();
            all.map(|test| (test.into(), if failed.contains(&test) { Err(anyhow!("no")) } else { Ok(()) })).collect()
        };
        assert!(check_theirs(&results(&[]), &[]).is_ok());
        assert!(check_theirs(&results(&["a -O0", "a -O2"]), &["a"]).is_ok());
        assert!(check_theirs(&results(&["a -O0", "a -O2", "b -O2"]), &["a"]).is_err());
        assert!(check_theirs(&results(&["a -O0"]), &["a"]).is_err());
    }

    fn tests(names: &[&str]) -> Vec<Test> {
        let test = |name: &&str| Test { name: (*name).into(), symbol: String::new(), output: format!("{name}!") };
        names.iter().map(test).collect()
    }

    /// Runs tests as a program would of which these fail, wherever they run, and these after another one.
    fn outcomes(fail: &[&str], fail_later: &[&str]) -> (Vec<bool>, Vec<usize>) {
        let tests = tests(&["a", "b", "c", "d"]);
        let mut starts = Vec::new();
        let results = run_all(&tests, |first| {
            starts.push(first);
            let mut text = String::new();
            for (place, test) in tests[first..].iter().enumerate() {
                text += &format!("\n@test {0}\n{0}!", test.name);
                if fail.contains(&&*test.name) || (place > 0 && fail_later.contains(&&*test.name)) {
                    break;
                }
                text += "\n\n@code 0\n";
            }
            Ok(text)
        });
        (results.unwrap().iter().map(Result::is_ok).collect(), starts)
    }

    #[test]
    fn a_test_that_fails_after_others_runs_again_as_the_first() {
        assert_eq!(outcomes(&[], &[]), (vec![true; 4], vec![0]));
        assert_eq!(outcomes(&["b"], &[]), (vec![true, false, true, true], vec![0, 1, 2]));
        assert_eq!(outcomes(&["a", "d"], &[]), (vec![false, true, true, false], vec![0, 1, 3]));
        assert_eq!(outcomes(&[], &["c"]), (vec![true; 4], vec![0, 2]));
    }

    #[test]
    fn a_test_passes_with_its_code_and_what_it_prints() {
        let test = &tests(&["a"])[0];
        let passes = |text| outcome(test, text).unwrap().is_ok();
        assert!(passes("a\n1 a!\n\n@code 0\n"));
        for wrong in ["a\n1 a!\n\n@code 3\n", "a\n1 b!\n\n@code 0\n", "a\na!\n", "a\n\n@code 0\n"] {
            assert!(!passes(wrong), "{wrong}");
        }
        assert!(outcome(test, "b\na!\n\n@code 0\n").is_err(), "it is another test");
    }

    #[test]
    fn each_test_that_passes_with_theirs_is_asked_for() {
        let results = |failed: &[&str]| -> Results {
            let all = ["a -O0", "b -O0", "closure_loc_fn0 -O0"].into_iter();
            all.map(|test| (test.into(), if failed.contains(&test) { Err(anyhow!("no")) } else { Ok(()) })).collect()
        };
        let failed = |theirs: &[&str], ours: &[&str]| {
            let judged = judge(&results(theirs), results(ours));
            judged.iter().filter(|(_, result)| result.is_err()).count()
        };
        assert_eq!(failed(&[], &[]), 0);
        assert_eq!(failed(&[], &["a -O0"]), 1);
        assert_eq!(failed(&["a -O0"], &["a -O0"]), 0, "theirs fails, too");
        assert_eq!(failed(&[], &["closure_loc_fn0 -O0"]), 0, "it looks into the closure");
        assert_eq!(judge(&results(&["b -O0"]), results(&[])).len(), 3, "what passes counts");
    }
}
