//! What one call costs when no cache holds anything of it.

use std::hint::black_box;

use crate::calls::run;
use crate::contenders::CONTENDERS;
use crate::rounds::Case;
use crate::shapes::{Slots, int4};
use crate::{cpu, labels};

/// Larger than the last cache.
const RUBBISH: usize = 96 << 20;

/// All cases, with the shape of 4 integers.
pub fn cases() -> Vec<Case> {
    let shape = int4();
    let tick = cpu::tick();
    let rubbish: &'static [u64] = Vec::leak(vec![1; RUBBISH / size_of::<u64>()]);
    let cases = CONTENDERS.iter().filter_map(|contender| {
        let mut source = contender.source(shape, Slots::alike(1))?;
        let sample = move || {
            source.with(|codes| {
                run(shape, shape.callers[0].1, codes, 1);
                black_box(rubbish.iter().sum::<u64>());
                let start = cpu::ticks();
                run(shape, shape.callers[0].1, codes, 1);
                (cpu::ticks() - start) as f64 * tick
            })
        };
        Some(Case { labels: labels!(contender: contender.name, work: shape.name), sample: Box::new(sample) })
    });
    cases.collect()
}
