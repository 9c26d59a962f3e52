//! A chain of hashes over a log: each entry has a number and the hash of the entry before, so that a change or a gap is found
//! and named.
//!
//! Used by the hub's audit log and by the agent's log of receipts. The chain proves order and completeness against whoever
//! changes single entries. Whoever can rewrite the whole log and its newest link can make a consistent other one.

use std::fmt;

use sha2::Digest as _;

use crate::Digest;

/// Place in a chain: an entry's number and hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Number of the entry; 0 before the first one.
    pub number: u64,
    /// Hash of the entry.
    pub hash: Digest,
}

impl Link {
    /// Returns the place before the first entry of a log of this format.
    #[must_use]
    pub fn start(format: &str) -> Self {
        Self { number: 0, hash: Digest::of(format.as_bytes()) }
    }

    /// Returns the number of the entry after this one.
    #[must_use]
    pub const fn next_number(&self) -> u64 {
        self.number.saturating_add(1)
    }
}

/// Hash over parts, each with its length before it, so that no two lists of parts have the same bytes.
#[derive(Debug, Clone, Default)]
pub struct PartsHash(sha2::Sha256);

impl PartsHash {
    /// Starts with no parts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part.
    #[must_use]
    pub fn part(self, bytes: &[u8]) -> Self {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Self(self.0.chain_update([1]).chain_update(length.to_be_bytes()).chain_update(bytes))
    }

    /// Adds a part that may be absent; an absent part differs from an empty one.
    #[must_use]
    pub fn optional(self, bytes: Option<&[u8]>) -> Self {
        match bytes {
            Some(bytes) => self.part(bytes),
            None => Self(self.0.chain_update([0])),
        }
    }

    /// Returns the hash of all parts.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest::from_bytes(self.0.finalize().into())
    }
}

/// First place at which a log is not the one that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    /// Noun for an entry of the log, like `event`.
    pub noun: &'static str,
    /// Fault at that place.
    pub fault: Fault,
}

/// Fault of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The entry is absent.
    Missing(u64),
    /// The content of the entry does not fit its hash.
    Changed(u64),
    /// The entry does not follow the one before it.
    Unlinked(u64),
    /// The newest entry is not the one that was written last.
    Head {
        /// Newest entry in the log.
        found: u64,
        /// Entry that was written last.
        wanted: u64,
    },
    /// The entry was never written.
    Extra(u64),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = self.noun;
        match self.fault {
            Fault::Missing(number) => write!(f, "{noun} {number} is missing"),
            Fault::Changed(number) => write!(f, "{noun} {number} was changed"),
            Fault::Unlinked(number) => {
                let before = number.saturating_sub(1);
                write!(f, "{noun} {number} does not follow {noun} {before}: one of them was replaced")
            }
            Fault::Head { found, wanted } => {
                write!(f, "{noun} {found} is the newest, and {noun} {wanted} was written last")
            }
            Fault::Extra(number) => write!(f, "{noun} {number} is behind the newest one"),
        }
    }
}

impl std::error::Error for Broken {}

/// Entry as a log states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stated {
    /// Number of the entry.
    pub number: u64,
    /// Hash of the entry before.
    pub previous: Digest,
    /// Hash of the entry.
    pub hash: Digest,
}

/// Check of a chain, entry by entry from an anchor on.
#[derive(Debug, Clone)]
pub struct Check {
    noun: &'static str,
    place: Link,
    checked: u64,
}

impl Check {
    /// Starts after the anchor: the last entry that is not in the log any more, or [`Link::start`].
    #[must_use]
    pub const fn after(noun: &'static str, anchor: Link) -> Self {
        Self { noun, place: anchor, checked: 0 }
    }

    /// Returns the newest entry that was checked, or the anchor.
    #[must_use]
    pub const fn place(&self) -> Link {
        self.place
    }

    /// Returns the number of entries that were checked.
    #[must_use]
    pub const fn checked(&self) -> u64 {
        self.checked
    }

    /// Returns the error for a fault of this log.
    #[must_use]
    pub const fn broken(&self, fault: Fault) -> Broken {
        Broken { noun: self.noun, fault }
    }

    /// Checks the next entry; `computed` is the hash of its content.
    ///
    /// # Errors
    /// [`Broken`] if it is not the entry that was written there.
    pub fn entry(&mut self, stated: Stated, computed: Digest) -> Result<(), Broken> {
        let expected = self.place.next_number();
        if stated.number != expected {
            return Err(self.broken(Fault::Missing(expected)));
        }
        if stated.hash != computed {
            return Err(self.broken(Fault::Changed(stated.number)));
        }
        if stated.previous != self.place.hash {
            return Err(self.broken(Fault::Unlinked(stated.number)));
        }
        self.place = Link { number: stated.number, hash: stated.hash };
        self.checked = self.checked.saturating_add(1);
        Ok(())
    }

    /// Checks that the log ends with the entry that was written last. Returns the number of entries.
    ///
    /// # Errors
    /// [`Broken`] if later entries are missing, or the newest one was replaced.
    pub fn end(&self, newest: Link) -> Result<u64, Broken> {
        if self.place.number < newest.number {
            return Err(self.broken(Fault::Missing(self.place.next_number())));
        }
        if self.place != newest {
            return Err(self.broken(Fault::Head { found: self.place.number, wanted: newest.number }));
        }
        Ok(self.checked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_join_to_the_same_bytes_have_different_hashes() {
        let hash = |parts: &[Option<&str>]| {
            let parts = parts.iter().map(|part| part.map(str::as_bytes));
            parts.fold(PartsHash::new(), PartsHash::optional).finish()
        };
        let lists: [&[Option<&str>]; 6] = [
            &[Some("ab")],
            &[Some("a"), Some("b")],
            &[Some(""), Some("ab")],
            &[None, Some("ab")],
            &[Some("ab"), None],
            &[],
        ];
        for (at, list) in lists.iter().enumerate() {
            assert!(lists[at + 1..].iter().all(|other| hash(other) != hash(list)), "{list:?}");
        }
    }
}
