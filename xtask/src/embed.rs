//! The suite `embed`: C and C++ programs that know nothing but the folders of `dist`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::suite::{Suite, folder, quietly};
use crate::wine::{Wine, for_windows};
use crate::{audit, dist, setup};

const SOURCES: &str = "tests/embed";
const WARNINGS: &[&str] = &["-Wall", "-Wextra", "-Wpedantic", "-Werror"];
const STANDARDS: [(&str, &str); 2] = [("c", "-std=c99"), ("cpp", "-std=c++11")];

/// A target whose programs have a C library: how GCC and Clang are called for it.
struct Hosted {
    target: &'static str,
    /// For C and C++, with a flag that each gets.
    gcc: [&'static str; 2],
    clang: bool,
    flag: &'static str,
}

const HOSTED: [Hosted; 4] = [
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

const MSVC: [&str; 2] = ["x86_64-pc-windows-msvc", "i686-pc-windows-msvc"];
const UEFI: [&str; 2] = ["x86_64-unknown-uefi", "i686-unknown-uefi"];
const BARE: &str = "x86_64-unknown-none";

/// Runs the suite; returns whether all passed.
pub fn run() -> Result<bool> {
    for packages in [setup::HOST, setup::WINDOWS, setup::EMBED] {
        setup::install(packages)?;
    }
    let wine = Wine::start()?;
    let clangs = HOSTED.iter().filter(|hosted| hosted.clang).count();
    let bare = MSVC.len() * 3 + UEFI.len() * 2 + 3;
    let mut suite = Suite::new("embed", 6 * HOSTED.len() + 2 * clangs + bare + audit::STEPS);
    for hosted in &HOSTED {
        let target = hosted.target;
        let mut made = None;
        suite.check(&format!("dist, {target}"), || {
            made = Some(dist::make(target)?);
            Ok(())
        });
        let built = &mut None;
        for program in ["embed_c", "embed_cpp", "embed_shared"] {
            suite.program(&format!("{program}, built by CMake, {target}"), || {
                let made = made.as_ref().context("there is no such folder, see above")?;
                if built.is_none() {
                    *built = Some(build_with_cmake(hosted, made)?);
                }
                Ok(start(&wine, target, &built.as_ref().context("not built")?.join(program)))
            });
        }
        let clang = hosted.clang.then_some(["clang-19", "clang++-19"]);
        for compilers in [Some(hosted.gcc), clang].into_iter().flatten() {
            for (compiler, (language, standard)) in compilers.into_iter().zip(STANDARDS) {
                suite.program(&format!("embed.{language}, built by {compiler}, {target}"), || {
                    let made = made.as_ref().context("there is no such folder, see above")?;
                    let program = build_plainly(hosted, made, compilers[0], compiler, language, standard)?;
                    Ok(start(&wine, target, &program))
                });
            }
        }
    }
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
                    Ok(start(&wine, target, &link_msvc(target, made, &objects, language)?))
                },
            );
        }
    }
    for target in UEFI {
        let mut made = None;
        suite.check(&format!("dist, {target}"), || {
            made = Some(dist::make(target)?);
            Ok(())
        });
        suite.check(&format!("embed.c links, {target}"), || {
            let made = made.as_ref().context("there is no such folder, see above")?;
            let objects = build_bare(target, made, "c", "-std=c99", &[])?;
            let program = out_of(target)?.join("embed.efi");
            let mut link = Command::new("lld-link-19");
            link.args(["/entry:efi_main", "/subsystem:efi_application", "/nodefaultlib"]);
            quietly(
                link.arg(format!("/out:{}", program.display())).args(objects).arg(made.join("lib/libcalltable.a")),
            )?;
            let imports = quietly(Command::new("llvm-readobj-19").arg("--coff-imports").arg(program))?;
            ensure!(!imports.contains("Import {"), "{imports}");
            Ok(())
        });
    }
    let mut made = None;
    suite.check(&format!("dist, {BARE}"), || {
        made = Some(dist::make(BARE)?);
        Ok(())
    });
    for (language, standard) in STANDARDS {
        suite.program(&format!("embed.{language} without a C library, in a process of Linux, {BARE}"), || {
            let made = made.as_ref().context("there is no such folder, see above")?;
            // As kernels are compiled; only what goes out of the program goes by Linux's system calls.
            let flags = ["-mno-sse", "-mno-mmx", "-mno-80387", "-mno-red-zone", "-fno-pic"];
            let objects = build_bare(BARE, made, language, standard, &flags)?;
            let program = out_of(BARE)?.join(language);
            let mut link = Command::new("ld.lld-19");
            link.args(["-static", "--no-undefined", "-o"]).arg(&program).args(objects);
            quietly(link.arg(made.join("lib/libcalltable.a")))?;
            let code = quietly(Command::new("objdump").arg("-d").arg(&program))?;
            ensure!(code.contains("calltable_register"), "there is no code of the library in the program");
            ensure!(!code.contains("%xmm"), "code that was built without SSE touches XMM registers");
            Ok(Command::new(program))
        });
    }
    audit::steps(&mut suite);
    Ok(suite.finish())
}

