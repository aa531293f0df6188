//! How the names of the `.S` files come to be nobody else's: a part of build.rs, and of what else assembles them.

use std::collections::BTreeSet;

/// Puts the version (`1_2_3`) into every name that the text defines: `calltable_dispatch` becomes
/// `calltable_1_2_3_dispatch`, the macro `PROC` and the number `FPU` become `calltable_1_2_3_PROC` and `..._FPU`. Where
/// optimisation joins the assembly of all crates (`lto = "fat"`, with rustc's assembler), they share one scope with
/// that of others, a second version of this crate among them. `underscore` is what C symbols of the target begin with.
pub fn versioned(text: &str, version: &str, underscore: &str) -> String {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "_.$@".contains(letter);
    let defined = |line: &str| {
        let mut words = line.split(|letter: char| !is_part(letter)).filter(|word| !word.is_empty());
        let directive = words.next()?;
        let name = words.next().filter(|name| !name.starts_with('@'))?; // `@feat.00` is the linker's
        matches!(directive, ".macro" | ".set").then(|| name.to_owned())
    };
    let names: BTreeSet<String> = text.lines().filter_map(defined).collect();
    let mut made = String::with_capacity(2 * text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_part) {
        let word = &rest[start..];
        let word = &word[..word.find(|letter| !is_part(letter)).unwrap_or(word.len())];
        made.push_str(&rest[..start]);
        match word.strip_prefix("calltable_") {
            Some(symbol) => made.extend([underscore, "calltable_", version, "_", symbol]),
            None if names.contains(word) => made.extend(["calltable_", version, "_", word]),
            None => made.push_str(word),
        }
        rest = &rest[start + word.len()..];
    }
    made + rest
}
