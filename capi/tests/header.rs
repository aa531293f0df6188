//! `include/calltable.h` says what `src/lib.rs` does: the same functions, structures and numbers; and every compiler
//! takes it, in C and in C++.
#![cfg(target_os = "linux")]

use std::fmt::Write as _;
use std::fs;
use std::mem::{offset_of, size_of};
use std::path::{Path, PathBuf};
use std::process::Command;

use calltable::{CAPACITY, RawFrame, seh};
use calltable_capi as capi;

#[path = "../../tests/child/mod.rs"]
#[allow(dead_code, reason = "this one runs others")]
mod child;

const HEADER: &str = include_str!("../include/calltable.h");

/// The header's prototypes, as the source has them. The types are the header's own.
#[cfg(target_arch = "x86_64")]
fn prototypes() -> String {
    let mut config = cbindgen::Config {
        language: cbindgen::Language::C,
        style: cbindgen::Style::Type,
        no_includes: true,
        ..Default::default()
    };
    config.export.item_types = vec![cbindgen::ItemType::Functions];
    let types = [
        ("RawFrame", "calltable_frame"),
        ("Signature", "calltable_signature"),
        ("Binding", "calltable_binding"),
        ("LiveSlot", "calltable_live_slot"),
        ("StaleCall", "calltable_stale_call"),
        ("User", "calltable_user"),
        ("Rest", "calltable_rest"),
        ("Function", "calltable_function"),
        ("StaleHandler", "calltable_stale_handler"),
        ("FindBlock", "calltable_find_block"),
        ("ExceptionRecord", "calltable_exception_record"),
        ("Status", "calltable_status"),
    ];
    config.export.rename = types.map(|(rust, c)| (rust.into(), c.into())).into();
    let mut text = Vec::new();
    let builder = cbindgen::Builder::new().with_config(config).with_src("src/lib.rs");
    builder.generate().expect("the source is Rust").write(&mut text);
    String::from_utf8(text).unwrap()
}

/// Declarations that compile only if `condition` holds; this is C99 and C++98.
fn assert(text: &mut String, condition: std::fmt::Arguments) {
    let number = text.len();
    writeln!(text, "typedef char assertion_{number}[({condition}) ? 1 : -1];").unwrap();
}

/// Size, and each field's place and size.
macro_rules! assert_layout {
    ($text:ident, $rust:ty, $c:literal: $($field:ident)*) => {
        assert(&mut $text, format_args!("sizeof({}) == {}", $c, size_of::<$rust>()));
        $(
            let at = offset_of!($rust, $field);
            assert(&mut $text, format_args!("offsetof({}, {}) == {at}", $c, stringify!($field)));
            let size = size_of_field(|it: &$rust| &raw const it.$field);
            assert(&mut $text, format_args!("sizeof((({} *)0)->{}) == {size}", $c, stringify!($field)));
        )*
        // Nothing but fields of these names stands in the braces.
        let fields = HEADER.split_once(&format!("typedef struct {} {{", $c)).unwrap().1.split_once("\n}").unwrap().0;
        for field in fields.lines().filter(|line| line.ends_with(';')) {
            let name = field.trim_end_matches(';').split('[').next().unwrap().rsplit([' ', '*']).next().unwrap();
            let known = [$(stringify!($field)),*].contains(&name);
            // A frame has others on other architectures.
            let others = ["floats", "registers", "more_results", "more_result", "memory", "element", "unused"];
            assert!(known || others.contains(&name), "{}: {field}", $c);
        }
    };
}

fn size_of_field<T, F>(_: impl Fn(&T) -> *const F) -> usize {
    size_of::<F>()
}

