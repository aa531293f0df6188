//! Writes the same list of signatures as C callers and as Rust cases, and compiles the C with GCC and Clang.
//!
//! Nothing is compiled for Windows with MSVC: the attributes and the assembly are GCC's and Clang's. Without the
//! feature `hosted` Clang compiles for no operating system, and without floating point where the target has none.
//!
//! Case (p, n) has n parameters; parameter i has type number p + i. Thus every type comes in every position.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// C type, Rust type, and the expression for a dynamic signature.
const TYPES: &[(&str, &str, &str)] = &[
    ("int32_t", "i32", "Type::I32"),
    ("double", "f64", "Type::F64"),
    ("int8_t", "i8", "Type::I8"),
    ("Bytes3", "Bytes<3>", "Type::Struct { size: 3 }"),
    ("uint64_t", "u64", "Type::U64"),
    ("float", "f32", "Type::F32"),
    ("uint8_t", "u8", "Type::U8"),
    ("Bytes8", "Bytes<8>", "Type::Struct { size: 8 }"),
    ("void *", "*mut c_void", "Type::Pointer"),
    ("int16_t", "i16", "Type::I16"),
    ("Bytes24", "Bytes<24>", "Type::Struct { size: 24 }"),
    ("_Bool", "bool", "Type::Bool"),
    ("uint16_t", "u16", "Type::U16"),
    ("FloatPair", "FloatPair", "Type::structure(8, 4, &[Type::F32; 2])"),
    ("__int128", "i128", "Type::I128"),
    ("uint32_t", "u32", "Type::U32"),
    ("Bytes1", "Bytes<1>", "Type::Struct { size: 1 }"),
    ("Function", "Function", "Type::Pointer"),
    ("Bytes4", "Bytes<4>", "Type::Struct { size: 4 }"),
    ("int64_t", "i64", "Type::I64"),
    ("DoublePair", "DoublePair", "Type::structure(16, 8, &[Type::F64; 2])"),
    ("Bytes2", "Bytes<2>", "Type::Struct { size: 2 }"),
    ("unsigned __int128", "u128", "Type::U128"),
    ("Bytes12", "Bytes<12>", "Type::Struct { size: 12 }"),
];

/// More of them on AArch64: homogeneous structures that one class of registers takes whole or not at all, those that
/// are aligned, one that holds both classes.
const MORE_TYPES: &[(&str, &str, &str)] = &[
    ("Floats3", "Floats3", "Type::structure(12, 4, &[Type::F32; 3])"),
    ("Aligned", "Aligned", "Type::structure(16, 16, &[Type::I128])"),
    ("Doubles4", "Doubles4", "Type::structure(32, 8, &[Type::F64; 4])"),
    ("Bytes9", "Bytes<9>", "Type::structure(9, 1, &[Type::U8; 9])"),
    ("Mixed", "Mixed", "Type::structure(16, 8, &[Type::F64, Type::I64])"),
    ("Float1", "Float1", "Type::structure(4, 4, &[Type::F32])"),
    ("Bytes16", "Bytes<16>", "Type::Struct { size: 16 }"),
    ("Doubles3", "Doubles3", "Type::structure(24, 8, &[Type::F64; 3])"),
    ("AlignedMore", "AlignedMore", "Type::structure(32, 16, &[Type::I128, Type::I64, Type::I64])"),
    ("Bytes72", "Bytes<72>", "Type::Struct { size: 72 }"),
    ("Floats4", "Floats4", "Type::structure(16, 4, &[Type::F32; 4])"),
];

const MOST: usize = 16;

/// Conventions of the target, and how C says them.
const CONVENTIONS: &[(&str, &[(&str, &str)])] = &[
    ("x86_64", &[("win64", "__attribute__((ms_abi))")]),
    (
        "x86",
        &[
            ("stdcall", "__attribute__((stdcall))"),
            ("cdecl", ""),
            ("thiscall", "__attribute__((thiscall))"),
            ("fastcall", "__attribute__((fastcall))"),
        ],
    ),
    ("aarch64", &[("C", "")]),
];

