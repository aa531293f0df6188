//! Assembles what Rust cannot say, and tells the linker how the image lies in memory.

use std::env;

/// The linker's scripts.
const SCRIPTS: &str = "../../linker";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed={SCRIPTS}");
    println!("cargo::rustc-check-cfg=cfg(floats)");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap();
    let mut build = cc::Build::new();
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if features.split(',').any(|feature| matches!(feature, "sse2" | "neon")) {
        println!("cargo::rustc-cfg=floats");
        build.define("FLOATS", None);
    }
    // Where the image lies in memory.
    let (files, base) = match &*arch {
        "aarch64" => (["src/aarch64/start.S", "src/aarch64/traps.S"], 0x4020_0000),
        "x86_64" => (["src/x86/start.S", "src/x86/traps_x86_64.S"], 0x10_0000),
        _ => (["src/x86/start.S", "src/x86/traps_x86.S"], 0x10_0000),
    };
    build.files(files).compile("kernel");
    let folder = env::var("CARGO_MANIFEST_DIR").unwrap();
    // The image's place in memory is fixed, and nobody is there to relocate it.
    for argument in [
        &format!("-L{folder}/{SCRIPTS}"),
        "-Tkernel.ld",
        &format!("--defsym=kernel_base={base:#x}"),
        "-no-pie",
        "-zmax-page-size=4096",
        "-znorelro",
        "--build-id=none",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
