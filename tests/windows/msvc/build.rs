//! How to link it: no C library, and with Control Flow Guard.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for argument in
        ["/nodefaultlib", "/subsystem:console", "/entry:mainCRTStartup", "/guard:cf", "/cetcompat", "/dynamicbase"]
    {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
