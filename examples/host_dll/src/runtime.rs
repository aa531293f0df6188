//! What a C runtime does with functions that it gets: initializers, functions for the end, comparisons.

use std::ffi::c_void;

use crate::address::Address;
use crate::heap::Heap;

type Plain = Option<unsafe extern "win64" fn()>;
type Checked = Option<unsafe extern "win64" fn() -> i32>;
pub type Compare = unsafe extern "win64" fn(*const c_void, *const c_void) -> i32;

/// The functions in a table of them, whose end is its bound; those that are null are left out.
fn table<F: Copy>(first: Address, end: Address) -> impl Iterator<Item = F> {
    let words = end.number().saturating_sub(first.number()) / size_of::<usize>();
    // SAFETY: the DLL passes the bounds of a table of such functions, of which null is none.
    (0..words).filter_map(move |index| unsafe { first.cast::<Option<F>>().add(index).read() })
}

/// "_initterm".
pub fn run_initializers(first: Address, end: Address) {
    for initialize in table::<unsafe extern "win64" fn()>(first, end) {
        // SAFETY: it is a function of that table.
        unsafe { initialize() };
    }
}

/// "_initterm_e": the first result that is not 0 ends it.
pub fn run_checked_initializers(first: Address, end: Address) -> i32 {
    // SAFETY: it is a function of that table.
    let results = table::<unsafe extern "win64" fn() -> i32>(first, end).map(|initialize| unsafe { initialize() });
    results.into_iter().find(|result| *result != 0).unwrap_or_default()
}

const _: () = assert!(size_of::<Plain>() == size_of::<usize>() && size_of::<Checked>() == size_of::<usize>());

/// `_onexit_table_t` of process.h, where a DLL keeps the functions that run when it goes.
#[repr(C)]
pub struct AtExit {
    first: Address,
    end: Address,
    end_of_room: Address,
}

/// "_initialize_onexit_table".
pub fn initialize_at_exit(at_exit: Address) -> i32 {
    let empty = AtExit { first: Address::NULL, end: Address::NULL, end_of_room: Address::NULL };
    // SAFETY: the DLL passes the place of such a table.
    unsafe { at_exit.cast::<AtExit>().write(empty) };
    0
}

/// "_register_onexit_function".
pub fn add_at_exit(heap: &Heap, at_exit: Address, function: Address) -> i32 {
    // SAFETY: the DLL passes such a table, which it has initialized, and which nobody else uses meanwhile.
    let at_exit = unsafe { &mut *at_exit.cast::<AtExit>() };
    let (first, end, end_of_room) = (at_exit.first.number(), at_exit.end.number(), at_exit.end_of_room.number());
    let length = end - first;
    if end == end_of_room {
        let room = (2 * length).max(32 * size_of::<usize>());
        at_exit.first = heap.resize(at_exit.first, room);
        at_exit.end = at_exit.first.plus(length);
        at_exit.end_of_room = at_exit.first.plus(room);
    }
    if at_exit.first.is_null() {
        return -1;
    }
    // SAFETY: there is room for one more.
    unsafe { at_exit.end.cast::<Address>().write(function) };
    at_exit.end = at_exit.end.plus(size_of::<usize>());
    0
}

/// "_execute_onexit_table": the last first, and then there is none any more.
pub fn run_at_exit(heap: &Heap, at_exit: Address) -> i32 {
    // SAFETY: the DLL passes such a table, which it has initialized.
    let AtExit { first, end, .. } = unsafe { at_exit.cast::<AtExit>().read() };
    initialize_at_exit(at_exit);
    let functions: Vec<unsafe extern "win64" fn()> = table(first, end).collect();
    for function in functions.into_iter().rev() {
        // SAFETY: the DLL has registered it.
        unsafe { function() };
    }
    heap.free(first);
    0
}

/// "qsort".
pub fn sort(first: Address, count: usize, size: usize, compare: Compare) {
    extern "C" fn call(a: *const c_void, b: *const c_void, compare: *mut c_void) -> i32 {
        // SAFETY: it is the address of the function below, to which its own elements go.
        unsafe { (*compare.cast::<Compare>())(a, b) }
    }
    let mut compare = compare;
    // SAFETY: the DLL passes so many elements of that size, and a function that compares them.
    unsafe { libc::qsort_r(first.cast(), count, size, Some(call), (&raw mut compare).cast()) };
}
