//! The cases, each in the file that it is named in.

mod conventions;
mod every_slot;
mod interrupts;
mod pages;
mod processors;
#[cfg_attr(any(target_arch = "x86", target_arch = "x86_64"), path = "cet.rs")]
#[cfg_attr(target_arch = "aarch64", path = "bti.rs")]
mod protection;
mod registers;
pub mod seh;

use core::ffi::c_void;

use calltable::table::{Binding, CodePointer};
use calltable_callers::REPEAT;

/// What a case needs of the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Nothing,
    /// A second processor.
    Second,
    /// Atomic changes of memory that can be stepped through.
    SteppedAtomics,
    /// A processor that checks returns and branches.
    Protection,
}

/// Name, what it needs, and the case.
pub type Case = (&'static str, Need, fn());

/// All of them, in the order in which they run.
pub const ALL: &[Case] = &[
    ("a call before the first registration is stale", Need::Nothing, every_slot::before_the_first),
    ("every slot in every lane and convention, live and released", Need::Nothing, every_slot::all),
    ("registers in the direct lane", Need::Nothing, registers::direct_lane),
    ("registers in the frame lane", Need::Nothing, registers::frame_lane),
    ("wrecked registers show without the save", Need::Nothing, registers::without_the_save),
    #[cfg(target_arch = "aarch64")]
    ("registers after a stale call", Need::Nothing, || {
        registers::stale_call();
        every_slot::note_stale_calls();
    }),
    ("typed closures called by C", Need::Nothing, conventions::typed),
    ("dynamic closures called by C", Need::Nothing, conventions::dynamic),
    ("nested calls through C", Need::Nothing, conventions::nested),
    ("an exclusive closure is not entered again", Need::Nothing, conventions::exclusive),
    ("interrupted at every instruction of a call", Need::Nothing, interrupts::stepped_calls),
    (
        "interrupted at every instruction of register and release",
        Need::SteppedAtomics,
        interrupts::stepped_registration,
    ),
    ("a slot changes hands at every instruction of a call", Need::Nothing, interrupts::changing_hands),
    ("a timer's callbacks inside dispatch and register", Need::Nothing, interrupts::timer),
    ("one callback on two processors", Need::Second, processors::one_callback),
    ("a slot changes hands while the other processor calls it", Need::Second, processors::changing_hands),
    ("register and release on two processors", Need::Second, processors::registering),
    ("a release waits for the other processor's call", Need::Second, processors::tracked),
    ("an exclusive callback on two processors", Need::Second, processors::exclusive),
    ("an interrupt from the other processor inside dispatch", Need::Second, processors::interrupted),
    ("table and code can be executed and not written, nothing else executed", Need::Nothing, pages::rights),
    ("a write to the table faults", Need::Nothing, pages::write_to_the_table),
    ("data does not run", Need::Nothing, pages::run_data),
    ("a wrong return address is a fault", Need::Protection, protection::wrong_return),
    ("a call of what is no landing pad is a fault", Need::Protection, protection::no_landing_pad),
    ("an entry is a landing pad, and its call returns where it came from", Need::Protection, protection::entries),
    ("the record is first while a handler runs", Need::Nothing, seh::record_while_running),
    ("what a handler leaves on the chain goes with its record", Need::Nothing, seh::left_on_the_chain),
    ("the processor's faults end in a policy", Need::Nothing, seh::contained),
    ("every fault in every lane ends in a filter", Need::Nothing, seh::every_lane),
    #[cfg(floats)]
    ("a dynamic policy makes results of every shape", Need::Nothing, seh::results),
    ("a fault that passes ends at an outer policy and ends the counts", Need::Nothing, seh::passing),
    ("a fault that nobody contains passes out of every callback", Need::Nothing, seh::passing_out),
    ("a filter that mends what was wrong", Need::Nothing, seh::mended),
    ("registers after a fault in each lane", Need::Nothing, registers::after_a_fault),
    ("nested calls unwind in order", Need::Nothing, seh::unwound_in_order),
    ("a corrupt chain is refused", Need::Nothing, seh::corrupt),
    // The last: there is no way back.
    ("a sealed table serves calls, refuses change, and its contexts cannot be written", Need::Nothing, pages::sealed),
];

/// What comes before the first case.
pub fn prepare() {
    assert_eq!(seh::declare(), Ok(()));
}

/// The C caller: `code` is an `extern "efiapi" fn(isize) -> isize`, called with 0 up to `times` - 1; the sum of its
/// results.
fn repeat(code: *const c_void, times: isize) -> isize {
    // SAFETY: every caller here passes such a function.
    unsafe { REPEAT(code, times) }
}

/// A handler of the direct lane for [`repeat`]: its data plus its argument.
unsafe extern "efiapi" fn add(value: isize, data: isize) -> isize {
    value + data
}

/// A registration of [`add`].
fn adding(data: isize) -> Binding {
    let data = core::ptr::without_provenance_mut(data as usize);
    // SAFETY: it takes one word and its data, by the convention of `efiapi`.
    unsafe { Binding::direct(calltable::Convention::C, add as *const c_void, 1, data) }
}

fn address(code: CodePointer) -> *const c_void {
    code.as_ptr()
}
