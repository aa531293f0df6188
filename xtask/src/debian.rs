//! Debian's packages of other architectures and releases than the machine's: its own apt, which may not know them, is
//! not touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::suite::quietly;

/// The keys of Debian's releases.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where this machine has a version of a package from, as apt's list of sources says it: address, suite, component.
pub fn archive_of(package: &str, version: &str) -> Result<String> {
    find(package, |found, _| found == version)
}

/// Where packages of another release are: in the archive that this machine has its own main packages from.
pub fn archive_of_release(release: &str) -> Result<String> {
    // Updates and security fixes are in suites with a hyphen, and may be in another archive.
    let own = find("libc6", |_, suite| !suite.contains('-'))?;
    let address = own.split(' ').next().unwrap_or_default();
    Ok(format!("[signed-by={KEYRING}] {address} {release} main"))
}

fn find(package: &str, is_wanted: impl Fn(&str, &str) -> bool) -> Result<String> {
    let sources = quietly(Command::new("apt-cache").args(["madison", package]))?;
    let source = sources.lines().find_map(|line| {
        let mut fields = line.split('|').map(str::trim).skip(1);
        let version = fields.next()?;
        let mut words = fields.next()?.split(' ');
        let (address, (suite, component)) = (words.next()?, words.next()?.split_once('/')?);
        is_wanted(version, suite).then(|| format!("{address} {suite} {component}"))
    });
    source.with_context(|| format!("apt no longer knows where {package} is from: please run apt-get update"))
}

/// Loads packages into a folder, which also gets what apt needs for that; without others that they depend on. The first
/// architecture is that of packages whose names do not say another.
pub fn download(folder: &Path, architectures: &[&str], archive: &str, packages: &[&str]) -> Result<Vec<PathBuf>> {
    let mut apt_get = updated(folder, architectures, &format!("deb {archive}"))?;
    quietly(apt_get.arg("download").args(packages))?;
    let loaded = files(folder, |name| name.ends_with(".deb"))?;
    ensure!(loaded.len() == packages.len(), "apt-get has loaded {loaded:?}");
    Ok(loaded)
}

/// Loads a package's source likewise. Returns the archive of it as its authors have published it.
pub fn download_source(folder: &Path, archive: &str, package: &str) -> Result<PathBuf> {
    let mut apt_get = updated(folder, &["amd64"], &format!("deb-src {archive}"))?;
    quietly(apt_get.args(["source", "--download-only", package]))?;
    let mut loaded = files(folder, |name| name.contains(".orig.tar."))?;
    ensure!(loaded.len() == 1, "apt-get has loaded {loaded:?}");
    Ok(loaded.remove(0))
}

/// An apt-get that knows that archive alone, as it is now.
fn updated(folder: &Path, architectures: &[&str], source: &str) -> Result<Command> {
    let sources = folder.join("sources.list");
    fs::write(&sources, format!("{source}\n"))?;
    fs::create_dir_all(folder.join("lists/partial"))?;
    fs::create_dir_all(folder.join("cache/archives/partial"))?;
    let apt_get = || {
        let mut command = Command::new("apt-get");
        command.current_dir(folder).arg("--quiet");
        // It would else become a user who may not write here.
        command.arg("-oAPT::Sandbox::User=root");
        command.arg(format!("-oAPT::Architecture={}", architectures[0]));
        command.arg(format!("-oAPT::Architectures={}", architectures.join(",")));
        command.args(["-oDir::Etc::SourceParts=/dev/null", "-oDir::Etc::Preferences=/dev/null"]);
        command.args(["-oDir::Etc::PreferencesParts=/dev/null", "-oAcquire::Languages=none"]);
        for (option, name) in [("State::Lists", "lists"), ("Cache", "cache"), ("Etc::SourceList", "sources.list")] {
            command.arg(format!("-oDir::{option}={}", folder.join(name).display()));
        }
        command.arg("-oDir::State::status=/dev/null");
        command
    };
    quietly(apt_get().arg("update"))?;
    Ok(apt_get())
}

fn files(folder: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let files = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    let wanted = files.iter().filter(|file| file.file_name().to_str().is_some_and(&is_wanted));
    Ok(wanted.map(fs::DirEntry::path).collect())
}
