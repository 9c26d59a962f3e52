//! What callers ask of a store: a [`Batch`] of writes with conditions, a [`Scan`] over a range.

use bytes::Bytes;

use crate::{BATCH_BYTES_MAX, BATCH_OPERATIONS_MAX, KEY_BYTES_MAX, SCAN_ENTRIES_MAX, StoreError, VALUE_BYTES_MAX};

/// Writes that happen together or not at all.
///
/// Operations on the same key happen in the order given. Conditions are checked against the state before the batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    pub(crate) conditions: Vec<(Bytes, Option<Bytes>)>,
    pub(crate) operations: Vec<(Bytes, Option<Bytes>)>,
}

impl Batch {
    /// An empty batch; applying it does nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the value under a key.
    #[must_use]
    pub fn put(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.operations.push((key.into(), Some(value.into())));
        self
    }

    /// Removes a key; no error when it is not there.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Bytes>) -> Self {
        self.operations.push((key.into(), None));
        self
    }

    /// Makes the whole batch conditional on a key's value before it; `None` demands that the key is absent.
    #[must_use]
    pub fn expect(mut self, key: impl Into<Bytes>, value: Option<Bytes>) -> Self {
        self.conditions.push((key.into(), value));
        self
    }

    /// Whether nothing would be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Bytes of keys and values.
    pub(crate) fn bytes(&self) -> usize {
        let parts = self.operations.iter().chain(&self.conditions);
        parts.map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len)).sum()
    }

    /// Refuses what is over the limits of this crate.
    pub(crate) fn check_limits(&self) -> Result<(), StoreError> {
        within("operations of a batch", self.operations.len() + self.conditions.len(), BATCH_OPERATIONS_MAX)?;
        within("bytes of a batch", self.bytes(), BATCH_BYTES_MAX)?;
        for (key, value) in &self.operations {
            within("bytes of a key", key.len(), KEY_BYTES_MAX)?;
            within("bytes of a value", value.as_ref().map_or(0, Bytes::len), VALUE_BYTES_MAX)?;
        }
        Ok(())
    }
}

fn within(what: &'static str, size: usize, max: usize) -> Result<(), StoreError> {
    if size > max { Err(StoreError::TooLarge { what, size, max }) } else { Ok(()) }
}

/// A range of entries, in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Only keys that begin with this; empty for all.
    pub prefix: Bytes,
    /// Only keys greater than this: the last key of the scan before.
    pub after: Option<Bytes>,
    /// At most so many entries; more than [`SCAN_ENTRIES_MAX`] counts as that.
    pub limit: usize,
}

impl Scan {
    /// The first [`SCAN_ENTRIES_MAX`] entries under a prefix.
    #[must_use]
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Self { prefix: prefix.into(), after: None, limit: SCAN_ENTRIES_MAX }
    }

    /// Continues after a key.
    #[must_use]
    pub fn after(mut self, key: impl Into<Bytes>) -> Self {
        self.after = Some(key.into());
        self
    }

    /// At most so many entries.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }
}
