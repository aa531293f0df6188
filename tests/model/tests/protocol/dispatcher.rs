//! What `asm/x86_64.S` does with a context, step by step, in Rust: whoever changes the one changes the other.

use std::ffi::c_void;

use calltable_model::x86;

use crate::context::layout::*;
use crate::context::{CONTEXTS, Context};
use crate::table::CodePointer;

/// All handlers of the tests.
pub type Handler = fn(data: *mut c_void) -> usize;

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// What the handler returned.
    Ran(usize),
    /// The stale handler would run.
    Stale,
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
}

/// Foreign code calls an entry.
pub fn call(code: CodePointer) -> Outcome {
    call_with(code, Flaw::None)
}

/// The same through a flawed dispatcher.
pub fn call_with(code: CodePointer, flaw: Flaw) -> Outcome {
    let Some(context) = context(code) else { return Outcome::Stale };
    let state = x86::load(&context.state);
    // calltable_dispatch: no flags, at most 4 positions.
    if (1..=5).contains(&(state as u16)) {
        let data = x86::load_pointer(&context.data);
        let handler = x86::load_pointer(&context.handler);
        if state == x86::load(&context.state) || flaw == Flaw::NoSecondLook {
            return run(handler, data);
        }
        return select(context, 0, flaw);
    }
    if state & STATE_COUNTED != 0 { count(context, state, flaw) } else { select(context, state, flaw) }
}

/// calltable_count.
fn count(context: &Context, mut state: usize, flaw: Flaw) -> Outcome {
    if flaw == Flaw::LateCount {
        let outcome = select(context, state, flaw);
        x86::locked_add(&context.in_flight, 1);
        x86::locked_add(&context.in_flight, 1_u32.wrapping_neg());
        return outcome;
    }
    let others = x86::locked_add(&context.in_flight, 1);
    if others != 0 && state & STATE_EXCLUSIVE != 0 {
        state = 0;
    }
    if flaw == Flaw::EarlyUncount {
        x86::locked_add(&context.in_flight, 1_u32.wrapping_neg());
        return select(context, state, flaw);
    }
    let outcome = select(context, state, flaw);
    x86::locked_add(&context.in_flight, 1_u32.wrapping_neg());
    outcome
}

/// calltable_select, of what is not counted or has been.
fn select(context: &Context, state: usize, flaw: Flaw) -> Outcome {
    if state as u16 == 0 {
        return Outcome::Stale;
    }
    let handler = x86::load_pointer(&context.handler);
    let data = x86::load_pointer(&context.data);
    if state == x86::load(&context.state) || flaw == Flaw::NoSecondLook {
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

/// Found as the dispatcher finds it: from what `fill` has stored, and the return address in the entry.
pub fn context(code: CodePointer) -> Option<&'static Context> {
    let all = &raw const CONTEXTS;
    // SAFETY: what makes addresses of return addresses comes first.
    let base = x86::load(unsafe { &*all.cast() });
    let return_address = code.as_ptr().addr() + ENTRY_RETURN;
    let context = all.cast::<Context>().with_addr(base.wrapping_add(2 * return_address));
    // SAFETY: there is a context for each entry, if there are any.
    (base != 0).then(|| unsafe { &*context })
}
