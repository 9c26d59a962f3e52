//! A small durable ordered map whose acknowledged writes survive a power cut, and atomic plain files.
//!
//! The daemons store their records here: the hub its devices, tokens and registry, the agent the state that must
//! survive a restart. They use the trait [`Store`], usually through a typed [`Table`]. Two implementations:
//! [`SledStore`] on disk and [`MemoryStore`] for tests of others; a PostgreSQL table can be the third, which is why the
//! trait is small. Data that other programs must read (models, keys, trust metadata, slot pointers) are plain files,
//! written through [`files`].
//!
//! The guarantees of a store, checked against a model in `tests/law.rs`: the writes of an [`Store::apply`] that
//! returned `Ok` are visible to every later reader and after every crash; those of one that returned an error are
//! visible to none; a batch is visible completely or not at all; no reader sees data that could still be lost.
//!
//! Deliberately absent: model files and other large values ([`VALUE_BYTES_MAX`]), and secondary indices.

pub mod aside;
mod batch;
mod crash;
mod durable;
mod error;
pub mod files;
mod folder;
mod health;
mod lock;
mod map;
mod memory;
pub mod owner;
mod record;
mod schema;
mod sled_log;
mod table;

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

pub use batch::{Batch, Scan};
pub use crash::CRASH_VARIABLE;
pub use durable::{Opened, SledStore};
pub use error::StoreError;
pub use health::{HANG_VARIABLE, Health, LIMIT_VARIABLE, OPEN_LIMIT, OPERATION_LIMIT};
pub use lock::{LockError, StateLock};
pub use memory::MemoryStore;
pub use record::{Record, Unreadable};
pub use schema::{NewerFolder, StateSchema};
pub use table::{Entry, Listing, Page, Table};

/// Maximum length of a key in bytes. A table name, a slash and a device or model name need far less.
pub const KEY_BYTES_MAX: usize = 512;

/// Maximum length of a value in bytes. A record with a certificate chain has a few kilobytes; larger data is stored in
/// files.
pub const VALUE_BYTES_MAX: usize = 256 * 1024;

/// Maximum number of operations and conditions in one batch.
pub const BATCH_OPERATIONS_MAX: usize = 1024;

/// Maximum size of keys and values in one batch, in bytes: a group of batches is written at once and must fit small
/// devices.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Maximum size of keys and values in one store, in bytes. Reads are served from memory, which this limits: ten
/// thousand devices with 4 kB of records each use a third. A larger fleet needs PostgreSQL.
pub const STORE_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Maximum number of entries in the result of one [`Scan`]; continue after the last key.
pub const SCAN_ENTRIES_MAX: usize = 10_000;

/// A durable ordered map from bytes to bytes.
#[async_trait]
pub trait Store: Send + Sync + Debug {
    /// Returns the value of a key.
    ///
    /// # Errors
    /// Returns [`StoreError::Closed`] if the store was shut down.
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Returns the entries under a prefix in the order of their keys, as a consistent snapshot.
    ///
    /// # Errors
    /// Returns [`StoreError::Closed`] if the store was shut down.
    async fn scan(&self, scan: Scan) -> Result<Vec<(Bytes, Bytes)>, StoreError>;

    /// Returns the number of entries of a table, whose keys begin with `<table>/`. Takes the same time for any number of
    /// entries.
    ///
    /// # Errors
    /// Returns [`StoreError::Closed`] if the store was shut down.
    async fn count(&self, table: &str) -> Result<usize, StoreError>;

    /// Applies all operations of a batch, if all its conditions hold, or none; durable when it returns `Ok`.
    ///
    /// # Errors
    /// Returns [`StoreError::Conflict`] if a condition does not hold, [`StoreError::DiskFull`] if there is no space
    /// (the store remains usable and accepts writes again when there is), [`StoreError::Stalled`] if it took longer
    /// than [`OPERATION_LIMIT`], the limits of this crate, and I/O errors.
    ///
    /// # Cancel safety
    /// A batch whose future is dropped is applied completely or not at all; the caller does not learn which.
    async fn apply(&self, batch: Batch) -> Result<(), StoreError>;

    /// Returns a receiver of the notification that an operation has missed its deadline. A store without writes never
    /// sends it.
    fn health(&self) -> Health {
        Health::default()
    }

    /// Checks that the store makes progress: waits until all earlier requests are done. Writes nothing.
    ///
    /// # Errors
    /// As [`Store::apply`].
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn probe(&self) -> Result<(), StoreError> {
        self.apply(Batch::new()).await
    }
}
