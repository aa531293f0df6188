//! The dispatchers of AArch64 in the program that runs, as its file has them.

use std::{env, fs};

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, Symbol, SymbolKind};

/// What all names of the assembly begin with.
const PREFIX: &str = concat!("calltable_", env!("CALLTABLE_SYMBOL_VERSION"), "_");

/// Name, address, instructions.
pub struct Function(pub String, pub u64, pub Vec<u32>);

/// All but the table.
pub fn dispatchers() -> Vec<Function> {
    assert_eq!(calltable::table::slot_of(std::ptr::null()), None); // so that the program has a table
    let data = fs::read(env::current_exe().unwrap()).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let address = |name: &str| {
        let symbol = file.symbols().find(|symbol| symbol.name() == Ok(&format!("{PREFIX}{name}")));
        symbol.unwrap_or_else(|| panic!("no {name}: is the test program stripped?")).address()
    };
    let (table, end) = (address("table"), address("text_end"));
    let is_dispatcher =
        |symbol: &Symbol| symbol.kind() == SymbolKind::Text && (table + 1..end).contains(&symbol.address());
    let read = |symbol: Symbol| {
        let section = file.section_by_index(symbol.section_index().unwrap()).unwrap();
        let bytes = section.data_range(symbol.address(), symbol.size()).unwrap().expect("in its section");
        let words = bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
        Function(symbol.name().unwrap().replace(PREFIX, "calltable_"), symbol.address(), words.collect())
    };
    let found: Vec<_> = file.symbols().filter(is_dispatcher).map(read).collect();
    assert!(found.len() > 5, "only {} dispatchers", found.len());
    found
}
