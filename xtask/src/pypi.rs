//! Packages of PyPI, which hold what Debian has not: they are loaded and unpacked, not installed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::suite::{quietly, shared_folder};

/// Loads and unpacks a package; returns its folder.
pub fn package(name: &str, options: &[&str]) -> Result<PathBuf> {
    let home = shared_folder("pypi")?;
    let made = home.join(name);
    fs::create_dir_all(&home)?;
    let lock = fs::File::create(home.join("lock"))?;
    lock.lock()?;
    if made.exists() {
        return Ok(made);
    }
    println!("    loading {name}");
    let unpacked = home.join("unpacked");
    fs::remove_dir_all(&unpacked).ok(); // of a run that was ended
    let download = unpacked.join("download");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"]).arg(&download);
    quietly(pip.args(options).arg(name))?;
    for wheel in fs::read_dir(&download)? {
        // A wheel is a ZIP file.
        let mut unzip = Command::new("python3");
        quietly(unzip.args(["-m", "zipfile", "-e"]).arg(wheel?.path()).arg(&unpacked))?;
    }
    fs::remove_dir_all(download)?;
    // The folder gets its name when all is in it.
    fs::rename(unpacked, &made)?;
    Ok(made)
}
