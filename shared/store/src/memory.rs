//! A store without a disk, for tests of others. It has the same guarantees, but nothing survives the process.

use std::sync::{PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;

use crate::map::{Changes, Map, stage};
use crate::{Batch, Scan, Store, StoreError};

/// A store that exists only in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    map: RwLock<Map>,
}

impl MemoryStore {
    /// Creates an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.map.read().unwrap_or_else(PoisonError::into_inner).get(key))
    }

    async fn scan(&self, scan: Scan) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        Ok(self.map.read().unwrap_or_else(PoisonError::into_inner).scan(&scan))
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
