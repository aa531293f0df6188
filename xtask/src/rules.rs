//! The layers of the crate: each module knows only those below it. They are written in `src/lib.rs`, and this test
//! reads them.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

/// The number of each module's layer, by the table in the text of the crate's root.
fn layers(root: &str) -> Result<HashMap<&str, usize>> {
    let rows = root.lines().filter_map(|line| line.strip_prefix("//! | ")?.split_once(" | "));
    let mut layers = HashMap::new();
    for (number, modules) in rows {
        let Ok(number) = number.parse() else { continue };
        for module in modules.split('`').skip(1).step_by(2) {
            ensure!(layers.insert(module, number).is_none(), "{module} is in two layers");
        }
    }
    Ok(layers)
}

/// The modules of the crate that a line of its source names: what follows `crate::`, one or several in braces.
fn named(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices("crate::").flat_map(move |(at, found)| {
        let rest = &code[at + found.len()..];
        let list = rest.strip_prefix('{').and_then(|rest| rest.split('}').next());
        let word = |text: &'_ str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        match list {
            Some(list) => list.split(',').map(str::trim).map(|item| &item[..word(item)]).collect::<Vec<_>>(),
            None => vec![&rest[..word(rest)]],
        }
    })
}

/// Refuses a line of `source`, a file of `module`, that names a module of the same layer or of one above it. `is_top`
/// if the file is that of the module itself, and not of one within.
fn check(module: &str, source: &str, is_top: bool, layers: &HashMap<&str, usize>) -> Result<()> {
    let own = layers.get(module).with_context(|| format!("src/lib.rs does not say in which layer {module} is"))?;
    for (number, line) in source.lines().enumerate() {
        // Or `super` would be another name for the root.
        let code = line.split("//").next().unwrap_or_default();
        let is_to_root = code.contains("super::super::") || (is_top && code.contains("super::"));
        ensure!(!is_to_root, "{module}, line {}: write `crate::` for the crate's root", number + 1);
        for other in named(line).filter(|other| *other != module) {
            let Some(layer) = layers.get(other) else {
                bail!("{module}, line {}: crate::{other} is no module with a layer", number + 1);
            };
            ensure!(
                layer < own,
                "{module}, line {}: {other} is in layer {layer}, {module} itself in layer {own}: it knows only those below",
                number + 1
            );
        }
    }
    Ok(())
}

/// All files, each with the name of the module in the crate's root that it belongs to.
fn sources(folder: &Path, module: Option<&str>, found: &mut Vec<(String, String, bool)>) -> Result<()> {
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).context("a file's name")?;
        let module = module.unwrap_or(name);
        if path.is_dir() {
            sources(&path, Some(module), found)?;
        } else if !matches!(module, "lib" | "guides") {
            let is_top = name == module || name == "mod";
            found.push((module.to_owned(), std::fs::read_to_string(&path)?, is_top));
        }
    }
    Ok(())
}

#[test]
fn each_module_knows_only_those_below_it() {
    let root = crate::root().join("src");
    let text = std::fs::read_to_string(root.join("lib.rs")).unwrap();
    let layers = layers(&text).unwrap();
    let mut found = Vec::new();
    sources(&root, None, &mut found).unwrap();
    for (module, source, is_top) in &found {
        check(module, source, *is_top, &layers).unwrap();
    }
    assert!(layers.keys().all(|module| found.iter().any(|(known, ..)| known == module)), "{layers:?}");
}

/// At most 120 columns, but for rows of tables and what a literal holds.
fn is_too_long(line: &str) -> bool {
    let text = line.trim_start_matches([' ', '/', '!', '*']);
    line.chars().count() > 120 && !text.starts_with('|') && !line.contains('"')
}

#[test]
fn lines_have_at_most_120_columns() {
    let listed = std::process::Command::new("git").arg("ls-files").current_dir(crate::root()).output().unwrap();
    let (mut count, mut long) = (0, Vec::new());
    for file in String::from_utf8(listed.stdout).unwrap().lines() {
        if [".rs", ".S", ".h", ".hpp", ".c", ".cpp", ".md"].iter().any(|end| file.ends_with(end)) {
            let text = std::fs::read_to_string(crate::root().join(file)).unwrap();
            let lines = text.lines().zip(1..).filter(|(line, _)| is_too_long(line));
            long.extend(lines.map(|(_, number)| format!("{file}:{number}")));
            count += 1;
        }
    }
    assert!(long.is_empty(), "more than 120 columns: {}", long.join(", "));
    assert!(count > 100, "git lists {count} files");
    assert!(is_too_long(&"x".repeat(121)) && is_too_long(&format!("    /// {}", "word ".repeat(30))));
    assert!(!is_too_long(&"x".repeat(120)) && !is_too_long(&format!("/// | {}", "word ".repeat(30))));
}

#[test]
fn a_circle_and_a_look_upwards_are_noticed() {
    let text = "//! | layer | modules |\n//! | 0 | `low`, `beside` |\n//! | 1 | `high`, the root |\n";
    let layers = layers(text).unwrap();
    check("high", "use crate::low::Thing;\nuse crate::{beside, low};\ncrate::high::own();", true, &layers).unwrap();
    check("low", "/// See crate::high.\nlet x = 1; // crate::high", true, &layers).unwrap();
    for line in
        ["use crate::high::Thing;", "use crate::{low, high};", "  let x = crate::high::f();", "use crate::beside;"]
    {
        let error = check("low", line, true, &layers).unwrap_err().to_string();
        assert!(error.contains("knows only those below"), "{error}");
    }
    assert!(check("low", "use crate::Thing;", true, &layers).is_err(), "what the root passes on is above");
    assert!(check("unknown", "", true, &layers).is_err());
    assert!(check("low", "use super::high;", true, &layers).is_err());
    assert!(check("low", "use super::own;", false, &layers).is_ok());
    assert!(check("low", "use super::super::high;", false, &layers).is_err());
}
