//! The tasks of `tests/windows/guide` in other ways, which `docs/migrate.md` compares. Each program checks itself.

#[cfg(windows)]
mod closure_ffi {
    pub mod com_sink;
    pub mod hook;
    pub mod thread_pool;
    pub mod timer;
    pub mod window_procedure;
}
#[cfg(windows)]
mod libffi {
    pub mod com_sink;
    pub mod hook;
    pub mod thread_pool;
    pub mod timer;
    pub mod window_procedure;
}
#[cfg(windows)]
mod statics {
    pub mod com_sink;
    pub mod hook;
    pub mod thread_pool;
    pub mod timer;
    pub mod window_procedure;
}

#[cfg(windows)]
fn main() {
    macro_rules! run {
        ($($way:ident),*) => {
            $(run!($way: window_procedure hook timer thread_pool com_sink);)*
        };
        ($way:ident: $($task:ident)*) => {
            $(
                $way::$task::run();
                println!(concat!("ok ", stringify!($way), "::", stringify!($task)));
            )*
        };
    }
    run!(closure_ffi, libffi, statics);
    println!("15 passed, 0 failed");
}

#[cfg(not(windows))]
fn main() {
    println!("these programs are for Windows");
}
