//! What registrations are called, for people who look for what was not released; and who has most of the slots.

use core::fmt;

/// The name of a registration. Without the feature `names` it takes no room, and there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Name(#[cfg(feature = "names")] Option<&'static str>);

impl Name {
    pub(crate) const NONE: Self = Self(
        #[cfg(feature = "names")]
        None,
    );

    pub(crate) const fn new(name: &'static str) -> Self {
        let _ = name;
        Self(
            #[cfg(feature = "names")]
            Some(name),
        )
    }

    pub(crate) const fn get(self) -> Option<&'static str> {
        #[cfg(feature = "names")]
        return self.0;
        #[cfg(not(feature = "names"))]
        None
    }
}

/// Who has the slots: the names of the registrations that have the most, and how many have none. What
/// [`Error::TableFull`](crate::Error::TableFull) carries, and [`table::users`](crate::table::users) gives.
///
/// It prints as a part of a sentence: `1200 are of "editor", 500 of "hooks", 300 have no name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Users {
    /// With the numbers of their slots, most first; 0 for none.
    largest: [(Name, u32); 3],
    unnamed: u32,
}

/// Names that are counted: all of them, if there are no more.
const CANDIDATES: usize = 8;

impl Users {
    /// That many slots, of which nobody knows more.
    pub(crate) const fn unnamed_alone(unnamed: u32) -> Self {
        Self { largest: [(Name::NONE, 0); 3], unnamed }
    }

    /// Counts the names of all slots that are taken, in time proportional to their number.
    pub(crate) fn of(names: impl Iterator<Item = Option<&'static str>> + Clone) -> Self {
        // J. Misra and D. Gries, "Finding repeated elements", 1982: a name that finds no place takes 1 from each that
        // has one. So one that more than a ninth of all slots have has a place in the end.
        let mut candidates = [None::<(&str, u32)>; CANDIDATES];
        for name in names.clone().flatten() {
            if let Some((_, count)) = candidates.iter_mut().flatten().find(|(other, _)| is_same(other, name)) {
                *count += 1;
            } else if let Some(place) = candidates.iter_mut().find(|place| place.is_none()) {
                *place = Some((name, 1));
            } else {
                for place in &mut candidates {
                    *place =
                        place.and_then(|(name, count)| Some((name, count.checked_sub(1).filter(|left| *left > 0)?)));
                }
            }
        }
        candidates.iter_mut().flatten().for_each(|(_, count)| *count = 0);
        let mut users = Self::unnamed_alone(0);
        for name in names {
            match name {
                None => users.unnamed += 1,
                Some(name) => {
                    let mut known = candidates.iter_mut().flatten();
                    if let Some((_, count)) = known.find(|(other, _)| is_same(other, name)) {
                        *count += 1;
                    }
                }
            }
        }
        for user in &mut users.largest {
            let most = candidates.iter_mut().rev().max_by_key(|place| place.map(|(_, count)| count));
            if let Some((name, count)) = most.and_then(Option::take) {
                *user = (Name::new(name), count);
            }
        }
        users
    }

    /// Up to three names, each with the number of slots that registrations of this name have, most first. None without
    /// the feature `names`.
    ///
    /// Of up to eight names these are the three that have the most. Of more, each that has more than a ninth of the
    /// slots is counted; the others may be left out. Example: [`table::users`](crate::table::users).
    pub fn largest(&self) -> impl Iterator<Item = (&'static str, usize)> {
        self.largest.into_iter().filter_map(|(name, count)| Some((name.get()?, count as usize)))
    }

    /// The number of slots of registrations without a name: all that are taken, without the feature `names`. Example:
    /// [`table::users`](crate::table::users).
    #[must_use]
    pub fn unnamed(&self) -> usize {
        self.unnamed as usize
    }
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut are = "are ";
        for (name, count) in self.largest() {
            write!(f, "{count} {are}of \"{name}\", ")?;
            are = "";
        }
        write!(f, "{} have no name", self.unnamed)
    }
}

/// Whether two names are equal. Not by `==`, which wants C's `memcmp`: C programs for bare machines need not have it.
fn is_same(one: &str, other: &str) -> bool {
    one.len() == other.len() && (one.as_ptr() == other.as_ptr() || one.bytes().eq(other.bytes()))
}
