//! The part of Windows that one DLL sees.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::heap::{Heap, unpoisoned};
use crate::image::{Entries, Reason, Region};
use crate::locks::Locks;
use crate::thread;

/// Threads that the DLL starts may outlive everything else, so a host lives as long as the program.
#[derive(Default)]
pub struct Host {
    pub heap: Heap,
    pub locks: Locks,
    /// The image's, for `VirtualQuery`.
    pub regions: Vec<Region>,
    /// What of the image hears of new threads.
    pub entries: OnceLock<Entries>,
    is_deaf_to_threads: AtomicBool,
    /// The C runtime's `FILE`s for standard input, output and error, 48 bytes each. Nobody looks inside.
    pub streams: [AtomicU64; 3 * 48 / 8],
    /// Variables that a C runtime exports, such as `_fmode`: all are 0.
    pub variables: [AtomicU64; 8],
    threads: Mutex<HashMap<usize, Option<JoinHandle<()>>>>,
    threads_started: AtomicUsize,
    /// What was refused, in order.
    log: Mutex<Vec<String>>,
}

impl Host {
    pub fn new(regions: Vec<Region>) -> &'static Self {
        Box::leak(Box::new(Self { regions, ..Self::default() }))
    }

    pub fn log(&self) -> MutexGuard<'_, Vec<String>> {
        unpoisoned(&self.log)
    }

    pub fn region(&self, address: Address) -> Option<&Region> {
        self.regions.iter().find(|region| region.addresses.contains(&address.number()))
    }

    pub fn threads_started(&self) -> usize {
        self.threads_started.load(Relaxed)
    }

    /// Handles that the DLL has not closed.
    pub fn handles(&self) -> usize {
        unpoisoned(&self.threads).len()
    }

    /// "DisableThreadLibraryCalls", which fails if the DLL has thread-local variables.
    pub fn disable_thread_calls(&self) -> bool {
        let is_possible = self.entries.get().is_none_or(|entries| !entries.has_variables);
        self.is_deaf_to_threads.store(is_possible, Relaxed);
        is_possible
    }

    /// "_beginthreadex": a thread with a block of its own behind GS. Returns a handle, or 0.
    pub fn start_thread(&'static self, start: ThreadStart, argument: Address) -> usize {
        let argument = argument.number();
        let run = move || {
            let run = || {
                let _entered = thread::enter()?;
                let tell = |reason| match self.entries.get().filter(|_| !self.is_deaf_to_threads.load(Relaxed)) {
                    // SAFETY: the image is there while its threads run, and is bound; GS was set.
                    Some(entries) => unsafe { entries.notify(reason) },
                    None => Ok(()),
                };
                tell(Reason::ThreadAttach)?;
                // SAFETY: the DLL passes such a function, and its argument.
                unsafe { start(Address::of_number(argument)) };
                tell(Reason::ThreadDetach)?;
                crate::Result::Ok(())
            };
            if let Err(error) = run() {
                eprintln!("host_dll: a thread of the DLL: {error}");
                std::process::exit(1);
            }
        };
        let Ok(thread) = std::thread::Builder::new().spawn(run) else { return 0 };
        let handle = 4 * (1 + self.threads_started.fetch_add(1, Relaxed));
        unpoisoned(&self.threads).insert(handle, Some(thread));
        handle
    }

    /// "WaitForSingleObject", for threads.
    pub fn wait_for_thread(&self, handle: usize, milliseconds: u32) -> u32 {
        const WAIT_OBJECT_0: u32 = 0;
        const WAIT_TIMEOUT: u32 = 258;
        const WAIT_FAILED: u32 = u32::MAX;
        let start = Instant::now();
        let is_over = || milliseconds != u32::MAX && start.elapsed() >= Duration::from_millis(milliseconds.into());
        loop {
            let mut threads = unpoisoned(&self.threads);
            let Some(thread) = threads.get_mut(&handle) else { return WAIT_FAILED };
            match thread.take() {
                None => return WAIT_OBJECT_0,
                Some(ended) if ended.is_finished() => return ended.join().map_or(WAIT_FAILED, |()| WAIT_OBJECT_0),
                running => *thread = running,
            }
            drop(threads);
            if is_over() {
                return WAIT_TIMEOUT;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// "CloseHandle": a thread runs on.
    pub fn close(&self, handle: usize) -> bool {
        unpoisoned(&self.threads).remove(&handle).is_some()
    }
}

pub type ThreadStart = unsafe extern "win64" fn(Address) -> u32;
