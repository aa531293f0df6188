//! What `asm/x86_64.S` does with a context, step by step, in Rust; with the feature `narrow`, what `asm/x86.S` does.
//! Whoever changes the one changes the other.

use std::ffi::c_void;
use std::sync::atomic::Ordering;

use calltable_model::{look_at, x86};

use crate::context::{Context, contexts};
use crate::core_atomics::*;
use crate::entry;
use crate::layout::*;
use crate::table::CodePointer;

/// All handlers of the tests.
pub type Handler = fn(data: *mut c_void) -> usize;

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// What the handler returned.
    Ran(usize),
    /// The stale handler would run: the slot is not live, or not for this caller.
    Stale,
    /// The stale handler would run: another call is running.
    Refused,
}

/// A step that is left out, to see the model fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// The state is not read again.
    NoSecondLook,
    /// The call is counted only after the state has been looked at again.
    LateCount,
    /// The call is no longer counted when its handler starts.
    EarlyUncount,
    /// The call is counted, whoever's calls are counted now.
    AnyGeneration,
    /// Another call's entry is overwritten, instead of counted on.
    NoExchange,
    /// The address of the first context is read before the span.
    FirstBeforeSpan,
    /// A call that ends says so by a plain store, too weak: what its handler did may be seen later.
    RelaxedLeave,
    /// A tracked call is taken off in two steps, as if nobody else could change the number meanwhile.
    TwoStepLeave,
    /// The handler and the data of an exclusive call are used though it has not entered.
    NoEntry,
}

/// The state as the dispatcher has read it, not necessarily at once.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    shape: usize,
    generation: u64,
}

/// Foreign code calls an entry.
pub fn call(code: CodePointer) -> Outcome {
    call_with(code, Flaw::None)
}

/// The same through a flawed dispatcher.
pub fn call_with(code: CodePointer, flaw: Flaw) -> Outcome {
    Started(context_with(code, flaw).map(|context| (context, read(context)))).finish(flaw)
}