/// What the header must satisfy on this target.
fn assertions() -> String {
    let mut text = String::from("#include \"calltable.h\"\n#include <stddef.h>\n");
    let numbers = [
        capi::STATUSES,
        capi::CONVENTIONS,
        capi::TYPES,
        capi::OPTIONS,
        capi::REASONS,
        &[
            ("VERSION", capi::VERSION as i64),
            ("METHOD", capi::METHOD as i64),
            ("VARIADIC", capi::VARIADIC as i64),
            ("NOT_COUNTED", capi::NOT_COUNTED as i64),
            ("NO_SLOT", capi::NO_SLOT as i64),
            ("NO_INDEX", capi::NO_INDEX as i64),
            ("USERS", capi::USERS as i64),
            ("SEARCH_ON", seh::Verdict::SEARCH_ON.0 as i64),
            ("RETURN", seh::Verdict::RETURN.0 as i64),
            ("CONTINUE", seh::Verdict::CONTINUE.0 as i64),
        ],
    ]
    .concat();
    for (name, value) in &numbers {
        assert(&mut text, format_args!("CALLTABLE_{name} == {value}"));
    }
    let is_name = |name: &&str| name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    let enumerators = HEADER.split("CALLTABLE_").filter_map(|rest| rest.split_once(" = ")).map(|(name, _)| name);
    for name in enumerators.filter(is_name) {
        assert!(numbers.iter().any(|(known, _)| *known == name), "the source has no {name}");
    }
    assert_layout!(text, capi::Signature, "calltable_signature": mark words);
    assert_layout!(text, capi::Binding, "calltable_binding": version options handler data signature convention
        positions name);
    assert_layout!(text, capi::Rest, "calltable_rest": words);
    assert_layout!(text, capi::LiveSlot, "calltable_live_slot": slot code handler data uses in_flight name
        name_size);
    assert_layout!(text, capi::User, "calltable_user": name name_size slots);
    assert_layout!(text, capi::StaleCall, "calltable_stale_call": index reason code caller internal name
        name_size);
    assert_layout!(text, seh::ExceptionRecord, "calltable_exception_record": code flags nested address parameter_count
        parameters);
    assert_layout!(text, seh::ThreadBlock, "calltable_thread_block": head stack_base stack_limit);
    assert_layout!(text, seh::Outcome, "calltable_outcome": frame handler room);
    #[cfg(target_arch = "x86_64")]
    assert_layout!(text, RawFrame, "calltable_frame": result arguments floats);
    #[cfg(target_arch = "x86")]
    assert_layout!(text, RawFrame, "calltable_frame": result more_result arguments registers);
    #[cfg(target_arch = "aarch64")]
    assert_layout!(text, RawFrame, "calltable_frame": result more_results arguments memory element unused registers
        floats);
    text
}

fn directory() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("header");
    fs::create_dir_all(&path).unwrap();
    path
}

/// Compilers, each for C and for C++, and flags for targets.
const COMPILERS: &[(&str, &str, &str)] = &[
    ("gcc", "g++", ""),
    ("clang-19", "clang++-19", ""),
    ("x86_64-w64-mingw32-gcc", "x86_64-w64-mingw32-g++", ""),
    ("i686-w64-mingw32-gcc", "i686-w64-mingw32-g++", ""),
    ("clang-19", "clang++-19", "--target=x86_64-pc-windows-msvc -ffreestanding"),
    ("clang-19", "clang++-19", "--target=i686-pc-windows-msvc -ffreestanding"),
    ("clang-19", "clang++-19", "--target=x86_64-unknown-uefi -ffreestanding"),
    ("clang-19", "clang++-19", "--target=x86_64-unknown-none-elf -ffreestanding -mno-sse -mno-mmx"),
    ("clang-19", "clang++-19", "--target=i686-unknown-none-elf -ffreestanding -mno-sse -mno-mmx"),
    ("gcc", "g++", "-ffreestanding -mno-sse -mno-mmx"),
    ("clang-19", "clang++-19", "--target=aarch64-linux-gnu"),
    ("clang-19", "clang++-19", "--target=aarch64-pc-windows-msvc -ffreestanding"),
    ("clang-19", "clang++-19", "--target=aarch64-unknown-windows -ffreestanding"),
    ("clang-19", "clang++-19", "--target=aarch64-unknown-none-elf -ffreestanding -mgeneral-regs-only"),
];

