//! Compiles the one step of a call that is C.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/calltable_closure.c");
    // One fact, for both languages: src/run.rs asserts that it is enough.
    let room = 256;
    println!("cargo::rustc-env=CALL_ROOM={room}");
    let mut build = cc::Build::new();
    build.file("src/calltable_closure.c").define("CALL_ROOM", room.to_string().as_str());
    // Exceptions find their way through it; MSVC's tables are always there.
    for flag in ["-fexceptions", "-funwind-tables"] {
        build.flag_if_supported(flag);
    }
    build.compile("calltable_closure");
}
