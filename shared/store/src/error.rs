//! Why a store could not do what it was asked.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::lock::LockError;
use crate::record::Unreadable;

/// Why a store could not do what it was asked.
///
/// Cheap to clone: one failed write to disk is told to every caller whose batch was in it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A condition of the batch did not hold: someone else changed the key first. Nothing was written.
    #[error("write to key {:?}: it was changed by someone else", key.escape_ascii().to_string())]
    Conflict {
        /// The first key whose condition failed.
        key: Bytes,
    },
    /// There is no room on the disk. Nothing was written; the store stays usable.
    #[error("write to the store in {}: the disk is full, free some space there", folder.display())]
    DiskFull {
        /// The store's folder.
        folder: PathBuf,
    },
    /// A key, a value or a batch is over its limit. Nothing was written.
    #[error("write to the store: {size} {what}, at most {max} are allowed")]
    TooLarge {
        /// What is too large, like `bytes of a value`.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// The whole store is at its limit. Nothing was written.
    #[error("write to the store: it holds {bytes} bytes, at most {max} are allowed; delete what is no longer needed")]
    Full {
        /// Bytes of keys and values it would hold.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// A record is not what its table expects.
    #[error("read the record under key {:?}", key.escape_ascii().to_string())]
    Unreadable {
        /// The key.
        key: Bytes,
        /// The reason.
        #[source]
        source: Arc<Unreadable>,
    },
    /// A value cannot be written as JSON.
    #[error("encode the value of key {:?}", key.escape_ascii().to_string())]
    Encode {
        /// The key.
        key: Bytes,
        /// What the encoder says.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// A key that its table cannot hold.
    #[error("use {key:?} as a key of table {table:?}: a key is neither empty nor over the length limit")]
    BadKey {
        /// The table.
        table: &'static str,
        /// The key, cut short.
        key: String,
    },
    /// Another process has the store open.
    #[error("open the store in {}", folder.display())]
    Locked {
        /// The store's folder.
        folder: PathBuf,
        /// Who holds it.
        #[source]
        source: Arc<LockError>,
    },
    /// The disk or the file system failed. Whether the batch was written is decided at the next write or open.
    #[error("{attempt} in {}", folder.display())]
    Io {
        /// What was attempted, like `write to the store`.
        attempt: &'static str,
        /// The store's folder.
        folder: PathBuf,
        /// What the system says.
        #[source]
        source: Arc<io::Error>,
    },
    /// The disk did not answer in time. Whether the batch was written is decided at the next open, by another process.
    #[error("write to the store in {}: the disk has not answered for {} s", folder.display(), after.as_secs_f64())]
    Stalled {
        /// The store's folder.
        folder: PathBuf,
        /// The deadline.
        after: Duration,
    },
    /// The store was shut down.
    #[error("use the store: it was shut down")]
    Closed,
}

impl StoreError {
    /// Whether someone else's write came first: read again and decide again.
    #[must_use]
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// Whether the disk is full: nothing was lost, and writes work again once there is room.
    #[must_use]
    pub const fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }

    /// Whether the disk did not answer in time: the process must end, since nothing can be written any more.
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
