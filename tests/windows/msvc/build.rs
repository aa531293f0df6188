//! How to link it: no C library, with Control Flow Guard and what else the width's images can be marked with.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is_64_bit = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap() == "x86_64";
    let marked = if is_64_bit { "/cetcompat" } else { "/safeseh" };
    for argument in
        ["/nodefaultlib", "/subsystem:console", "/entry:mainCRTStartup", "/guard:cf", "/dynamicbase", marked]
    {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