/// Compilers and levels; each gives one set of callers, whose names it ends.
const VARIANTS: &[(&str, &str)] = &[("gcc", "O0"), ("gcc", "O2"), ("clang", "O0"), ("clang", "O2")];
/// For no operating system; and where Debian's GCC would take that of i686 off.
const CLANG: &[(&str, &str)] = &[("clang", "O0"), ("clang", "O2")];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src");
    let windows = env::var("CARGO_CFG_TARGET_OS").unwrap() == "windows";
    if windows && env::var("CARGO_CFG_TARGET_ENV").unwrap() != "gnu" {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
    let mut c = String::from("#include \"callers.h\"\n");
    let mut rust = String::new();
    let target = env::var("CARGO_CFG_TARGET_ARCH").unwrap();
    let freestanding = env::var_os("CARGO_FEATURE_HOSTED").is_none();
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let has_sse = features.split(',').any(|feature| matches!(feature, "sse2" | "neon"));
    let variants = if freestanding || target == "aarch64" { CLANG } else { VARIANTS };
    // Name, further parameters, result; those of callers.h first.
    let mut functions =
        vec![("repeat".to_string(), ", _: isize", "isize"), ("nest".to_string(), ", _: isize", "isize")];
    if has_sse {
        functions.push(("variadic".to_string(), "", "i32"));
        functions.push(("variadic_rest".to_string(), "", "i32"));
    }
    let conventions = CONVENTIONS.iter().find(|(arch, _)| *arch == target).expect("an architecture that has a table").1;
    // C has 128-bit integers for 64-bit targets only.
    let more = if target == "aarch64" { MORE_TYPES } else { &[] };
    let types: Vec<_> = TYPES
        .iter()
        .chain(more)
        .filter(|ty| target != "x86" || !ty.0.contains("int128"))
        .filter(|ty| has_sse || !has_floats(ty, &target))
        .copied()
        .collect();
    for p in 0..types.len() {
        for n in (0..=MOST).filter(|n| *n <= 6 || *n == MOST || (n + p) % 5 == 0) {
            // Each convention gets its share of the cases.
            let convention = conventions[(p + 2 * n) % conventions.len()];
            // Compilers do not agree where a small argument goes that comes after a structure or 64 bits, nor on a
            // method whose `this` is no pointer: a fastcall case has none of those, a thiscall case begins with a small
            // one.
            let parameters = (0..n).map(|i| types[(p + i) % types.len()]);
            let is_small = |ty: Type| ty.1.len() <= 3 && !matches!(ty.1, "i64" | "u64" | "f64" | "f32");
            let disputed = match convention.0 {
                "fastcall" => parameters.clone().any(|ty| ty.0.contains("int64") || is_structure(&ty)),
                "thiscall" => parameters.clone().next().is_some_and(|ty| !is_small(ty)),
                _ => false,
            };
            if disputed {
                continue;
            }
            case(&types, variants, p, n, convention, windows, &mut c, &mut rust);
            functions.push((format!("case_{p}_{n}"), "", "i32"));
        }
    }
    fs::write(out.join("cases.c"), c).unwrap();
    let rust = format!(
        "/// Calls `$case!` for each signature.\n#[macro_export]\nmacro_rules! for_each_case {{ ($case:ident) => {{\n{rust}}} }}\n"
    );
    fs::write(out.join("cases.rs"), rust).unwrap();

    let mut externs = String::new();
    for (compiler, level) in variants {
        let found = find(compiler, &target, windows);
        for (name, parameters, result) in &functions {
            let function =
                format!("pub unsafe extern \"C\" fn {name}_{compiler}_{level}(_: CodePointer{parameters}) -> {result}");
            // The examples need no second compiler, so its absence fails the tests when they run, not the build.
            match &found {
                Some(_) => {
                    writeln!(externs, "unsafe extern \"C\" {{ {}; }}", function.replace("unsafe extern \"C\" ", ""))
                }
                None => {
                    writeln!(externs, "{function} {{ panic!(\"{compiler} is not installed: `cargo xtask setup`\") }}")
                }
            }
            .unwrap();
        }
        if let Some(found) = found {
            let mut build = cc::Build::new();
            if freestanding {
                set_freestanding(&mut build, &target, has_sse);
            }
            build
                .compiler(found)
                .file(out.join("cases.c"))
                .include("src")
                .flag(format!("-{level}"))
                .define("VARIANT", Some(format!("{compiler}_{level}").as_str()))
                .warnings(false)
                .compile(&format!("callers_{compiler}_{level}"));
        }
    }
    fs::write(out.join("externs.rs"), externs).unwrap();
    if windows && !freestanding {
        methods(&target, &out);
    }
    // Without the compiler the test `passing` does not link.
    if !windows && !freestanding && target != "aarch64" && answers("g++") {
        cc::Build::new().cpp(true).compiler("g++").file("src/throws.cpp").compile("callers_throws");
    }
    // The file of x86_64 is called by the System V convention.
    if target != "x86_64" || !windows {
        let mut build = cc::Build::new();
        if freestanding || target == "aarch64" {
            build.compiler(find("clang", &target, windows).expect("clang is not installed: `cargo xtask setup`"));
        }
        if freestanding {
            set_freestanding(&mut build, &target, has_sse);
        }
        build.file(format!("src/registers_{target}.S")).compile("callers_registers");
    }
}

