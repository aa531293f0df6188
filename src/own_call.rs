//! Whether a counted call of a slot is on this thread's stack, by the return addresses that lie there: where something
//! can unwind the stack, which is 64-bit Windows, and Linux with what `std` links. Elsewhere nobody knows.

use crate::{entry, platform};

pub(crate) fn is_on_stack(slot: usize) -> bool {
    let mut is_counted = false;
    let mut is_found = false;
    platform::walk(&mut |address, stack| {
        // SAFETY: what was found before is a frame of the dispatcher's, which ends where this one begins.
        is_found = is_counted && entry::returns_to(slot, unsafe { entry::entry_before(address, stack) });
        is_counted = entry::returns_to_count(address);
        is_found
    });
    is_found
}
