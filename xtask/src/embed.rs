//! The suite `embed`: C and C++ programs that know nothing but the folders of `dist`, and what else embeds the crate.

mod hpp;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, ensure};
use xtask::suite::{Suite, folder, quietly};
use xtask::wine::{Wine, for_windows};
use xtask::{arm64, dist, tools};

use crate::{examples, lua, uefi};

const SOURCES: &str = "tests/embed";
const WARNINGS: &[&str] = &["-Wall", "-Wextra", "-Wpedantic", "-Werror"];
const STANDARDS: [(&str, &str); 2] = [("c", "-std=c99"), ("cpp", "-std=c++11")];

/// A target whose programs have a C library: how GCC and Clang are called for it.
pub struct Hosted {
    /// As Rust calls it.
    pub target: &'static str,
    /// For C and C++, with a flag that each gets.
    pub gcc: [&'static str; 2],
    clang: bool,
    /// That flag.
    pub flag: &'static str,
}

/// All of them.
pub const HOSTED: [Hosted; 4] = [
    Hosted { target: "x86_64-unknown-linux-gnu", gcc: ["gcc", "g++"], clang: true, flag: "-m64" },
    Hosted { target: "i686-unknown-linux-gnu", gcc: ["gcc", "g++"], clang: true, flag: "-m32" },
    Hosted {
        target: "x86_64-pc-windows-gnu",
        gcc: ["x86_64-w64-mingw32-gcc", "x86_64-w64-mingw32-g++"],
        clang: false,
        flag: "-static",
    },
    Hosted {
        target: "i686-pc-windows-gnu",
        gcc: ["i686-w64-mingw32-gcc", "i686-w64-mingw32-g++"],
        clang: false,
        flag: "-static",
    },
];

const MSVC: [&str; 3] = ["x86_64-pc-windows-msvc", "i686-pc-windows-msvc", "aarch64-pc-windows-msvc"];
const UEFI: [&str; 3] = ["x86_64-unknown-uefi", "i686-unknown-uefi", "aarch64-unknown-uefi"];

/// A target of bare machines, and how C is compiled as kernels are.
const BARE: [(&str, &[&str]); 3] = [
    ("x86_64-unknown-none", &["-mno-sse", "-mno-mmx", "-mno-80387", "-mno-red-zone"]),
    ("aarch64-unknown-none", &["-mbranch-protection=standard"]),
    ("aarch64-unknown-none-softfloat", &["-mbranch-protection=standard", "-mgeneral-regs-only"]),
];

/// Runs the suite; returns whether all passed.
pub fn run() -> Result<bool> {
    let wine = Wine::start()?;
    let clangs = HOSTED.iter().filter(|hosted| hosted.clang).count();
    let bare = MSVC.len() * 3 + UEFI.len() * 2 + BARE.len() * 3;
    let for_hpp = HOSTED.iter().map(hpp::steps).sum::<usize>() + 2 + 1 + MSVC.len();
    let steps = 2 + 8 * HOSTED.len() + 2 * clangs + 3 + bare + for_hpp + examples::STEPS + lua::STEPS + 1;
    let mut suite = Suite::new("embed", steps);
    for hosted in &HOSTED {
        let target = hosted.target;
        let mut made = None;
        suite.check(&format!("dist, {target}"), || {
            made = Some(dist::make(target)?);
            Ok(())
        });
        if target == HOSTED[0].target {
            suite.check("CMake refuses another version and another width", || {
                check_refusals(hosted, made.as_ref().context("there is no such folder, see above")?)
            });
            suite.check("the programs in docs/c.md", || {
                run_guide(hosted, made.as_ref().context("there is no such folder, see above")?)
            });
            suite.check("the C++ programs in docs/c.md", || {
                hpp::run_guide(hosted, made.as_ref().context("there is no such folder, see above")?)
            });
            suite.check("what calltable.hpp refuses to compile", || {
                hpp::refusals(made.as_ref().context("there is no such folder, see above")?)
            });
        }
        let built = &mut None;
        for program in ["embed_c", "embed_cpp", "embed_contract", "embed_shared"] {
            suite.program(&format!("{program}, built by CMake, {target}"), || {
                let made = made.as_ref().context("there is no such folder, see above")?;
                if built.is_none() {
                    quietly(&mut configure(hosted, made)?)?;
                    let out = out_of(target)?.join("cmake");
                    quietly(Command::new("cmake").arg("--build").arg(&out))?;
                    *built = Some(out);
                }
                Ok(start(&wine, target, &built.as_ref().context("not built")?.join(program)))
            });
        }
        suite.program(&format!("embed.c with the shared library, built by {}, {target}", hosted.gcc[0]), || {
            let made = made.as_ref().context("there is no such folder, see above")?;
            let program = build_plainly(hosted, made, "calltable-shared", hosted.gcc, 0)?;
            Ok(start(&wine, target, &program))
        });
        hpp::hosted(&mut suite, &wine, hosted, made.as_deref());
        let clang = hosted.clang.then_some(["clang-19", "clang++-19"]);
        for compilers in [Some(hosted.gcc), clang].into_iter().flatten() {
            for (number, compiler) in compilers.iter().enumerate() {
                suite.program(&format!("embed.{}, built by {compiler}, {target}", STANDARDS[number].0), || {
                    let made = made.as_ref().context("there is no such folder, see above")?;
                    Ok(start(&wine, target, &build_plainly(hosted, made, "calltable", compilers, number)?))
                });
            }
        }
    }
    aarch64_linux(&mut suite);
    let arm64 = arm64::Wine::install();
    for target in MSVC {
        let mut made = None;
        suite.check(&format!("dist, {target}"), || {
            made = Some(dist::make(target)?);
            Ok(())
        });
        for (language, standard) in STANDARDS {
            suite.program(
                &format!("embed.{language} without a C library, built by clang and lld-link, {target}"),
                || {
                    let made = made.as_ref().context("there is no such folder, see above")?;
                    let objects = build_bare(target, made, language, standard, &[])?;
                    let program = link_msvc(target, made, &objects, language)?;
                    if target.starts_with("aarch64") {
                        let arm64 = arm64.as_ref().map_err(|error| anyhow!("no Wine for ARM64: {error:#}"))?;
                        let mut command = Command::new("sh");
                        command.args(["-c", &format!("{} {}.exe", arm64.runner(), program.display())]);
                        return Ok(command);
                    }
                    Ok(start(&wine, target, &program))
                },
            );
        }
        hpp::msvc(&mut suite, &wine, &arm64, target, made.as_deref());
    }
    for target in UEFI {
        let mut made = None;
        suite.check(&format!("dist, {target}"), || {
            made = Some(dist::make(target)?);
            Ok(())
        });
        suite.machine(&format!("embed.c under OVMF, {target}"), "calltable in a C program on UEFI", || {
            let made = made.as_ref().context("there is no such folder, see above")?;
            let objects = build_bare(target, made, "c", "-std=c99", &["-DEMBED_UEFI"])?;
            let program = out_of(target)?.join("embed.efi");
            let mut link = Command::new("lld-link-19");
            link.args(["/entry:efi_main", "/subsystem:efi_application", "/nodefaultlib"]);
            link.arg(format!("/out:{}", program.display())).args(objects);
            quietly(link.arg(made.join("lib/libcalltable.a")))?;
            uefi::boot_program(target.split('-').next().unwrap_or(target), &program)
        });
    }
    for (target, flags) in BARE {
        let mut made = None;
        suite.check(&format!("dist, {target}"), || {
            made = Some(dist::make(target)?);
            Ok(())
        });
        for (language, standard) in STANDARDS {
            suite.program(&format!("embed.{language} without a C library, in a process of Linux, {target}"), || {
                let made = made.as_ref().context("there is no such folder, see above")?;
                // As kernels are compiled; only what goes out of the program goes by Linux's system calls.
                let objects = build_bare(target, made, language, standard, &[flags, &["-fno-pic"]].concat())?;
                let program = out_of(target)?.join(language);
                let mut link = Command::new("ld.lld-19");
                link.args(["-static", "--no-undefined", "-o"]).arg(&program).args(objects);
                quietly(link.arg(made.join("lib/libcalltable.a")))?;
                let code = quietly(Command::new("llvm-objdump-19").arg("-d").arg(&program))?;
                ensure!(code.contains("calltable_register"), "there is no code of the library in the program");
                ensure!(!code.contains("%xmm"), "code that was built without SSE touches XMM registers");
                Ok(if target.starts_with("aarch64") { emulated(&program) } else { Command::new(program) })
            });
        }
    }
    examples::steps(&mut suite, &wine);
    lua::steps(&mut suite, &wine);
    let title = "audit of every target, and of a driver; it finds a planted violation of each kind";
    suite.program(title, || Ok(tools::suite("audit")));
    Ok(suite.finish())
}

/// Programs of AArch64 Linux, which Clang compiles and QEMU's user mode runs, by what pkg-config says of the folder.
/// (There is no C++ library for this processor, so they are of C, but for the one that wants none.)
fn aarch64_linux(suite: &mut Suite) {
    const TARGET: &str = "aarch64-unknown-linux-gnu";
    let mut made = None;
    suite.check(&format!("dist, {TARGET}"), || {
        made = Some(dist::make(TARGET)?);
        Ok(())
    });
    for package in ["calltable", "calltable-shared"] {
        suite.program(&format!("embed.c, {package}, built by Clang, {TARGET}"), || {
            let made = made.as_ref().context("there is no such folder, see above")?;
            let flags = flags_for(made, package)?;
            let program = out_of(TARGET)?.join(format!("c-{package}"));
            let mut clang = Command::new("clang-19");
            clang.args(["--target=aarch64-linux-gnu", "-fuse-ld=lld", "-mbranch-protection=standard", "-O2"]);
            clang.args(WARNINGS).args(["-std=c99", "tests/embed/platform.c", "tests/embed/embed.c"]);
            quietly(clang.args(flags.split_whitespace()).arg("-o").arg(&program))?;
            let mut command = emulated(&program);
            command.env("LD_LIBRARY_PATH", made.join("lib"));
            Ok(command)
        });
    }
    hpp::aarch64_linux(suite, TARGET, made.as_deref());
}

/// Runs a program of AArch64 Linux.
fn emulated(program: &Path) -> Command {
    let mut command = Command::new("qemu-aarch64");
    command.args(["-L", "/usr/aarch64-linux-gnu"]).arg(program);
    command
}

/// A folder for what is built for a target.
pub fn out_of(target: &str) -> Result<PathBuf> {
    Ok(std::env::current_dir()?.join(folder(&format!("embed/{target}"))?))
}

/// Runs a program, in Wine if it is one of Windows.
fn start(wine: &Wine, target: &str, program: &Path) -> Command {
    let made = std::env::current_dir().unwrap_or_default().join(dist::FOLDER).join(target);
    if !target.contains("windows") {
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", made.join("lib"));
        return command;
    }
    let mut command = Command::new("sh");
    wine.set(&mut command).args(["-c", &format!("{} {}.exe", wine.runner(), program.display())]);
    command.env("WINEPATH", for_windows(&made.join("bin")));
    command
}

/// Configures the project of the tests anew.
fn configure(hosted: &Hosted, made: &Path) -> Result<Command> {
    configure_in(hosted, made, Path::new(SOURCES), &out_of(hosted.target)?.join("cmake"))
}

/// Configures a project anew, which is to find a folder of `dist` or where that was installed.
pub fn configure_in(hosted: &Hosted, made: &Path, sources: &Path, out: &Path) -> Result<Command> {
    if out.exists() {
        std::fs::remove_dir_all(out)?;
    }
    let mut configure = Command::new("cmake");
    configure.arg("-S").arg(sources).arg("-B").arg(out).arg(format!("-DCMAKE_PREFIX_PATH={}", made.display()));
    for (language, compiler) in ["C", "CXX"].iter().zip(hosted.gcc) {
        configure.arg(format!("-DCMAKE_{language}_COMPILER={compiler}"));
    }
    if hosted.target.contains("windows") {
        configure.arg("-DCMAKE_SYSTEM_NAME=Windows").arg("-DCMAKE_EXE_LINKER_FLAGS=-static");
    } else {
        configure.arg(format!("-DCMAKE_C_FLAGS={0}", hosted.flag)).arg(format!("-DCMAKE_CXX_FLAGS={0}", hosted.flag));
    }
    Ok(configure)
}

/// A version that does not serve, and a library for the other width.
fn check_refusals(hosted: &Hosted, made: &Path) -> Result<()> {
    let refused = |command: &mut Command, reason: &str| {
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        // CMake breaks its lines where it likes.
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(!output.status.success() && words.contains(reason), "{command:?}: {}: {text}", output.status);
        Ok(())
    };
    for version in ["0.2", "1.0", "0.1.999"] {
        let reason = format!("compatible with requested version \"{version}\"");
        refused(configure(hosted, made)?.arg(format!("-DCALLTABLE_WANTED={version}")), &reason)?;
    }
    let other = HOSTED.iter().find(|other| other.flag != hosted.flag).context("there are two widths")?;
    refused(&mut configure(other, made)?, "for another width")
}

/// Runs each program of the guide.
fn run_guide(hosted: &Hosted, made: &Path) -> Result<()> {
    let guide = std::fs::read_to_string("docs/c.md")?;
    let programs: Vec<_> = guide.split("```c\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let mains = guide.matches("int main(void)").count();
    ensure!(mains > 0 && programs.len() == mains, "{} texts in C are in it, and {mains} programs", programs.len());
    let flags = flags_for(made, "calltable")?;
    for (number, text) in programs.into_iter().enumerate() {
        let program = out_of(hosted.target)?.join(format!("guide-{number}"));
        let source = program.with_extension("c");
        std::fs::write(&source, text)?;
        let mut compile = Command::new(hosted.gcc[0]);
        compile.args(WARNINGS).arg("-std=c99").arg(source).args(flags.split_whitespace()).arg("-o").arg(&program);
        quietly(&mut compile)?;
        let text = quietly(&mut Command::new(program))?;
        ensure!(number != 0 || text == "nearest to 40: 38\n", "{text}");
    }
    Ok(())
}

/// What pkg-config says of a package in the folder.
fn flags_for(made: &Path, package: &str) -> Result<String> {
    let mut ask = Command::new("pkg-config");
    quietly(ask.args(["--cflags", "--libs", package]).env("PKG_CONFIG_PATH", made.join("lib/pkgconfig")))
}

/// Compiles and links with nothing but what pkg-config says of a package; in C or C++, by the number of the compiler.
fn build_plainly(hosted: &Hosted, made: &Path, package: &str, compilers: [&str; 2], number: usize) -> Result<PathBuf> {
    let out = out_of(hosted.target)?;
    let flags = flags_for(made, package)?;
    let (language, standard) = STANDARDS[number];
    let object = out.join(format!("platform-{}.o", compilers[0]));
    let program = out.join(format!("{language}-{}-{package}", compilers[number]));
    let all = ["-O2", hosted.flag].into_iter().chain(WARNINGS.iter().copied());
    let mut platform = Command::new(compilers[0]);
    platform.args(all.clone()).args(["-std=c99", "-c", "tests/embed/platform.c", "-o"]).arg(&object);
    quietly(platform.args(flags.split_whitespace().filter(|flag| flag.starts_with("-I") || flag.starts_with("-D"))))?;
    let mut compile = Command::new(compilers[number]);
    compile.args(all).arg(standard).arg(format!("{SOURCES}/embed.{language}")).arg(object);
    let name = if hosted.target.contains("windows") { program.with_extension("exe") } else { program.clone() };
    quietly(compile.args(flags.split_whitespace()).arg("-o").arg(name))?;
    Ok(program)
}

/// Compiles the program and its platform for a target without a C library. Returns the objects.
fn build_bare(target: &str, made: &Path, language: &str, standard: &str, flags: &[&str]) -> Result<[PathBuf; 2]> {
    let out = out_of(target)?;
    // Clang 19 makes no objects for the firmware by that name; they are those of Windows.
    let triple = target.trim_end_matches("-softfloat").replace("unknown-none", "unknown-none-elf");
    let triple = triple.replace("unknown-uefi", "pc-windows-msvc");
    let compile = |source: &str, compiler: &str, standard: &str| -> Result<PathBuf> {
        let object = out.join(source).with_extension(format!("{language}.o"));
        let mut command = Command::new(compiler);
        command.args(WARNINGS).args([standard, "-O2", "-ffreestanding", "-DEMBED_BARE", "-c"]).args(flags);
        if compiler.contains("++") {
            command.args(["-fno-exceptions", "-fno-rtti", "-nostdinc++"]);
        }
        command.arg(format!("--target={triple}")).arg("-I").arg(made.join("include"));
        quietly(command.arg(Path::new(SOURCES).join(source)).arg("-o").arg(&object))?;
        Ok(object)
    };
    let compiler = if language == "cpp" { "clang++-19" } else { "clang-19" };
    Ok([compile("platform.c", "clang-19", "-std=c99")?, compile(&format!("embed.{language}"), compiler, standard)?])
}

/// Links with the functions of one DLL of the system, whose import library is made here: there is no SDK.
fn link_msvc(target: &str, made: &Path, objects: &[PathBuf], language: &str) -> Result<PathBuf> {
    let out = out_of(target)?;
    let (definition, library) = (out.join("kernel32.def"), out.join("kernel32.lib"));
    let plain = ["GetStdHandle", "WriteFile", "ExitProcess"];
    let (machine, names) = match target.split('-').next() {
        Some("i686") => ("i386", ["GetStdHandle@4", "WriteFile@20", "ExitProcess@4"]),
        Some("aarch64") => ("arm64", plain),
        _ => ("i386:x86-64", plain),
    };
    std::fs::write(&definition, format!("LIBRARY kernel32.dll\nEXPORTS\n{}\n", names.join("\n")))?;
    let mut tool = Command::new("llvm-dlltool-19");
    tool.args(["--kill-at", "-m", machine, "-d"]).arg(&definition).arg("-l").arg(&library);
    quietly(&mut tool)?;
    let program = out.join(language);
    let mut link = Command::new("lld-link-19");
    link.args(["/entry:start", "/subsystem:console", "/nodefaultlib", "/guard:cf,ehcont"]);
    link.arg(format!("/out:{}.exe", program.display())).args(objects);
    quietly(link.arg(made.join("lib/calltable.lib")).arg(library))?;
    Ok(program)
}
