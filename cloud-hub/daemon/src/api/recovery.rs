//! Nouns of backups and of what comes after a restore.

use serde::{Deserialize, Serialize};
use types::{DeviceId, Digest};

/// A device without a record that tried to connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnknownDevice {
    /// The name in its certificate.
    pub device: DeviceId,
    /// Digest of its public key.
    pub key: Digest,
    /// Where it last connected from.
    pub address: String,
    /// When that was.
    pub seen_unix_ms: u64,
}

/// A snapshot of the store lies in the state folder, for `cloud-hub backup create` on the hub's own machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSnapshot {
    /// Name of the file in the state folder. Whoever asked deletes it.
    pub file: String,
}
