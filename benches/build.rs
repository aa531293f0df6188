//! Compiles the foreign side, and the ways that are written in assembly.

use std::env;

fn main() {
    for file in ["callers.c", "ancestor.S", "call_ret.S", "functions.S", "mov_jmp.S", "mov_jmp_x86.S"] {
        println!("cargo::rerun-if-changed={file}");
    }
    cc::Build::new().file("callers.c").opt_level(2).compile("bench_callers");
    let is = |name: &str, value: &str| env::var(format!("CARGO_CFG_TARGET_{name}")).is_ok_and(|found| found == value);
    if is("ARCH", "x86_64") && is("OS", "linux") {
        cc::Build::new().files(["ancestor.S", "call_ret.S", "functions.S", "mov_jmp.S"]).compile("bench_assembly");
    } else if is("OS", "windows") {
        cc::Build::new().file(if is("ARCH", "x86") { "mov_jmp_x86.S" } else { "mov_jmp.S" }).compile("bench_assembly");
    }
}
