//! The numbers of the component's own build script, for a table of three slots: enough for a line with an order in it.

#[path = "../../build.rs"]
#[allow(dead_code, reason = "the table itself is not built here")]
mod component;

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=../../build.rs");
    println!("cargo::rustc-env=CALLTABLE_SYMBOL_VERSION=model");
    let layout: Vec<_> = component::SHARED.iter().chain(component::X86_64).collect();
    let out = env::var_os("OUT_DIR").unwrap();
    fs::write(Path::new(&out).join("layout.rs"), component::layout_for_rust(3, &layout)).unwrap();
}
