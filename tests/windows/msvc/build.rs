//! How to link it: no C library, with Control Flow Guard and what else the width's images can be marked with.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let marked: &[_] = match std::env::var("CARGO_CFG_TARGET_ARCH").unwrap().as_str() {
        "x86_64" => &["/cetcompat", "/guard:ehcont"],
        "aarch64" => &["/guard:ehcont"],
        _ => &["/safeseh", "/nxcompat"],
    };
    let all = ["/nodefaultlib", "/subsystem:console", "/entry:mainCRTStartup", "/guard:cf", "/dynamicbase"];
    for argument in all.iter().chain(marked) {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
