//! What cannot work does not compile, and the message says why.
//!
//! A message may count the types that would do; on Windows there are more.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[test]
fn what_cannot_work_does_not_compile() {
    let cases = trybuild::TestCases::new();
    // With a case that passes, programs are built, not only checked: some refusals come that late.
    cases.pass("pass/*.rs");
    cases.compile_fail("fail/*.rs");
}
