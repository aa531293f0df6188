//! The process forbids itself new executable memory, and checks that it is forbidden.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ops::Range;
use std::ptr::null_mut;
use std::{fs, io};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::Result;

/// The personality under which each readable mapping is executable, too: personality(2).
const READ_IMPLIES_EXEC: u64 = 0x040_0000;

/// Something that was tried, and what the kernel said.
pub struct Attempt {
    /// The action.
    pub what: &'static str,
    /// Who refuses it.
    pub by: &'static str,
    /// How.
    pub error: io::Error,
}

/// What came of it.
pub struct Sandbox {
    /// No memory-deny-write-execute in this kernel (before Linux 6.3).
    pub without_mdwe: Option<io::Error>,
    /// What was tried, all of it refused.
    pub refused: Vec<Attempt>,
}

/// From here on, no page of this process can become executable. Proved by trying.
///
/// # Errors
/// The kernel has neither way, or something was not refused.
pub fn forbid_new_code() -> Result<Sandbox> {
    let mut refused = Vec::new();

    const NONE: libc::c_ulong = 0;
    let refuse = libc::c_ulong::from(libc::PR_MDWE_REFUSE_EXEC_GAIN);
    // SAFETY: it takes flags, and no memory.
    let set = unsafe { libc::prctl(libc::PR_SET_MDWE, refuse, NONE, NONE, NONE) };
    let without_mdwe = (set != 0).then(io::Error::last_os_error);
    if without_mdwe.is_none() {
        // This one lets pass what is never writable, so a mapping that starts as read and execute is not tried.
        refused.push(attempt("mmap, write and execute", "PR_SET_MDWE", || map(WRITE_EXECUTE))?);
        refused.push(attempt("mprotect to execute", "PR_SET_MDWE", protect)?);
    }

    seccompiler::apply_filter_all_threads(&filter()?)?;
    refused.push(attempt("mmap, write and execute", "seccomp", || map(WRITE_EXECUTE))?);
    refused.push(attempt("mmap, read and execute", "seccomp", || map(libc::PROT_READ | libc::PROT_EXEC))?);
    refused.push(attempt("mprotect to execute", "seccomp", protect)?);
    Ok(Sandbox { without_mdwe, refused })
}

/// EPERM to every call that would make memory executable; everything else passes.
fn filter() -> std::result::Result<BpfProgram, seccompiler::BackendError> {
    let bit = |argument: u8, bit: u64| {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bit), bit)?;
        Ok::<_, seccompiler::BackendError>(vec![SeccompRule::new(vec![condition])?])
    };
    let execute = libc::PROT_EXEC as u64;
    let rules = BTreeMap::from([
        (libc::SYS_mmap, bit(2, execute)?),
        (libc::SYS_mprotect, bit(2, execute)?),
        (libc::SYS_pkey_mprotect, bit(2, execute)?),
        (libc::SYS_shmat, bit(2, libc::SHM_EXEC as u64)?),
        (libc::SYS_personality, bit(0, READ_IMPLIES_EXEC)?),
    ]);
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, TargetArch::x86_64)?.try_into()
}

fn attempt(what: &'static str, by: &'static str, action: impl FnOnce() -> io::Result<()>) -> Result<Attempt> {
    match action() {
        Err(error) => Ok(Attempt { what, by, error }),
        Ok(()) => Err(format!("{what} was not refused, although {by} is on").into()),
    }
}

const WRITE_EXECUTE: i32 = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
const SIZE: usize = 4096;

fn map(protection: i32) -> io::Result<()> {
    map_page(protection).map(unmap_page)
}

fn protect() -> io::Result<()> {
    let page = map_page(libc::PROT_READ | libc::PROT_WRITE)?;
    // SAFETY: the page is ours alone.
    let result = unsafe { libc::mprotect(page, SIZE, libc::PROT_READ | libc::PROT_EXEC) };
    let error = io::Error::last_os_error();
    unmap_page(page);
    if result == 0 { Ok(()) } else { Err(error) }
}

fn map_page(protection: i32) -> io::Result<*mut c_void> {
    // SAFETY: a new mapping, at an address that the kernel chooses, touches nobody's memory.
    let page = unsafe { libc::mmap(null_mut(), SIZE, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    if page == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(page) }
}

fn unmap_page(page: *mut c_void) {
    // SAFETY: `map_page` made it, and nothing refers to it.
    unsafe { libc::munmap(page, SIZE) };
}

/// One line of /proc/self/maps: proc_pid_maps(5).
#[derive(PartialEq)]
pub struct Mapping {
    /// Where it is.
    pub addresses: Range<usize>,
    /// Whether code may run there.
    pub executable: bool,
    /// The file, or what else it is.
    pub name: String,
}

/// All of this process.
///
/// # Errors
/// The list cannot be read.
pub fn mappings() -> Result<Vec<Mapping>> {
    let maps =
        fs::read_to_string("/proc/self/maps").map_err(|error| format!("cannot read /proc/self/maps: {error}"))?;
    let parse = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        Some(Mapping {
            addresses: usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?,
            executable: fields.next()?.contains('x'),
            name: fields.nth(3).unwrap_or_default().into(),
        })
    };
    Ok(maps.lines().map(parse).collect::<Option<_>>().ok_or("cannot understand /proc/self/maps")?)
}

/// The executable ones.
///
/// # Errors
/// As above.
pub fn executable_mappings() -> Result<Vec<Mapping>> {
    Ok(mappings()?.into_iter().filter(|mapping| mapping.executable).collect())
}
