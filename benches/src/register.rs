//! What it costs to make a callback and to give it back.

use std::hint::black_box;
use std::time::Instant;

use calltable::table::{self, Binding};
use calltable::{Callback, Convention};

use crate::contenders::{self, Released};
use crate::labels;
use crate::rounds::Case;
use crate::shapes::{Slots, int4};

const PAIRS: usize = 1000;

#[cfg(target_arch = "x86_64")]
type Function = unsafe extern "win64" fn(isize, isize, isize, isize) -> isize;
#[cfg(target_arch = "x86")]
type Function = unsafe extern "stdcall" fn(isize, isize, isize, isize) -> isize;
#[cfg(all(feature = "rivals", target_arch = "x86_64"))]
closure_ffi::bare_hrtb! { type Bare = unsafe extern "win64" fn(isize, isize, isize, isize) -> isize; }
#[cfg(all(feature = "rivals", target_arch = "x86"))]
closure_ffi::bare_hrtb! { type Bare = unsafe extern "stdcall" fn(isize, isize, isize, isize) -> isize; }

/// All cases, with the shape of 4 integers.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for live in [0, 1000, 1999] {
        cases.push(case("typed", live, typed));
        cases.push(case("share", live, share));
    }
    cases.push(case("share_again", 1, share_again));
    #[cfg(feature = "rivals")]
    {
        let shape = int4();
        let cif = contenders::libffi::cif(shape);
        let count = &*Box::leak(Box::new(crate::shapes::Count::new()));
        cases.push(case("libffi", 0, move || {
            black_box(contenders::libffi::Closure::new(shape.libffi[0], cif, count).code);
        }));
        let size = black_box(1);
        cases.push(case("closure_ffi", 0, move || {
            // It captures something: else there would be no code to write.
            let closure = move |a: isize, b: isize, c: isize, d: isize| a + b + c + d + size;
            black_box(closure_ffi::BareFnSync::<Bare>::new(closure).bare().0);
        }));
    }
    cases
}

fn typed() {
    let closure = |a: isize, b: isize, c: isize, d: isize| a + b + c + d;
    black_box(Callback::<Function>::from_ref(&closure).expect("a free slot").code());
}

/// A registration that nobody has shared before.
fn share() {
    let key = table::share(&binding(usize::MAX)).expect("a free slot");
    table::release(black_box(key)).expect("a live slot");
}

/// One that is live.
fn share_again() {
    let key = table::share(&binding(0)).expect("a free slot");
    table::release(black_box(key)).expect("a live slot");
}

/// Does nothing but that, so many times.
pub fn count(contender: &str, pairs: usize) {
    let pair = match contender {
        "typed" => typed,
        "share" => share,
        "share_again" => share_again,
        _ => panic!("no contender {contender:?}"),
    };
    let _live = Released(Some(table::share(&binding(0)).expect("a free slot")));
    (0..pairs).for_each(|_| pair());
}

/// Never called: only registered.
fn binding(data: usize) -> Binding {
    // SAFETY: as said.
    unsafe {
        Binding::direct(Convention::NATIVE, int4().in_c[0], int4().positions, std::ptr::without_provenance_mut(data))
    }
}

/// Makes and drops one, while others live that are shared.
fn case(contender: &'static str, live: usize, pair: impl Fn() + 'static) -> Case {
    let sample = move || {
        let _others: Vec<_> =
            (0..live).map(|data| Released(Some(table::share(&binding(data)).expect("a free slot")))).collect();
        (0..PAIRS / 10).for_each(|_| pair());
        let start = Instant::now();
        (0..PAIRS).for_each(|_| pair());
        start.elapsed().as_nanos() as f64 / PAIRS as f64
    };
    Case { labels: labels!(contender: contender, live: live), sample: Box::new(sample) }
}

/// Makes a callback and calls it, as the first thing in this process that has to do with callbacks; prints nanoseconds.
pub fn first(contender: &str) {
    let shape = int4();
    let start = Instant::now();
    let mut source = contenders::named(contender).source(shape, Slots::alike(1)).expect("every shape is served");
    source.with(|codes| crate::calls::run(shape, shape.callers[0].1, codes, 1));
    println!("{}", start.elapsed().as_nanos());
}
