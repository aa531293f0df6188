//! The inputs that fuzzing has found worth keeping, without a fuzzer: see `fuzz/`.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use arbitrary::{Arbitrary, Unstructured};

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

fn replay<Input: for<'a> Arbitrary<'a>>(target: &str, test: impl Fn(Input)) {
    let folder = format!("{}/../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        println!("{}", path.display());
        if let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(&bytes)) {
            test(input);
            count += 1;
        }
    }
    assert!(count > 10, "{folder} has {count} inputs");
}

/// One after the other: both use the table, and the model of the first begins with one that nobody has used.
#[test]
fn every_kept_input() {
    replay("capi", fuzz::capi::test);
    replay("frame", fuzz::frame::test);
}
