//! How the processor orders what the dispatcher does, as weakly as C's model can say it: x86, or with the feature
//! `weak` AArch64.
//!
//! In truth x86 reorders nothing but a store with a later load of another place; and to AArch64 an acquire load, and a
//! dependency, say more about what other processors see than they do here.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

#[cfg(feature = "loom")]
use crate::checked as with;
#[cfg(not(feature = "loom"))]
use crate::real as with;
use with::AtomicU64;
use with::raw::{self, Load, is_weak};

use crate::Weakness;

/// MOV; on AArch64 LDAR.
pub fn look<T: Load>(place: &T) -> T::Value {
    place.load_with(if is_weak(Weakness::Look) { Relaxed } else { Acquire })
}

/// MOV; on AArch64 LDR.
pub fn load<T: Load>(place: &T) -> T::Value {
    place.load_with(if cfg!(feature = "weak") { Relaxed } else { Acquire })
}

/// After what has been loaded: MOV; on AArch64 LDR at an address that depends on that.
///
/// C has no word for the dependency. The fence orders what comes after this load, too; but there the first look, an
/// acquire load, has seen to that, if both find the same.
pub fn look_again<T: Load>(place: &T) -> T::Value {
    if cfg!(feature = "weak") && !is_weak(Weakness::LookAgain) {
        raw::acquire();
    }
    load(place)
}

/// LOCK CMPXCHG, a full barrier on which nobody relies; on AArch64 LDAXR and STLXR, or CASAL.
pub fn exchange(place: &AtomicU64, current: u64, new: u64) -> Result<u64, u64> {
    raw::exchange(place, current, new, if is_weak(Weakness::Enter) { Release } else { AcqRel })
}

/// MOV; on AArch64 STLR.
pub fn store(place: &AtomicU64, value: u64) {
    raw::store(place, value, if is_weak(Weakness::Leave) { Relaxed } else { Release });
}

/// LOCK DEC; on AArch64 LDXR and STLXR, or STADDL.
pub fn decrement(place: &AtomicU64) {
    let ordering = if cfg!(feature = "weak") { Release } else { AcqRel };
    raw::decrement(place, if is_weak(Weakness::Leave) { Relaxed } else { ordering });
}