/// A call that has read the state, and nothing else.
pub struct Started(Option<(&'static Context, State)>);

/// Foreign code calls an entry, and is interrupted.
pub fn start(code: CodePointer) -> Started {
    Started(context(code).map(|context| (context, read(context))))
}

impl Started {
    /// It continues.
    pub fn finish(self, flaw: Flaw) -> Outcome {
        let Some((context, state)) = self.0 else { return Outcome::Stale };
        match state.shape & (STATE_COUNTED | STATE_EXCLUSIVE) {
            0 => select(context, state, flaw),
            STATE_COUNTED => count(context, state, flaw),
            _ if state.shape & STATE_FRAME == 0 => exclusive(context, state, flaw),
            _ => count(context, state, flaw),
        }
    }
}

/// An atomic of a context, by its offset, as assembly finds it.
fn at<T>(context: &Context, offset: usize) -> &T {
    // SAFETY: the layout is that of contexts; it says which atomic is there.
    unsafe { &*(&raw const *context).byte_add(offset).cast() }
}

#[cfg(not(split_state))]
fn read(context: &Context) -> State {
    let state = x86::load(at::<AtomicU64>(context, CONTEXT_STATE));
    State { shape: (state % GENERATION) as usize, generation: state / GENERATION }
}

/// In two halves: first the generation.
#[cfg(split_state)]
fn read(context: &Context) -> State {
    let generation = read_generation(context);
    State { shape: x86::load(at::<AtomicU32>(context, CONTEXT_STATE)) as usize, generation }
}

#[cfg(split_state)]
fn read_generation(context: &Context) -> u64 {
    x86::load(at::<AtomicU32>(context, CONTEXT_STATE + 4)).into()
}

/// Whether what has been read meanwhile belongs to the state that was read before.
fn is_still(context: &Context, state: State) -> bool {
    #[cfg(not(split_state))]
    let again = read(context) == state;
    #[cfg(split_state)]
    let again = read_generation(context) == state.generation;
    again
}

/// calltable_exclusive: with no second look, since the slot cannot change hands once the call has entered.
fn exclusive(context: &Context, state: State, flaw: Flaw) -> Outcome {
    let calls = at::<AtomicU64>(context, CONTEXT_CALLS);
    let data = x86::load(&context.data);
    if flaw == Flaw::NoEntry {
        return run(x86::load(&context.handler), data);
    }
    if let Err(refused) = enter(calls, state, flaw) {
        return refused;
    }
    let handler = x86::load(&context.handler);
    let outcome = run(handler, data);
    leave(calls, state, flaw);
    outcome
}

/// A call is over.
fn leave(calls: &AtomicU64, state: State, flaw: Flaw) {
    let none = state.generation * GENERATION;
    if flaw == Flaw::RelaxedLeave {
        calls.store(none, Ordering::Relaxed);
    } else if state.shape & STATE_EXCLUSIVE != 0 && flaw != Flaw::AnyGeneration {
        x86::store(calls, none); // nobody else changes it meanwhile
    } else if flaw == Flaw::TwoStepLeave {
        let seen = x86::load(calls);
        x86::store(calls, seen - 1);
    } else {
        x86::locked_decrement(calls);
    }
}

/// calltable_count.
fn count(context: &Context, state: State, flaw: Flaw) -> Outcome {
    let calls = at::<AtomicU64>(context, CONTEXT_CALLS);
    if flaw == Flaw::LateCount {
        let outcome = select(context, state, flaw);
        return enter(calls, state, flaw).map_or_else(
            |refused| refused,
            |()| {
                leave(calls, state, flaw);
                outcome
            },
        );
    }
    if let Err(refused) = enter(calls, state, flaw) {
        return refused;
    }
    if flaw == Flaw::EarlyUncount {
        leave(calls, state, flaw);
        return select(context, state, flaw);
    }
    let outcome = select(context, state, flaw);
    leave(calls, state, flaw);
    outcome
}

/// Counts a call of the generation that it has read, or nothing.
fn enter(calls: &AtomicU64, state: State, flaw: Flaw) -> Result<(), Outcome> {
    // As if none was running, without a look; the flawed ones look first.
    let mut seen = match flaw {
        Flaw::AnyGeneration | Flaw::NoExchange => x86::load(calls),
        _ => state.generation * GENERATION,
    };
    loop {
        if seen / GENERATION != state.generation && flaw != Flaw::AnyGeneration {
            return Err(Outcome::Stale);
        }
        if seen % GENERATION != 0 && state.shape & STATE_EXCLUSIVE != 0 {
            return Err(Outcome::Refused);
        }
        if flaw == Flaw::NoExchange {
            x86::store(calls, seen + 1);
            return Ok(());
        }
        match x86::locked_exchange(calls, seen, seen + 1) {
            Ok(_) => return Ok(()),
            Err(now) => seen = now,
        }
    }
}

/// calltable_select, of what is not counted or has been.
fn select(context: &Context, state: State, flaw: Flaw) -> Outcome {
    if state.shape == 0 {
        return Outcome::Stale;
    }
    let handler = x86::load(&context.handler);
    let data = x86::load(&context.data);
    if is_still(context, state) || flaw == Flaw::NoSecondLook {
        return run(handler, data);
    }
    Outcome::Stale
}

fn run(handler: *mut c_void, data: *mut c_void) -> Outcome {
    assert!(!handler.is_null(), "the state of a registration without its handler");
    // SAFETY: the tests register nothing else.
    let handler = unsafe { std::mem::transmute::<*mut c_void, Handler>(handler) };
    Outcome::Ran(handler(data))
}

/// Has `publish` come no further than that.
pub fn set_span(span: usize) {
    let all = &raw const *contexts();
    // SAFETY: as in `context`.
    let [_, place] = unsafe { &*all.cast::<[AtomicUsize; 2]>() };
    place.store(span, Ordering::Relaxed);
}

/// Found as the dispatcher finds it: from what `publish` has stored, and the return address in the entry.
pub fn context(code: CodePointer) -> Option<&'static Context> {
    context_with(code, Flaw::None)
}

fn context_with(code: CodePointer, flaw: Flaw) -> Option<&'static Context> {
    let all = &raw const *contexts();
    // SAFETY: the address of the first context comes first, then the span of entries that have one.
    let [first, span] = unsafe { &*all.cast::<[AtomicUsize; 2]>() };
    let offset = code.as_ptr().addr() - entry::entry(0).as_ptr().addr();
    let early = if flaw == Flaw::FirstBeforeSpan { Some(x86::load(first)) } else { None };
    if offset >= x86::load(span) {
        return None;
    }
    let first = early.unwrap_or_else(|| x86::load(first));
    assert_ne!(first, 0, "a span without the first context's address");
    // SAFETY: such an entry has a context.
    let context = unsafe { &*all.cast::<Context>().with_addr(first + CONTEXT_SIZE / ENTRY_STRIDE * offset) };
    look_at(context);
    Some(context)
}
