//! Calls in a second by one thread, and by two on slots of their own.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::calls::run;
use crate::contenders;
use crate::rounds::Case;
use crate::shapes::{Shape, Slots, int4};
use crate::{cpu, labels};

const CALLS: usize = 20_000;

/// Neighbours would share a line of the cache.
const APART: usize = 16;

/// All cases, with the shape of 4 integers: millions of calls in a second.
pub fn cases() -> Vec<Case> {
    let shape = int4();
    let mut cases = Vec::new();
    for contender in ["functions", "typed", "exclusive"] {
        for threads in [1, 2] {
            let slots = 1 + APART * (threads - 1);
            let mut source =
                contenders::named(contender).source(shape, Slots::alike(slots)).expect("every shape is served");
            let sample = move || source.with(|codes| rate(shape, &codes.iter().step_by(APART).collect::<Vec<_>>()));
            let labels = labels!(contender: contender, work: shape.name, threads: threads);
            cases.push(Case { labels, sample: Box::new(sample) });
        }
    }
    cases
}

/// A thread for each pointer, from when all are ready to when the last has ended.
fn rate(shape: &'static Shape, codes: &[&*const c_void]) -> f64 {
    let ready = AtomicUsize::new(0);
    let (ready, all) = (&ready, codes.len());
    let times: Vec<(Instant, Instant)> = thread::scope(|scope| {
        let thread = |(processor, code): (usize, &&*const c_void)| {
            let code = code.expose_provenance();
            scope.spawn(move || {
                cpu::pin(processor);
                let codes = [std::ptr::with_exposed_provenance(code)];
                run(shape, shape.callers[0].1, &codes, CALLS / 10);
                ready.fetch_add(1, Ordering::SeqCst);
                while ready.load(Ordering::SeqCst) != all {
                    std::hint::spin_loop();
                }
                let start = Instant::now();
                run(shape, shape.callers[0].1, &codes, CALLS);
                (start, Instant::now())
            })
        };
        let threads: Vec<_> = codes.iter().enumerate().map(thread).collect();
        threads.into_iter().map(|thread| thread.join().expect("the thread ends well")).collect()
    });
    let start = times.iter().map(|time| time.0).min().expect("there is a thread");
    let end = times.iter().map(|time| time.1).max().expect("there is a thread");
    (all * CALLS) as f64 / (end - start).as_secs_f64() / 1e6
}
