//! Assembles what Rust cannot say, and tells the linker how the image lies in memory.

use std::env;

/// The linker's scripts.
const SCRIPTS: &str = "../../linker";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed={SCRIPTS}");
    println!("cargo::rustc-check-cfg=cfg(sse)");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap();
    let mut build = cc::Build::new();
    if env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default().split(',').any(|feature| feature == "sse2") {
        println!("cargo::rustc-cfg=sse");
        build.define("SSE", None);
    }
    build.file("src/start.S").file(format!("src/traps_{arch}.S")).compile("kernel");
    let folder = env::var("CARGO_MANIFEST_DIR").unwrap();
    // The image's place in memory is fixed, and nobody is there to relocate it.
    for argument in [
        &format!("-L{folder}/{SCRIPTS}"),
        "-Tkernel.ld",
        "-no-pie",
        "-zmax-page-size=4096",
        "-znorelro",
        "--build-id=none",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
