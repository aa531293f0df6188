//! A function may hold a value without size that proves that a scope has not ended.
use calltable::Callback;
use std::marker::PhantomData;

type Code = unsafe extern "win64" fn() -> u64;

#[derive(Clone, Copy)]
struct Token<'scope>(PhantomData<fn(&'scope ()) -> &'scope ()>);

impl<'scope> Token<'scope> {
    fn number(self) -> u64 {
        7
    }
}

fn with<R>(inside: impl for<'scope> FnOnce(Token<'scope>) -> R) -> R {
    inside(Token(PhantomData))
}

fn escape() -> Callback<'static, Code> {
    with(|token| Callback::<Code>::from_fn(&(), move |_| token.number()).unwrap())
}

fn main() {}