/// Targets that it refuses, and what it says of them.
const REFUSED: &[(&str, &str)] = &[
    ("--target=armv7-unknown-none-eabi", "for x86_64, for i686 and for AArch64"),
    ("--target=riscv64-unknown-none-elf", "for x86_64, for i686 and for AArch64"),
    ("--target=aarch64_be-unknown-none-elf", "compile for little-endian"),
    ("--target=arm64ec-pc-windows-msvc", "compile for ARM64 or for x64"),
    ("-mx32", "compile without -mx32"),
];

/// Says what is wrong if a compiler does not take a file without a warning.
fn compile(compiler: &str, flags: &str, file: &Path) -> Result<(), String> {
    let mut command = Command::new(compiler);
    command.args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-Iinclude"]);
    command.args(flags.split_whitespace()).arg(file);
    let output = command.output().map_err(|error| format!("{command:?}: {error}: `cargo xtask setup`"))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}:\n{text}")) }
}

/// A compiler for what this test is built for, and its flag.
const OWN: (&str, &str) = if cfg!(target_arch = "aarch64") {
    ("clang-19", "--target=aarch64-linux-gnu")
} else if cfg!(target_arch = "x86") {
    ("gcc", "-m32")
} else {
    ("gcc", "-m64")
};

#[cfg(target_arch = "x86_64")]
#[test]
fn functions_are_those_of_the_source() {
    let prototypes = prototypes();
    let name_of = |line: &str| -> Option<String> {
        let start = line.find("calltable_").filter(|_| !line.starts_with([' ', '/', '#']))?;
        let name = line[start..].split_once('(')?.0;
        Some(name.rsplit([' ', '*']).next().unwrap().to_owned())
    };
    let mut in_source: Vec<_> = prototypes.lines().filter_map(name_of).collect();
    let declared = HEADER.lines().filter_map(|line| name_of(line.strip_prefix("CALLTABLE_API ")?));
    let mut in_header: Vec<_> = declared.collect();
    in_source.sort();
    in_header.sort();
    assert_eq!(in_source, in_header);
    assert!(in_source.len() > 10, "{in_source:?}");
    // A second declaration must be like the first.
    let file = directory().join("prototypes.c");
    fs::write(&file, format!("#include \"calltable.h\"\n{prototypes}")).unwrap();
    for width in ["-m64", "-m32"] {
        compile("gcc", &format!("-std=c99 {width}"), &file).unwrap();
    }
}

#[test]
fn structures_and_numbers_are_those_of_the_source() {
    let file = directory().join("assertions.c");
    fs::write(&file, assertions()).unwrap();
    compile(OWN.0, &format!("-std=c99 {}", OWN.1), &file).unwrap();
    assert!(HEADER.contains("((void *)UINTPTR_MAX)") && seh::CHAIN_END.addr() == usize::MAX);
    assert!(HEADER.contains("(0x80000000u | "), "the bit that says that a type is a structure");
}

#[test]
fn every_compiler_takes_it() {
    for (c, cpp, flags) in COMPILERS {
        for (compiler, suffix, standard) in [(c, "c", "-std=c99"), (cpp, "cpp", "-std=c++11")] {
            let file = directory().join("alone").with_extension(suffix);
            fs::write(&file, "#include \"calltable.h\"\nint main(void) { return CALLTABLE_OK; }\n").unwrap();
            compile(compiler, &format!("{standard} {flags}"), &file).unwrap();
        }
    }
}

