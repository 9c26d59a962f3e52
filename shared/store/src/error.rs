//! Errors of a store.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::lock::LockError;
use crate::record::Unreadable;

/// Error: an operation of a store failed.
///
/// Cheap to clone: one failed write to disk is returned to every caller whose batch was part of it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A condition of the batch did not hold: another writer changed the key first. Nothing was written.
    #[error("write to key {:?}: another writer changed it", key.escape_ascii().to_string())]
    Conflict {
        /// First key whose condition failed.
        key: Bytes,
    },
    /// The disk is full. Nothing was written; the store remains usable.
    #[error("write to the store in {}: the disk is full, free some space there", folder.display())]
    DiskFull {
        /// Folder of the store.
        folder: PathBuf,
    },
    /// A key, a value or a batch exceeds its limit. Nothing was written.
    #[error("write to the store: {size} {what}, at most {max} are allowed")]
    TooLarge {
        /// Object that is too large, like `bytes of a value`.
        what: &'static str,
        /// Size of the object.
        size: usize,
        /// Maximum size.
        max: usize,
    },
    /// The whole store is at its limit. Nothing was written.
    #[error("write to the store: it would have {bytes} bytes, at most {max} are allowed; delete unneeded records")]
    Full {
        /// Size of keys and values after the write, in bytes.
        bytes: u64,
        /// Maximum size in bytes.
        max: u64,
    },
    /// A record cannot be decoded for its table.
    #[error("read the record under key {:?}", key.escape_ascii().to_string())]
    Unreadable {
        /// Key of the record.
        key: Bytes,
        /// Reason for which it is not readable.
        #[source]
        source: Arc<Unreadable>,
    },
    /// A value cannot be encoded as JSON.
    #[error("encode the value of key {:?}", key.escape_ascii().to_string())]
    Encode {
        /// Key of the record.
        key: Bytes,
        /// Error of the encoder.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// A key is not valid in its table.
    #[error("use {key:?} as a key of table {table:?}: a key is neither empty nor over the length limit")]
    BadKey {
        /// Name of the table.
        table: &'static str,
        /// The key, truncated.
        key: String,
    },
    /// Another process has the store open.
    #[error("open the store in {}", folder.display())]
    Locked {
        /// Folder of the store.
        folder: PathBuf,
        /// Error of the lock, which names the other process.
        #[source]
        source: Arc<LockError>,
    },
    /// The disk or the file system failed. The next write or open decides whether the batch was written.
    #[error("{attempt} in {}", folder.display())]
    Io {
        /// Operation that failed, like `write to the store`.
        attempt: &'static str,
        /// Folder of the store.
        folder: PathBuf,
        /// Error of the operating system.
        #[source]
        source: Arc<io::Error>,
    },
    /// The disk did not respond in time. The next open, by another process, decides whether the batch was written.
    #[error("write to the store in {}: the disk has not responded for {} s", folder.display(), after.as_secs_f64())]
    Stalled {
        /// Folder of the store.
        folder: PathBuf,
        /// Deadline of the operation.
        after: Duration,
    },
    /// The store was shut down.
    #[error("use the store: it was shut down")]
    Closed,
}

impl StoreError {
    /// Whether another writer changed the key first: read and decide again.
    #[must_use]
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// Whether the disk is full: nothing was lost, and writes succeed again once there is space.
    #[must_use]
    pub const fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }

    /// Whether the disk did not respond in time: the process must end, since no write can succeed any more.
    #[must_use]
    pub const fn is_stalled(&self) -> bool {
        matches!(self, Self::Stalled { .. })
    }

    /// Whether another process has the store open.
    #[must_use]
    pub const fn is_locked(&self) -> bool {
        matches!(self, Self::Locked { .. })
    }
}
