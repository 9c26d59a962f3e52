//! Requests to a store: a [`Batch`] of writes with conditions, a [`Scan`] over a range.

use bytes::Bytes;

use crate::{BATCH_BYTES_MAX, BATCH_OPERATIONS_MAX, KEY_BYTES_MAX, SCAN_ENTRIES_MAX, StoreError, VALUE_BYTES_MAX};

/// Writes that are applied together or not at all.
///
/// Operations on the same key are applied in the given order. Conditions are checked against the state before the
/// batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    pub(crate) conditions: Vec<(Bytes, Option<Bytes>)>,
    pub(crate) operations: Vec<(Bytes, Option<Bytes>)>,
}

impl Batch {
    /// Creates an empty batch; applying it does nothing.
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

    /// Removes a key; a missing key is not an error.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Bytes>) -> Self {
        self.operations.push((key.into(), None));
        self
    }

    /// Makes the whole batch conditional on a key's value before it; `None` requires that the key is absent.
    #[must_use]
    pub fn expect(mut self, key: impl Into<Bytes>, value: Option<Bytes>) -> Self {
        self.conditions.push((key.into(), value));
        self
    }

    /// Whether the batch contains no writes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Returns whether the batch removes keys and writes none. Such a batch frees space, and is tried on a full disk too.
    #[must_use]
    pub fn is_removal(&self) -> bool {
        !self.operations.is_empty() && self.operations.iter().all(|(_key, value)| value.is_none())
    }

    /// Returns the size of keys and values in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let parts = self.operations.iter().chain(&self.conditions);
        parts.map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len)).sum()
    }

    /// Checks the batch against the limits of this crate.
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
    /// Prefix of the keys; empty for all.
    pub prefix: Bytes,
    /// Lower bound of the keys, exclusive: the last key of the previous scan.
    pub after: Option<Bytes>,
    /// Maximum number of entries; values above [`SCAN_ENTRIES_MAX`] count as that.
    pub limit: usize,
}

impl Scan {
    /// Returns a scan of the first [`SCAN_ENTRIES_MAX`] entries under a prefix.
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

    /// Sets the maximum number of entries.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }
}
