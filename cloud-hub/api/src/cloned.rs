//! A device whose identity two machines use, as operators see it.

use serde::{Deserialize, Serialize};

/// Two machines that use the identity of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClonedView {
    /// Addresses from which the two connected last.
    pub addresses: [String; 2],
    /// Time at which it was first noticed.
    pub first_unix_ms: u64,
    /// Time at which it was last noticed.
    pub last_unix_ms: u64,
}