#[test]
fn targets_without_a_table_are_refused_with_a_sentence() {
    let file = directory().join("refused.c");
    fs::write(&file, "#include \"calltable.h\"\n").unwrap();
    for (target, sentence) in REFUSED {
        let errors = compile("clang-19", &format!("-ffreestanding {target}"), &file).unwrap_err();
        assert!(errors.contains(sentence) && errors.matches("error:").count() == 1, "{target}: {errors}");
    }
}

/// Compilers that cannot say a handler's convention: GCC that hides what it is from the header.
#[cfg(target_arch = "x86_64")]
#[test]
fn compilers_without_the_convention_are_refused_with_a_sentence() {
    let file = directory().join("unsaid.c");
    fs::write(&file, "#include \"calltable.h\"\n").unwrap();
    for (flags, sentence) in [("-m64", "__attribute__((ms_abi)): take GCC"), ("-m32", "cdecl of GCC or of Windows")] {
        compile("gcc", flags, &file).unwrap();
        let errors = compile("gcc", &format!("{flags} -U__GNUC__ -U__has_attribute"), &file).unwrap_err();
        assert!(errors.contains("cannot say the convention") && errors.contains(sentence), "{flags}: {errors}");
    }
    // Whoever can say it may call itself what it likes.
    compile("clang-19", "-fgnuc-version=0", &file).unwrap();
}

/// What Clang makes of handlers and functions where all that says nothing has another convention.
#[cfg(target_arch = "x86_64")]
#[test]
fn another_default_convention_changes_nothing() {
    let file = directory().join("default.c");
    let source = r#"#include "calltable.h"
int32_t CALLTABLE_CALL handler(double a, double b, double c, double d, double e, void *data);
int32_t CALLTABLE_CALL handler(double a, double b, double c, double d, double e, void *data) {
    return (int32_t)(a + b + c + d + e) + *(int32_t *)data;
}
static void CALLTABLE_PLAIN_CALL stale(const calltable_stale_call *call) { calltable_stale_set(call, 1); }
void plain(int number);
void plain(int number) { (void)number; calltable_set_stale_handler(stale); }
"#;
    fs::write(&file, source).unwrap();
    for (flags, default) in [
        ("--target=x86_64-pc-windows-msvc -Xclang -fdefault-calling-conv=vectorcall", "x86_vectorcallcc"),
        ("--target=i686-pc-windows-msvc -Xclang -fdefault-calling-conv=stdcall", "x86_stdcallcc"),
        ("--target=i686-w64-windows-gnu -DCALLTABLE_SHARED -mrtd", "x86_stdcallcc"),
        ("--target=i686-linux-gnu -mrtd", "x86_stdcallcc"),
    ] {
        let made = Command::new("clang-19")
            .args(["-Wall", "-Wextra", "-Werror", "-ffreestanding", "-Iinclude", "-S", "-emit-llvm", "-o", "-"])
            .args(flags.split(' '))
            .arg(&file)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&made.stdout);
        assert!(made.status.success(), "{flags}: {}", String::from_utf8_lossy(&made.stderr));
        let lines = || text.lines().filter(|line| line.starts_with("define") || line.starts_with("declare"));
        let with_default: Vec<_> = lines().filter(|line| line.contains(default)).collect();
        assert!(lines().count() >= 5, "{flags}: {text}");
        assert!(with_default.len() == 1 && with_default[0].contains("plain"), "{flags}: {with_default:?}");
    }
}

/// Handlers of each kind, declared as they have to be, and what macros make.
const USES: &str = r#"#include "calltable.h"

static void CALLTABLE_CALL frame_handler(void *data, calltable_frame *frame) {
    (void)data;
    (void)frame;
}

static int32_t CALLTABLE_CALL filter(void *data, const calltable_exception *exception, calltable_outcome *outcome) {
    (void)data;
    (void)exception;
    (void)outcome;
    return CALLTABLE_SEARCH_ON;
}

static calltable_thread_block *CALLTABLE_CALL find(void) {
    return NULL;
}

static const calltable_frame_handler a_frame_handler = frame_handler;
static const calltable_filter a_filter = filter;
static const calltable_find_block a_find = find;

