//! What `asm/x86_64.S` does with a context, step by step, in Rust; with the feature `narrow`, what `asm/x86.S` does,
//! and with the feature `weak`, what `asm/aarch64.S` does.
//! Whoever changes the one changes the other.

use std::ffi::c_void;
use std::sync::atomic::Ordering;

use calltable_model::{look_at, processor};

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

impl State {
    #[cfg(not(split_state))]
    fn of(word: u64) -> Self {
        Self { shape: (word % GENERATION) as usize, generation: word / GENERATION }
    }
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
            _ if state.shape & STATE_FRAME == 0 && !cfg!(feature = "weak") => exclusive(context, state, flaw),
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
    State::of(processor::look(at::<AtomicU64>(context, CONTEXT_STATE)))
}

/// In two halves: first the generation.
#[cfg(split_state)]
fn read(context: &Context) -> State {
    let generation = processor::look(at::<AtomicU32>(context, CONTEXT_STATE + 4)).into();
    State { shape: processor::look(at::<AtomicU32>(context, CONTEXT_STATE)) as usize, generation }
}

/// Whether what has been read meanwhile belongs to the state that was read before.
fn is_still(context: &Context, state: State) -> bool {
    #[cfg(not(split_state))]
    let again = State::of(processor::look_again(at::<AtomicU64>(context, CONTEXT_STATE))) == state;
    #[cfg(split_state)]
    let again = u64::from(processor::look_again(at::<AtomicU32>(context, CONTEXT_STATE + 4))) == state.generation;
    again
}

/// calltable_exclusive: with no second look, since the slot cannot change hands once the call has entered.
fn exclusive(context: &Context, state: State, flaw: Flaw) -> Outcome {
    let calls = at::<AtomicU64>(context, CONTEXT_CALLS);
    let data = processor::load(&context.data);
    if flaw == Flaw::NoEntry {
        return run(processor::load(&context.handler), data);
    }
    if let Err(refused) = enter(calls, state, flaw) {
        return refused;
    }
    let handler = processor::load(&context.handler);
    let outcome = run(handler, data);
    leave(calls, state, flaw);
    outcome
}

/// A call is over.
fn leave(calls: &AtomicU64, state: State, flaw: Flaw) {
    if state.shape & STATE_EXCLUSIVE != 0 && flaw != Flaw::AnyGeneration {
        processor::store(calls, state.generation * GENERATION); // nobody else changes it meanwhile
    } else if flaw == Flaw::TwoStepLeave {
        let seen = processor::load(calls);
        processor::store(calls, seen - 1);
    } else {
        processor::decrement(calls);
    }
}

/// calltable_count.
fn count(context: &Context, state: State, flaw: Flaw) -> Outcome {
    let calls = at::<AtomicU64>(context, CONTEXT_CALLS);
    if flaw == Flaw::NoEntry {
        return counted(context, state, flaw);
    }
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
    let outcome = counted(context, state, flaw);
    leave(calls, state, flaw);
    outcome
}

/// What has been counted: on AArch64 without a second look, as above.
fn counted(context: &Context, state: State, flaw: Flaw) -> Outcome {
    if cfg!(feature = "weak") {
        run(processor::load(&context.handler), processor::load(&context.data))
    } else {
        select(context, state, flaw)
    }
}

/// Counts a call of the generation that it has read, or nothing.
fn enter(calls: &AtomicU64, state: State, flaw: Flaw) -> Result<(), Outcome> {
    // As if none was running, without a look; AArch64 and the flawed ones look first.
    let mut seen = match flaw {
        Flaw::AnyGeneration | Flaw::NoExchange => processor::load(calls),
        _ if cfg!(feature = "weak") => processor::load(calls),
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
            processor::store(calls, seen + 1);
            return Ok(());
        }
        match processor::exchange(calls, seen, seen + 1) {
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
    let handler = processor::load(&context.handler);
    let data = processor::load(&context.data);
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
    let early = if flaw == Flaw::FirstBeforeSpan { Some(processor::load(first)) } else { None };
    if offset >= processor::look(span) {
        return None;
    }
    let first = early.unwrap_or_else(|| processor::load(first));
    assert_ne!(first, 0, "a span without the first context's address");
    // SAFETY: such an entry has a context.
    let context = unsafe { &*all.cast::<Context>().with_addr(first + CONTEXT_SIZE / ENTRY_STRIDE * offset) };
    look_at(context);
    Some(context)
}
