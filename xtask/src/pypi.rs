//! Packages of PyPI, which hold what Debian has not: they are loaded and unpacked, not installed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

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

/// A DLL of x86_64 Windows.
struct Dll {
    name: &'static str,
    /// With the version.
    package: &'static str,
    path: &'static str,
    sha256: &'static str,
}

/// Both were made by Microsoft's compiler, in wheels whose tools name a DLL by what is in it.
const DLLS: [Dll; 2] = [
    Dll {
        name: "sqlite3.dll",
        package: "pyproj==3.8.0",
        path: "pyproj.libs/sqlite3-9415ebc42378ab15b741623972c45846.dll",
        sha256: "9415ebc42378ab15b741623972c458464ccd8ad141310e5f92c9d2b2ba9defa0",
    },
    Dll {
        name: "zstd.dll",
        package: "tables==3.10.2",
        path: "tables.libs/zstd-69735e9994623b67bafacfa12059d35a.dll",
        sha256: "626adec52d89c6275e5d58427f6c44a76c94ea2fe700a663d6df5610065fbdb4",
    },
];

/// SQLite (public domain) and Zstandard (BSD) for Windows: 13 MB to load, once.
pub fn dlls() -> Result<Vec<PathBuf>> {
    let folder = shared_folder("dlls")?;
    fs::create_dir_all(&folder)?;
    DLLS.iter()
        .map(|dll| {
            let place = folder.join(dll.name);
            if !place.exists() {
                let platform = ["--platform=win_amd64", "--python-version=3.12", "--implementation=cp"];
                // Suites may run at the same time: the file gets its name when all is in it.
                let copy = folder.join(format!("{}.{}", dll.name, std::process::id()));
                fs::copy(package(dll.package, &platform)?.join(dll.path), &copy)?;
                fs::rename(copy, &place)?;
            }
            let sum = quietly(Command::new("sha256sum").arg(&place))?;
            let path = place.display();
            ensure!(sum.starts_with(dll.sha256), "{path} is not the file of {} that is meant: {sum}", dll.package);
            Ok(place)
        })
        .collect()
}
