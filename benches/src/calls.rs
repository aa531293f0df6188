//! What a call costs: each shape, several slots in turn, and from further down.

use std::ffi::c_void;
use std::time::{Duration, Instant};

use crate::contenders::{self, CONTENDERS, Contender, Source};
use crate::labels;
use crate::rounds::Case;
use crate::shapes::{HANDLERS, Loop, SHAPES, Shape, Slots, int4};

/// Long against the clock's grain and short against a time slice.
const SAMPLE: Duration = Duration::from_micros(60);

/// The numbers of slots called in turn.
const SLOTS: [usize; 4] = [8, 64, 256, 2000];

/// The numbers of different handlers that they have, and whether these are shuffled. Where there are fewer slots than
/// handlers, each slot has its own.
const DIFFERENT: &[(usize, bool)] =
    if HANDLERS == 1 { &[(1, false)] } else { &[(1, false), (8, false), (8, true), (HANDLERS, false)] };

/// All cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |contender: &Contender, shape: &'static Shape, slots: Slots, (depth, caller): (usize, Loop)| {
        let Some(source) = contender.source(shape, slots) else { return };
        let Slots { count, handlers, shuffled } = slots;
        let labels = labels!(
            contender: contender.name, work: shape.name, slots: count, handlers: handlers, shuffled: shuffled,
            depth: depth,
        );
        cases.push(Case { labels, sample: Box::new(sampler(shape, caller, source)) });
    };
    for contender in CONTENDERS {
        for shape in SHAPES {
            shape.callers.iter().for_each(|&caller| add(contender, shape, Slots::alike(1), caller));
        }
        for count in SLOTS {
            for &(handlers, shuffled) in DIFFERENT {
                add(contender, int4(), Slots { count, handlers, shuffled }, int4().callers[0]);
            }
        }
    }
    cases
}

fn sampler(shape: &'static Shape, caller: Loop, mut source: Source) -> impl FnMut() -> f64 {
    let mut passes = 0;
    move || {
        source.with(|codes| {
            if passes == 0 {
                passes = enough(shape, caller, codes);
            }
            // What the case before has pushed out of caches and predictors comes back first.
            run(shape, caller, codes, passes.div_ceil(4));
            let start = Instant::now();
            run(shape, caller, codes, passes);
            start.elapsed().as_nanos() as f64 / (passes * codes.len()) as f64
        })
    }
}

/// How many passes a sample takes.
fn enough(shape: &Shape, caller: Loop, codes: &[*const c_void]) -> usize {
    let mut passes = 1;
    loop {
        let start = Instant::now();
        run(shape, caller, codes, passes);
        if start.elapsed() >= SAMPLE {
            return passes;
        }
        passes *= 2;
    }
}

/// Runs a loop of the foreign side, and checks what the handlers have returned.
pub fn run(shape: &Shape, caller: Loop, codes: &[*const c_void], passes: usize) {
    // SAFETY: the pointers are callbacks of this shape.
    let sum = unsafe { caller(codes.as_ptr(), codes.len(), passes) };
    assert_eq!(sum, shape.result * (passes * codes.len()) as f64, "the sum of what the handlers returned");
}

/// Calls one callback so many times.
pub fn count(contender: &str, work: &str, calls: usize) {
    let shape = SHAPES.iter().find(|shape| shape.name == work).unwrap_or_else(|| panic!("no work {work:?}"));
    let mut source = contenders::named(contender).source(shape, Slots::alike(1)).expect("a way that serves this shape");
    source.with(|codes| run(shape, shape.callers[0].1, codes, calls));
}
