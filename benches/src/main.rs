//! The same work called back in every way there is. `cargo xtask bench` runs it and makes the table.
//!
//! - `measure [ROUNDS]` prints a line of JSON for each case: nanoseconds, the median and the quartiles;
//! - `first CONTENDER` prints what the first callback of a process costs;
//! - `count CONTENDER WORK CALLS` does nothing but calls, for a tool that counts instructions; the work `register`
//!   is to make a callback and to release it.

mod calls;
mod cold;
mod contenders;
mod cpu;
mod register;
mod rounds;
mod shapes;
mod threads;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["measure"] => measure(ROUNDS),
        ["measure", rounds] => measure(rounds.parse().expect("a number of rounds")),
        ["first", contender] => register::first(contender),
        ["count", contender, "register", pairs] => {
            register::count(contender, pairs.parse().expect("a number of pairs"))
        }
        ["count", contender, work, calls] => calls::count(contender, work, calls.parse().expect("a number of calls")),
        _ => {
            eprintln!("usage: measure [ROUNDS] | first CONTENDER | count CONTENDER WORK CALLS");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

const ROUNDS: usize = 400;

fn measure(rounds: usize) {
    cpu::pin(0);
    rounds::print("calls", rounds::run(calls::cases(), rounds));
    rounds::print("register", rounds::run(register::cases(), rounds));
    if cfg!(target_os = "linux") {
        rounds::print("cold", rounds::run(cold::cases(), rounds / 8));
        rounds::print("threads", rounds::run(threads::cases(), rounds / 2));
    }
}
