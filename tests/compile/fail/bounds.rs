//! What several threads may use at once must be `Sync`, what another thread may use `Send`: in each constructor with
//! options, which the ones without call.
use calltable::seh::Verdict;
use calltable::{Callback, CodePointer, Contained, Dynamic, Options, Signature};
use std::cell::Cell;
use std::rc::Rc;

type Code = unsafe extern "win64" fn(i32);

fn from_ref(options: Options, cell: &'static Cell<i32>) {
    let _ = Callback::<Code>::from_ref_with(options, &|number: i32| cell.set(number));
}

fn from_mut(options: Options, count: Rc<i32>) {
    let _ = Callback::<Code>::from_mut_with(options, &mut move |_: i32| drop(count.clone()));
}

fn from_fn_data(options: Options, cell: &'static Cell<i32>) {
    let _ = Callback::<Code>::from_fn_with(options, cell, |data, number| data.set(number));
}

/// No bytes, so it would do as a function; but who has one may rely on being the thread that has it.
#[derive(Clone, Copy)]
struct Token(std::marker::PhantomData<*const ()>);

fn from_fn_function(options: Options, token: Token) {
    let _ = Callback::<Code>::from_fn_with(options, &(), move |_, _| drop(Token { ..token }));
}

fn from_dynamic(options: Options, signature: Signature, cell: &'static Cell<i32>) {
    let _ = Callback::<CodePointer>::from_dynamic_with(options, &Dynamic::new(signature, |_| cell.set(1)));
}

fn from_dynamic_mut(options: Options, signature: Signature, count: Rc<i32>) {
    let mut closure = Dynamic::new_mut(signature, move |_| drop(count.clone()));
    let _ = Callback::<CodePointer>::from_dynamic_mut_with(options, &mut closure);
}

fn from_contained_closure(options: Options, cell: &'static Cell<i32>) {
    let closure = Contained::<Code, _, _>::new(|number: i32| cell.set(number), |_| None);
    let _ = unsafe { Callback::<Code>::from_contained_with(options, &closure) };
}

fn from_contained_policy(options: Options, cell: &'static Cell<i32>) {
    let policy = Contained::<Code, _, _>::new(|_: i32| (), |_| Some(cell.set(1)));
    let _ = unsafe { Callback::<Code>::from_contained_with(options, &policy) };
}

fn from_contained_mut_closure(options: Options, count: Rc<i32>) {
    let mut closure = Contained::<Code, _, _>::new(move |_: i32| drop(count.clone()), |_| None);
    let _ = unsafe { Callback::<Code>::from_contained_mut_with(options, &mut closure) };
}

fn from_contained_mut_policy(options: Options, count: Rc<i32>) {
    let mut policy = Contained::<Code, _, _>::new(|_: i32| (), move |_| Some(drop(count.clone())));
    let _ = unsafe { Callback::<Code>::from_contained_mut_with(options, &mut policy) };
}

fn from_contained_dynamic_closure(options: Options, signature: Signature, cell: &'static Cell<i32>) {
    let closure = Dynamic::new(signature, |_| cell.set(1)).contained(|_, _| Verdict::RETURN);
    let _ = unsafe { Callback::<CodePointer>::from_contained_dynamic_with(options, &closure) };
}

fn from_contained_dynamic_policy(options: Options, signature: Signature, cell: &'static Cell<i32>) {
    let policy = Dynamic::new(signature, |_| ()).contained(|_, _| {
        cell.set(1);
        Verdict::RETURN
    });
    let _ = unsafe { Callback::<CodePointer>::from_contained_dynamic_with(options, &policy) };
}

fn main() {}
