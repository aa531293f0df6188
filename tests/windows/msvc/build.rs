//! How to link it: no C library, with Control Flow Guard and what else the width's images can be marked with.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is_64_bit = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap() == "x86_64";
    let marked = if is_64_bit { ["/cetcompat", "/guard:ehcont"] } else { ["/safeseh", "/nxcompat"] };
    let all = ["/nodefaultlib", "/subsystem:console", "/entry:mainCRTStartup", "/guard:cf", "/dynamicbase"];
    for argument in all.into_iter().chain(marked) {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
