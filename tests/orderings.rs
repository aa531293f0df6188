//! The memory orderings of AArch64's dispatchers, instruction by instruction: an emulator on x86 does not show a weaker
//! one, and what is right was found with a model (`tests/model`, `docs/design/protocol.md`).
#![cfg(all(target_os = "linux", target_arch = "aarch64"))]

#[path = "object/aarch64.rs"]
#[allow(dead_code, reason = "tests/unwind.rs uses all of it")]
mod aarch64;

use aarch64::{Function, dispatchers};

/// Bits that tell instructions, what they are, and the name. Those of a class that differ in their ordering alone are
/// all here. ("Arm Architecture Reference Manual", Loads and Stores.)
const ACCESSES: &[(u32, u32, &str)] = &[
    (0xffff_fc00, 0xc8df_fc00, "ldar"),
    (0xffff_fc00, 0xc85f_fc00, "ldaxr"),
    (0xffff_fc00, 0xc85f_7c00, "ldxr"),
    (0xffff_fc00, 0xc89f_fc00, "stlr"),
    (0xffe0_fc00, 0xc800_fc00, "stlxr"),
    (0xffe0_fc00, 0xc800_7c00, "stxr"),
    (0xffe0_fc00, 0xc8e0_fc00, "casal"),
    (0xffe0_fc00, 0xc8e0_7c00, "casa"),
    (0xffe0_fc00, 0xc8a0_fc00, "casl"),
    (0xffe0_fc00, 0xc8a0_7c00, "cas"),
    (0xffe0_fc1f, 0xf860_001f, "staddl"),
    (0xffe0_fc1f, 0xf820_001f, "stadd"),
    (0xffff_ffff, 0xf86e_69ee, "ldr x14, [x15, x14]"),
    (0xffc0_0000, 0xf940_0000, "ldr"),
    (0xffc0_0000, 0xf900_0000, "str"),
    (0xffc0_0000, 0xa940_0000, "ldp"),
];

const SP: u32 = 31;

/// Its accesses to memory that is not on the stack, in their order.
fn accesses(Function(.., words): &Function) -> Vec<&'static str> {
    let of = |word: &u32| {
        let (.., name) = ACCESSES.iter().find(|(mask, bits, _)| word & mask == *bits)?;
        (word >> 5 & SP != SP).then_some(*name)
    };
    words.iter().filter_map(of).collect()
}

#[test]
fn each_access_has_the_ordering_of_the_model() {
    const AGAIN: &str = "ldr x14, [x15, x14]";
    let all = dispatchers();
    let function = |name: &str| all.iter().find(|Function(found, ..)| found == name).unwrap();
    // Span, first context, state; handler and data; the state again.
    assert_eq!(accesses(function("calltable_dispatch")), ["ldar", "ldr", "ldar", "ldp", AGAIN]);
    assert_eq!(accesses(function("calltable_select")), ["ldp", AGAIN]);
    // Enters; whether there is a chain, and the record in it, which is the thread's own; handler and data; the record;
    // ends, exclusive or tracked.
    let (enters, ends): (&[_], &[_]) = if cfg!(target_feature = "lse") {
        (&["ldr", "casal"], &["staddl"])
    } else {
        (&["ldaxr", "stlxr"], &["ldxr", "stlxr"])
    };
    let counted = [enters, &["str", "ldr", "ldp", "str", "stlr"], ends].concat();
    assert_eq!(accesses(function("calltable_count")), counted);
}

#[test]
fn the_second_look_depends_on_handler_and_data() {
    // ldp x16, x13, [x11]; eor x14, x16, x13; and x14, x14, xzr; ldr x14, [x15, x14]; cmp x14, x10
    let look = [0xa940_3570, 0xca0d_020e, 0x8a1f_01ce, 0xf86e_69ee, 0xeb0a_01df];
    let count = |Function(.., words): &Function| words.windows(look.len()).filter(|words| **words == look).count();
    let looks: usize = dispatchers().iter().map(count).sum();
    assert_eq!(looks, 2, "in calltable_dispatch and calltable_select");
}
