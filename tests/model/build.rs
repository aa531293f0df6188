//! The numbers of the component's own build script, for a table of three slots: enough for a line with an order in it.

#[path = "../../build.rs"]
#[allow(dead_code, reason = "the table itself is not built here")]
mod component;

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=../../build.rs");
    println!("cargo::rustc-env=CALLTABLE_SYMBOL_VERSION=model");
    let has = |feature: &str| env::var_os(format!("CARGO_FEATURE_{feature}")).is_some();
    let mut numbers = component::numbers(&component::X86_64, false);
    let mut set = |name: &str, value: u64| {
        numbers.iter_mut().find(|(found, ..)| found == name).expect("a number that both share").1 = value;
    };
    if has("NARROW") {
        println!("cargo::rustc-cfg=split_state");
        set("GENERATION", 1 << 32);
        set("LAST_GENERATION", (1 << 32) - 1);
    }
    if has("LOOM") {
        // So few that a test uses them up.
        set("LAST_GENERATION", 4);
    }
    let out = env::var_os("OUT_DIR").unwrap();
    fs::write(Path::new(&out).join("layout.rs"), component::layout_for_rust(3, &numbers)).unwrap();
}