int main(void) {
    calltable_signature signature = {0, {0}};
    int data = 0;
    calltable_binding direct = CALLTABLE_DIRECT(a_filter, 3, &data);
    calltable_binding framed = CALLTABLE_FRAME(a_frame_handler, &signature, &data);
    calltable_binding described = CALLTABLE_DIRECT_AS(a_filter, &signature, &data);
    int well = direct.version == CALLTABLE_VERSION && direct.options == 0 && direct.data == &data
        && direct.handler == (calltable_function)filter && direct.signature == NULL
        && direct.convention == CALLTABLE_C && direct.positions == 3 && direct.name == NULL;
    well = well && framed.version == CALLTABLE_VERSION && framed.options == 0 && framed.data == &data
        && framed.handler == (calltable_function)frame_handler && framed.signature == &signature
        && framed.convention == CALLTABLE_C && framed.positions == 0 && framed.name == NULL;
    well = well && described.version == CALLTABLE_VERSION && described.options == CALLTABLE_DIRECT_LANE
        && described.data == &data && described.handler == (calltable_function)filter
        && described.signature == &signature && described.name == NULL;
    return well && a_find() == NULL ? 0 : 1;
}
"#;

#[test]
fn macros_lose_nothing_and_handlers_have_their_convention() {
    let folder = directory();
    let mut source = String::from(USES);
    for bit in 0..31 {
        let (size, number) = (1_u32 << bit, 1_u32 << 31 | 1 << bit);
        assert(&mut source, format_args!("CALLTABLE_STRUCT({size}) == {number}u"));
    }
    for bit in 4..30 {
        assert(&mut source, format_args!("CALLTABLE_ALIGNED({}) == {}u", 1_u32 << bit, 1_u32 << 30 | 1 << bit));
    }
    for made in ["CALLTABLE_STRUCT(1)", "CALLTABLE_ALIGNED(16)", "CALLTABLE_HOMOGENEOUS(CALLTABLE_F32, 1)"] {
        assert(&mut source, format_args!("sizeof({made}) == sizeof(calltable_type)"));
    }
    for suffix in ["c", "cpp"] {
        let file = folder.join("uses").with_extension(suffix);
        fs::write(&file, &source).unwrap();
        // Not a driver for C++: there need be no C++ library for the other width.
        let (compiler, standard) = (OWN.0, if suffix == "c" { "-std=c99" } else { "-std=c++11" });
        let mut flags = format!("{standard} {}", OWN.1);
        // On i686 functions that say nothing are stdcall then; on x86_64 they are not win64 anyway.
        let default = if cfg!(target_arch = "x86") { "-mrtd" } else { "" };
        compile(compiler, &format!("{flags} {default}"), &file).unwrap();
        flags.push_str(if cfg!(target_arch = "aarch64") { " -fuse-ld=lld -O1 -Iinclude" } else { " -O1 -Iinclude" });
        let program = file.with_extension(format!("{suffix}.out"));
        let made = Command::new(compiler).args(flags.split(' ')).arg(&file).arg("-o").arg(&program).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let status = child::program(&program).status().unwrap();
        assert!(status.success(), "{compiler}: a macro's fields are not as they should be: {status}");
    }
}

#[test]
fn every_status_has_a_sentence_of_its_own() {
    // SAFETY: a text ends in a zero and is there for ever.
    let text = |status| unsafe { std::ffi::CStr::from_ptr(capi::calltable_status_text(status)) };
    let unknown = text(-1);
    let texts: Vec<_> = capi::STATUSES.iter().map(|(_, status)| text(*status as capi::Status)).collect();
    for (index, sentence) in texts.iter().enumerate() {
        assert!(!texts[..index].contains(sentence) && *sentence != unknown && !sentence.is_empty());
    }
    assert_eq!(capi::calltable_capacity() as usize, CAPACITY);
}
