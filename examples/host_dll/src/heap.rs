//! Memory for a DLL.

use std::alloc::{self, Layout};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::address::Address;

/// Memory for the DLL. It knows its blocks, so a wrong `free` does no harm.
#[derive(Default)]
pub struct Heap {
    blocks: Mutex<HashMap<usize, Layout>>,
    bytes: AtomicUsize,
    most_bytes: AtomicUsize,
}

impl Heap {
    /// Zeroed memory, or null.
    pub fn allocate(&self, size: usize) -> Address {
        let Ok(layout) = Layout::from_size_align(size.max(1), 16) else { return Address::NULL };
        // SAFETY: the layout is not empty.
        let block = unsafe { alloc::alloc_zeroed(layout) };
        if !block.is_null() {
            unpoisoned(&self.blocks).insert(block.expose_provenance(), layout);
            let bytes = self.bytes.fetch_add(layout.size(), Relaxed) + layout.size();
            self.most_bytes.fetch_max(bytes, Relaxed);
        }
        Address::of(block)
    }

    /// Says whether there was such a block. Null is one.
    pub fn free(&self, block: Address) -> bool {
        match unpoisoned(&self.blocks).remove(&block.number()) {
            Some(layout) => {
                self.bytes.fetch_sub(layout.size(), Relaxed);
                // SAFETY: the block came from `allocate`, with this layout, and nobody can free it again.
                unsafe { alloc::dealloc(block.cast(), layout) };
                true
            }
            None => block.is_null(),
        }
    }

    /// "realloc".
    pub fn resize(&self, block: Address, size: usize) -> Address {
        let former = unpoisoned(&self.blocks).get(&block.number()).map(Layout::size);
        if former.is_none() && !block.is_null() {
            return Address::NULL;
        }
        let new = self.allocate(size);
        if !new.is_null() {
            new.copy(block, former.unwrap_or_default().min(size));
            self.free(block);
        }
        new
    }

    /// "_msize".
    pub fn size_of(&self, block: Address) -> usize {
        unpoisoned(&self.blocks).get(&block.number()).map_or(usize::MAX, Layout::size)
    }

    /// Blocks that are allocated now.
    pub fn blocks(&self) -> usize {
        unpoisoned(&self.blocks).len()
    }

    /// The most bytes that were allocated at a time.
    pub fn most_bytes(&self) -> usize {
        self.most_bytes.load(Relaxed)
    }
}

/// A panic never leaves a callback, so nobody has been interrupted while he held the lock.
pub fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