/// A folder for what is built for a target.
fn out_of(target: &str) -> Result<PathBuf> {
    Ok(std::env::current_dir()?.join(folder(&format!("embed/{target}"))?))
}

/// Runs a program, in Wine if it is one of Windows.
fn start(wine: &Wine, target: &str, program: &Path) -> Command {
    if !target.contains("windows") {
        return Command::new(program);
    }
    let mut command = Command::new("sh");
    wine.set(&mut command).args(["-c", &format!("{} {}.exe", wine.runner(), program.display())]);
    let dlls = std::env::current_dir().map(|here| here.join(dist::FOLDER).join(target).join("bin"));
    command.env("WINEPATH", dlls.map(|dlls| for_windows(&dlls)).unwrap_or_default());
    command
}

/// Configures and builds the project; returns the folder with its programs.
fn build_with_cmake(hosted: &Hosted, made: &Path) -> Result<PathBuf> {
    let out = out_of(hosted.target)?.join("cmake");
    if out.exists() {
        std::fs::remove_dir_all(&out)?;
    }
    let mut configure = Command::new("cmake");
    configure.arg("-S").arg(SOURCES).arg("-B").arg(&out).arg(format!("-DCMAKE_PREFIX_PATH={}", made.display()));
    for (language, compiler) in ["C", "CXX"].iter().zip(hosted.gcc) {
        configure.arg(format!("-DCMAKE_{language}_COMPILER={compiler}"));
    }
    if hosted.target.contains("windows") {
        configure.arg("-DCMAKE_SYSTEM_NAME=Windows").arg("-DCMAKE_EXE_LINKER_FLAGS=-static");
    } else {
        configure.arg(format!("-DCMAKE_C_FLAGS={0}", hosted.flag)).arg(format!("-DCMAKE_CXX_FLAGS={0}", hosted.flag));
    }
    quietly(&mut configure)?;
    quietly(Command::new("cmake").arg("--build").arg(&out))?;
    Ok(out)
}

/// Compiles and links with nothing but what pkg-config says.
fn build_plainly(
    hosted: &Hosted,
    made: &Path,
    c: &str,
    compiler: &str,
    language: &str,
    standard: &str,
) -> Result<PathBuf> {
    let out = out_of(hosted.target)?;
    let pc = quietly(
        Command::new("pkg-config")
            .args(["--cflags", "--libs", "calltable"])
            .env("PKG_CONFIG_PATH", made.join("lib/pkgconfig")),
    )?;
    let (object, program) = (out.join(format!("platform-{c}.o")), out.join(format!("{language}-{compiler}")));
    let include = made.join("include");
    let mut platform = Command::new(c);
    platform.args(WARNINGS).args(["-std=c99", "-O2", hosted.flag, "-c", "-I"]).arg(include);
    quietly(platform.arg(Path::new(SOURCES).join("platform.c")).arg("-o").arg(&object))?;
    let mut compile = Command::new(compiler);
    compile
        .args(WARNINGS)
        .args([standard, "-O2", hosted.flag])
        .arg(Path::new(SOURCES).join(format!("embed.{language}")));
    let name = if hosted.target.contains("windows") { program.with_extension("exe") } else { program.clone() };
    quietly(compile.arg(object).args(pc.split_whitespace()).arg("-o").arg(name))?;
    Ok(program)
}

/// Compiles the program and its platform for a target without a C library. Returns the objects.
fn build_bare(target: &str, made: &Path, language: &str, standard: &str, flags: &[&str]) -> Result<[PathBuf; 2]> {
    let out = out_of(target)?;
    // Clang's name of the last one.
    let triple = target.replace("-none", "-none-elf");
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
    let (machine, names) = match target.starts_with("i686") {
        true => ("i386", ["GetStdHandle@4", "WriteFile@20", "ExitProcess@4"]),
        false => ("i386:x86-64", ["GetStdHandle", "WriteFile", "ExitProcess"]),
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
