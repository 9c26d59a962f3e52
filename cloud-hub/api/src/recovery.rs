//! Backups, and devices that are unknown after a restore.

use serde::{Deserialize, Serialize};
use types::{DeviceId, Digest};

/// Device without a record that tried to connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnknownDevice {
    /// Name in its certificate.
    pub device: DeviceId,
    /// Digest of its public key.
    pub key: Digest,
    /// Network address of its last connection.
    pub address: String,
    /// Time of its last connection.
    pub seen_unix_ms: u64,
}

/// Snapshot of the store in the state folder, for `cloud-hub backup create` on the hub's own machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSnapshot {
    /// Name of the file in the state folder. The caller deletes it.
    pub file: String,
}
