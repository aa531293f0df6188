//! Wine for programs of both widths, without any package of Debian's 32-bit architecture.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::debian;
use crate::suite::{folder, quietly};

/// A Wine and a prefix of our own, and a display for it; what runs there ends with this value.
pub struct Wine {
    /// The folder of its programs.
    programs: PathBuf,
    prefix: PathBuf,
    display: Display,
}

impl Wine {
    /// Makes what is missing of them.
    pub fn start() -> Result<Self> {
        let prefix = std::env::current_dir()?.join(folder("wine-prefix")?);
        let wine = Self { programs: tree()?.join("lib/wine"), prefix, display: Display::start()? };
        wine.write_program()?;
        let complete = wine.prefix.join("complete");
        if !complete.exists() {
            println!("setting up Wine in {} (some 15 seconds, once)", wine.prefix.display());
            // The two that are left out would ask for packages that nothing here uses.
            quietly(
                wine.set(&mut Command::new(wine.program()))
                    .env("WINEDLLOVERRIDES", "mscoree,mshtml=")
                    .args(["wineboot", "--init"]),
            )?;
            // Without this a program that crashes would wait for a debugger that nobody uses; each width asks its own.
            for width in ["/reg:32", "/reg:64"] {
                let key = r"HKLM\Software\Microsoft\Windows NT\CurrentVersion\AeDebug";
                let arguments = ["reg", "add", key, "/v", "Debugger", "/d", "-", "/f", width];
                quietly(wine.set(&mut Command::new(wine.program())).args(arguments))?;
            }
            fs::write(complete, "")?;
        }
        Ok(wine)
    }

    /// What runs a Windows program.
    pub fn program(&self) -> PathBuf {
        self.programs.join("wine")
    }

    /// Wine wants its page at 0x7ffe0000. Debian's has no preloader, which would keep that free; and newer kernels put
    /// the heap anywhere in the gigabyte after the program, which ends at 0x7d004000: one start in some thousand
    /// failed. So the kernel is asked to place the heap without chance, if it may be asked.
    fn write_program(&self) -> Result<()> {
        let fixed = ["setarch", "--addr-no-randomize"];
        let works = Command::new(fixed[0]).args([fixed[1], "true"]).output().is_ok_and(|out| out.status.success());
        let before = if works { fixed.join(" ") } else { String::new() };
        let program = self.programs.join("wine64");
        fs::write(self.program(), format!("#!/bin/sh\nexec {before} {} \"$@\"\n", program.display()))?;
        quietly(Command::new("chmod").arg("+x").arg(self.program())).map(drop)
    }

    /// Has the command, if it runs Wine, use ours.
    pub fn set<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("WINEPREFIX", &self.prefix).env("WINEDEBUG", "-all").env("DISPLAY", &self.display.name)
    }

    /// What stands before the name of a Windows program. A program that hangs must not hang the suite.
    pub fn runner(&self) -> String {
        format!("timeout 600 {}", self.program().display())
    }
}

impl Drop for Wine {
    fn drop(&mut self) {
        // Ends what runs in this prefix and nothing else.
        let _ = self.set(&mut Command::new(self.programs.join("wineserver"))).arg("--kill").status();
    }
}

/// A copy of Debian's Wine, to which the 32-bit DLLs of the same version are added; it runs 32-bit programs without any
/// 32-bit code of Linux.
fn tree() -> Result<PathBuf> {
    const DLLS: &str = "lib/x86_64-linux-gnu/wine";
    let tree = std::env::current_dir()?.join(folder("wine-tree")?);
    let version = quietly(Command::new("dpkg-query").args(["-W", "-f", "${Version}", "libwine"]))?;
    // Written last, so that half a tree is not taken for one, nor another version's.
    let complete = tree.join("complete");
    if fs::read_to_string(&complete).is_ok_and(|found| found == version) {
        return Ok(tree);
    }
    println!("making a Wine {version} for both widths in {} (95 MB to load, 600 MB on disk, once)", tree.display());
    fs::remove_dir_all(&tree)?;
    let download = tree.join("download");
    fs::create_dir_all(&download)?;
    let archive = debian::archive_of("libwine", &version)?;
    let packages =
        debian::download(&download, &["i386"], &archive, &[&format!("libwine={version}")]).with_context(|| {
            format!(
                "{archive} has no libwine {version} for i386, or cannot be reached; is this machine's Wine up to date?"
            )
        })?;
    println!("    unpacking");
    quietly(Command::new("dpkg").arg("-x").args(packages).arg(&download))?;

    // Wine looks for everything from where its programs and ntdll.so really are, so these are files, not links.
    fs::create_dir_all(tree.join(DLLS))?;
    fs::create_dir_all(tree.join("share"))?;
    quietly(Command::new("cp").args(["-r", "/usr/lib/wine"]).arg(tree.join("lib")))?;
    let unix = Path::new("/usr").join(DLLS).join("x86_64-unix");
    quietly(Command::new("cp").arg("-r").arg(unix).arg(tree.join(DLLS)))?;
    for linked in [&format!("{DLLS}/x86_64-windows"), "share/wine"] {
        quietly(Command::new("ln").arg("-s").arg(Path::new("/usr").join(linked)).arg(tree.join(linked)))?;
    }
    let added = tree.join(DLLS).join("i386-windows");
    fs::rename(download.join("usr/lib/i386-linux-gnu/wine/i386-windows"), &added)?;
    // Debian makes this one, which others import, when it installs Wine, from a package of its own.
    fs::copy(Path::new("/usr").join(DLLS).join("i386-windows/zlib1.dll"), added.join("zlib1.dll"))?;
    fs::remove_dir_all(download)?;
    fs::write(complete, version)?;
    Ok(tree)
}

/// An X server without a screen.
struct Display {
    server: Child,
    name: String,
}

impl Display {
    fn start() -> Result<Self> {
        let mut command = Command::new("Xvfb");
        command.args(["-displayfd", "1", "-screen", "0", "800x600x24", "-nolisten", "tcp"]);
        let mut server =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().with_context(|| format!("{command:?}"))?;
        let mut number = String::new();
        BufReader::new(server.stdout.take().expect("piped")).read_line(&mut number)?;
        let display = Self { server, name: format!(":{}", number.trim_end()) };
        ensure!(!number.is_empty(), "{command:?} found no free display");
        Ok(display)
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A path as Windows programs under Wine see it.
pub fn for_windows(path: &Path) -> String {
    format!("Z:{}", path.display()).replace('/', "\\")
}