type Type = (&'static str, &'static str, &'static str);

fn is_structure(ty: &Type) -> bool {
    ty.2.starts_with("Type::Struct ") || ty.2.starts_with("Type::structure")
}

/// Whether a type goes in registers for floating-point numbers.
fn has_floats((c, rust, _): &Type, target: &str) -> bool {
    let is_float =
        ["Float", "Double", "Mixed"].iter().any(|word| rust.contains(word)) || matches!(*rust, "f32" | "f64");
    is_float || target == "x86_64" && c.contains("int128") // a result
}

#[allow(clippy::too_many_arguments, reason = "what a case is, and the two texts that it is written to")]
fn case(
    types: &[Type],
    variants: &[(&str, &str)],
    p: usize,
    n: usize,
    (abi, attribute): (&str, &str),
    windows: bool,
    c: &mut String,
    rust: &mut String,
) {
    let parameters: Vec<_> = (0..n).map(|i| types[(p + i) % types.len()]).collect();
    // Every type is a result, too; p + 7 n walks through all of them. One case in nine returns nothing.
    let result = ((p + n) % 9 != 8).then(|| types[(p + 7 * n) % types.len()]);
    // On 32-bit Linux, C returns structures by other rules than on Windows, which the frame lane knows for plain C
    // alone. Compilers do not agree where the last two conventions have the address of a result.
    let is_agreed = match abi {
        "win64" | "cdecl" | "C" => true,
        "stdcall" => windows,
        _ => false,
    };
    let result = result.filter(|ty| is_agreed || !is_structure(ty));
    let list = |types: &[Type], of: fn(&Type) -> String| types.iter().map(of).collect::<Vec<_>>().join(", ");
    let c_parameters = if n == 0 { "void".into() } else { list(&parameters, |t| t.0.into()) };
    let arguments = (0..n).map(|i| format!("a{i}")).collect::<Vec<_>>().join(", ");
    writeln!(
        c,
        "int NAME(case_{p}_{n})({} ({attribute} *callback)({c_parameters})) {{",
        result.map_or("void", |t| t.0)
    )
    .unwrap();
    for (i, (ty, ..)) in parameters.iter().enumerate() {
        writeln!(c, "    {ty} a{i}; FILL(a{i}, {i});").unwrap();
    }
    match result {
        Some((ty, ..)) => {
            writeln!(c, "    {ty} want; FILL(want, 99); {ty} got = callback({arguments});").unwrap();
            writeln!(c, "    return memcmp(&got, &want, sizeof got) == 0;\n}}").unwrap();
        }
        None => writeln!(c, "    callback({arguments}); return 1;\n}}").unwrap(),
    }
    let callers: Vec<_> = variants.iter().map(|(compiler, level)| format!("case_{p}_{n}_{compiler}_{level}")).collect();
    let names = (0..n).map(|i| format!("a{i}: {}", parameters[i].1)).collect::<Vec<_>>().join(", ");
    writeln!(
        rust,
        "$case! {{ case_{p}_{n} {abi:?} [{}] ({names}) -> {}, [{}], {} }}",
        callers.join(" "),
        result.map_or("()", |t| t.1),
        list(&parameters, |t| t.2.into()),
        result.map_or("None".into(), |t| format!("Some({})", t.2)),
    )
    .unwrap();
}

/// Callers of methods, by Clang for MSVC and by MinGW's C++. Without the compilers the test `methods` does not link.
fn methods(target: &str, out: &Path) {
    let arch = if target == "x86" { "i686" } else { target };
    let msvc = find("clang++", target, true).map(|clang| (clang, Some(format!("--target={arch}-pc-windows-msvc"))));
    let mingw = if cfg!(windows) { "g++".to_owned() } else { format!("{arch}-w64-mingw32-g++") };
    for (name, compiler) in [("msvc", msvc), ("mingw", answers(&mingw).then_some((mingw, None)))] {
        let Some((compiler, flag)) = compiler else { continue };
        for level in ["O0", "O2"] {
            let variant = format!("{name}_{level}");
            let object = out.join(format!("methods_{variant}.o"));
            let mut command = Command::new(&compiler);
            command.args(flag.iter()).args(["-c", "-fno-exceptions", "-fno-rtti", "-fno-stack-protector"]);
            command.arg(format!("-{level}")).arg(format!("-DVARIANT={variant}")).arg("src/methods.cpp").arg("-o");
            assert!(command.arg(&object).status().is_ok_and(|status| status.success()), "{command:?}");
            cc::Build::new().object(object).compile(&format!("methods_{variant}"));
        }
    }
}

/// Code for no operating system, which an interrupt may come upon anywhere: nothing may lie below the stack pointer.
fn set_freestanding(build: &mut cc::Build, target: &str, has_sse: bool) {
    let (arch, flags, no_floats): (_, &[_], &[_]) = match target {
        "aarch64" => (target, &["-mbranch-protection=standard"], &["-mgeneral-regs-only"]),
        _ => {
            let arch = if target == "x86" { "i686" } else { target };
            (arch, &["-mno-red-zone", "-fcf-protection=full"], &["-mno-sse", "-mno-mmx", "-msoft-float"])
        }
    };
    build.flag(format!("--target={arch}-unknown-none-elf")).flags(["-ffreestanding", "-fno-pic"]).flags(flags);
    if !has_sse {
        build.define("CALLTABLE_NO_FLOATS", None).flags(no_floats);
    }
}

/// A compiler for the target: by its plain name, else the newest of Debian's numbered ones; GCC for Windows on another
/// system by MinGW's name.
fn find(name: &str, target: &str, windows: bool) -> Option<String> {
    if windows && name == "gcc" && !cfg!(windows) {
        let arch = if target == "x86" { "i686" } else { target };
        return Some(format!("{arch}-w64-mingw32-gcc")).filter(|name| answers(name));
    }
    let mut names = [name.to_string()].into_iter().chain((14..=22).rev().map(|number| format!("{name}-{number}")));
    names.find(|name| answers(name))
}

fn answers(compiler: &str) -> bool {
    Command::new(compiler).arg("--version").output().is_ok_and(|out| out.status.success())
}
