//! The programs of the guide "Windows in ten minutes" (`docs/windows.md`), which quotes each file of `guide/` in whole;
//! a test of `xtask` compares them.

mod com_sink;
mod hook;
mod subclass;
mod thread_pool;
mod timer;
mod window_procedure;

use std::cell::RefCell;

use crate::c_side;

#[test]
fn a_window_procedure() {
    window_procedure::run().unwrap();
}

#[test]
fn subclasses() {
    subclass::run().unwrap();
}

#[test]
fn a_hook() {
    hook::run().unwrap();
}

#[test]
fn a_timer() {
    timer::run().unwrap();
}

#[test]
fn a_thread_pool() {
    thread_pool::run().unwrap();
}

#[test]
fn a_com_sink() {
    com_sink::run().unwrap();
}

#[test]
fn each_method_of_the_com_sink_called_by_c() {
    let heard = RefCell::default();
    com_sink::with_sink(&heard, |sink| {
        for level in c_side::LEVELS {
            let name = format!("call_sink_{}_{level}", c_side::C);
            // SAFETY: it has that type, and takes a sink.
            let references = unsafe { c_side::function::<unsafe extern "C" fn(com_sink::Object) -> u32>(&name)(sink) };
            assert_eq!(references, 1);
        }
    })
    .unwrap();
    let once = ["data", "view 4", "name", "saved", "closed"];
    assert_eq!(heard.into_inner(), [once, once].concat());
}
