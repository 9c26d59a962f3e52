//! A store without a disk, for tests of others. It has the same guarantees, but nothing survives the process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;

use crate::map::{Changes, Map, stage};
use crate::{Batch, Scan, Store, StoreError};

/// A store that exists only in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    map: RwLock<Map>,
    /// Number of entries that were returned by reads.
    reads: AtomicU64,
}

impl MemoryStore {
    /// Creates an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of entries that reads have returned so far, so that a test shows that a request does not read a
    /// whole table.
    #[must_use]
    pub fn entries_read(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    fn note_read(&self, entries: usize) {
        self.reads.fetch_add(u64::try_from(entries).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self.map.read().unwrap_or_else(PoisonError::into_inner).get(key);
        self.note_read(usize::from(found.is_some()));
        Ok(found)
    }

    async fn scan(&self, scan: Scan) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let found = self.map.read().unwrap_or_else(PoisonError::into_inner).scan(&scan);
        self.note_read(found.len());
        Ok(found)
    }

    async fn count(&self, table: &str) -> Result<usize, StoreError> {
        Ok(self.map.read().unwrap_or_else(PoisonError::into_inner).count(table))
    }

    async fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        batch.check_limits()?;
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let mut changes = Changes::new();
        stage(&map, &mut changes, batch)?;
        map.change(changes);
        Ok(())
    }
}
