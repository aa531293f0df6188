//! Wine for programs of Windows on ARM64, which an emulator of that processor runs: both Debian 13's, since Debian 12
//! has no Wine that could.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::debian;
use crate::suite::{folder, quietly};

/// A Wine and a prefix of our own. Nothing of it outlives the program that it runs.
pub struct Wine {
    /// The script that runs a program.
    program: PathBuf,
}

impl Wine {
    /// Makes what is missing of it.
    pub fn install() -> Result<Self> {
        let home = std::env::current_dir()?.join(folder("wine-arm64")?);
        // Several suites use it, at the same time, too.
        let lock = fs::File::create(home.with_extension("lock"))?;
        lock.lock()?;
        let wine = Self { program: home.join("wine") };
        let (root, complete) = (home.join("root"), home.join("complete"));
        // Written last, so that half a tree is not taken for one, nor what was made in another way.
        let made = format!("{PACKAGES:?}{REGISTRY:?}");
        if !fs::read_to_string(&complete).is_ok_and(|found| found == made) {
            println!("making a Wine for ARM64 in {} (170 MB to load, 1.1 GB on disk, once)", home.display());
            fs::remove_dir_all(&home)?;
            fs::create_dir_all(&root)?;
            unpack(&home)?;
        }
        wine.write_program(&home)?;
        if !complete.exists() {
            let prefix = home.join("prefix");
            fs::create_dir_all(&prefix)?;
            for (name, text) in REGISTRY {
                fs::write(prefix.join(name), text)?;
            }
            println!("    setting up its prefix (a minute, once)");
            quietly(Command::new(&wine.program).args(["wineboot", "--init"]))?;
            fs::write(complete, made)?;
        }
        Ok(wine)
    }

    /// Each program gets namespaces of its own, in which the kernel has the emulator run whatever is for ARM64, and a
    /// root with the libraries for that. The repository is where it always is.
    fn write_program(&self, home: &Path) -> Result<()> {
        let repository = std::env::current_dir()?;
        fs::create_dir_all(home.join("root").join(repository.strip_prefix("/")?))?;
        let text = PROGRAM
            .replace("HOME_FOLDER", home.to_str().context("the repository's path is not UTF-8")?)
            .replace("REPOSITORY", repository.to_str().context("the repository's path is not UTF-8")?);
        if fs::read_to_string(&self.program).is_ok_and(|found| found == text) {
            return Ok(());
        }
        fs::write(&self.program, text)?;
        quietly(Command::new("chmod").arg("+x").arg(&self.program)).map(drop)
    }

    /// What stands before the name of a Windows program.
    pub fn runner(&self) -> String {
        self.program.display().to_string()
    }
}

/// Wine, and what it loads; the emulator, which must not want libraries of the machine's, whose root its programs do
/// not see.
const PACKAGES: &[&str] = &[
    "libwine",
    "wine64",
    "libc6",
    "libgcc-s1",
    "libfreetype6",
    "libpng16-16t64",
    "zlib1g",
    "libbz2-1.0",
    "libbrotli1",
    "libfontconfig1", // without it explorer.exe starts itself again and again
    "fontconfig-config",
    "libexpat1",
    "qemu-user:amd64",
];

/// No display and no sound; and no debugger, for which a program that crashes would wait.
const REGISTRY: [(&str, &str); 2] = [
    (
        "user.reg",
        "WINE REGISTRY Version 2\n;; All keys relative to \\\\User\\\\S-1-5-21-0-0-0-1000\n\n#arch=win64\n\n\
         [Software\\\\Wine\\\\Drivers] 1700000000\n\"Audio\"=\"\"\n\"Graphics\"=\"null\"\n",
    ),
    (
        "system.reg",
        "WINE REGISTRY Version 2\n;; All keys relative to \\\\Machine\n\n#arch=win64\n\n\
         [Software\\\\Microsoft\\\\Windows NT\\\\CurrentVersion\\\\AeDebug] 1700000000\n\"Debugger\"=\"-\"\n",
    ),
];

/// The processor is one without branch targets: Wine's own code has none in some places.
const PROGRAM: &str = r#"#!/bin/sh
# Runs a program for Windows on ARM64, one at a time: two would each start a server for the prefix. A program that
# hangs must not hang the suite; its time begins when it is its turn.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp QEMU_CPU=cortex-a72
export WINEPREFIX=HOME_FOLDER/prefix WINEDEBUG=${WINEDEBUG:--all} WINEDLLOVERRIDES="mscoree,mshtml="
exec flock HOME_FOLDER/lock timeout --signal=KILL 600 \
    unshare --user --map-root-user --mount --pid --fork --kill-child --mount-proc sh -c '
set -e
here=$PWD
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc || {
    echo "Linux 6.7 or later is needed, and the right to make user namespaces and to mount in them" >&2
    exit 1
}
magic="\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
mask="\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
printf "%s" ":arm64:M::$magic:$mask:HOME_FOLDER/qemu-aarch64:F" >/proc/sys/fs/binfmt_misc/register
cd HOME_FOLDER/root
mount --rbind /dev dev
mount --bind /proc proc
mount --rbind REPOSITORY ./REPOSITORY
exec unshare --root=. --wd="$here" /usr/lib/wine/wine64 "$@"' sh "$@"
"#;

/// Puts Wine's root and the emulator into the folder.
fn unpack(home: &Path) -> Result<()> {
    let (download, root) = (home.join("download"), home.join("root"));
    fs::create_dir_all(&download)?;
    let archive = debian::archive_of_release("trixie")?;
    for package in debian::download(&download, &["arm64", "amd64"], &archive, PACKAGES)? {
        let is_emulator = package.to_string_lossy().contains("qemu-user");
        let to = if is_emulator { &download } else { &root };
        quietly(Command::new("dpkg").arg("-x").arg(package).arg(to))?;
    }
    fs::rename(download.join("usr/bin/qemu-aarch64"), home.join("qemu-aarch64"))?;
    fs::remove_dir_all(download)?;
    // Where programs say that their loader is; and Debian has a script that picks one of several servers.
    for (target, link) in [("usr/lib", "lib"), ("wineserver64", "usr/lib/wine/wineserver")] {
        quietly(Command::new("ln").args(["-s", "-f", target]).arg(root.join(link)))?;
    }
    ["proc", "dev", "tmp"].iter().try_for_each(|name| fs::create_dir_all(root.join(name)))?;
    Ok(())
}
