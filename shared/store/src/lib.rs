//! A small durable ordered map whose acknowledged writes survive a power cut, and atomic plain files.
//!
//! The daemons keep their records here: the hub its devices, tokens and registry, the agent what it must remember
//! between runs. They speak to the trait [`Store`], usually through a typed [`Table`]. Two implementations:
//! [`SledStore`] on disk and [`MemoryStore`] for tests of others; a PostgreSQL table can be the third, which is why
//! the trait is no larger. What other programs must read (models, keys, trust metadata, slot pointers) are plain
//! files, written through [`files`].
//!
//! The law of a store, checked against a model in `tests/law.rs`: an [`Store::apply`] that returned `Ok` is there
//! for every later reader and after every crash; one that returned an error is there for none; a batch is there
//! wholly or not at all; nobody ever reads what could still be lost.
//!
//! Deliberately absent: model files and other large values ([`VALUE_BYTES_MAX`]), and secondary indices.

pub mod aside;
mod batch;
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
mod watch;

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

pub use batch::{Batch, Scan};
pub use durable::{Opened, SledStore};
pub use error::StoreError;
pub use health::{HANG_VARIABLE, Health, LIMIT_VARIABLE, OPEN_LIMIT, OPERATION_LIMIT};
pub use lock::{LockError, StateLock};
pub use memory::MemoryStore;
pub use record::{Record, Unreadable};
pub use schema::{NewerFolder, StateSchema};
pub use table::{Entry, Listing, Table};
pub use watch::Watch;

/// Longest key, in bytes. A table name, a slash and a device or model name need far less.
pub const KEY_BYTES_MAX: usize = 512;

/// Longest value, in bytes. A record with a certificate chain in it is a few kilobytes; what is larger is a file.
pub const VALUE_BYTES_MAX: usize = 256 * 1024;

/// Most operations and conditions in one batch.
pub const BATCH_OPERATIONS_MAX: usize = 1024;

/// Most bytes of keys and values in one batch: a group of batches is written at once and must fit small devices.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most bytes of keys and values in one store. Reads are answered from memory, so this bounds it: ten thousand
/// devices with 4 kB of records each use a third. A larger fleet wants PostgreSQL.
pub const STORE_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Most entries that one [`Scan`] gives; continue after the last key.
pub const SCAN_ENTRIES_MAX: usize = 10_000;

/// A durable ordered map from bytes to bytes.
#[async_trait]
pub trait Store: Send + Sync + Debug {
    /// The value under a key.
    ///
    /// # Errors
    /// [`StoreError::Closed`] when the store was shut down.
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// The entries under a prefix in the order of their keys, as of one moment.
    ///
    /// # Errors
    /// [`StoreError::Closed`] when the store was shut down.
    async fn scan(&self, scan: Scan) -> Result<Vec<(Bytes, Bytes)>, StoreError>;

    /// Applies all operations of a batch, if all its conditions hold, or none; durable when it returns `Ok`.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when a condition does not hold, [`StoreError::DiskFull`] when there is no room (the
    /// store stays usable and accepts writes again when there is), [`StoreError::Stalled`] when it took longer than
    /// [`OPERATION_LIMIT`], the limits of this crate, and I/O errors.
    ///
    /// # Cancel safety
    /// A batch whose future is dropped is applied wholly or not at all; which of the two is not known.
    async fn apply(&self, batch: Batch) -> Result<(), StoreError>;

    /// Tells when something under a prefix has changed, from now on.
    fn watch(&self, prefix: &[u8]) -> Watch;

    /// Tells when an operation has missed its deadline. A store that writes nothing never does.
    fn health(&self) -> Health {
        Health::default()
    }

    /// Checks that the store makes progress: waits until everything that was asked before is done. Writes nothing.
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
