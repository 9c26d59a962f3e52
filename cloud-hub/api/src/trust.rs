//! Trust: keys, versions and expiry of each role of the signed metadata, and changes of them.

use serde::{Deserialize, Serialize};

/// State of the signed metadata: keys, version and expiry of each role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustView {
    /// Root, targets, snapshot, timestamp.
    pub roles: Vec<TrustRoleView>,
    /// Whether nothing can be published until the operator acts.
    pub publishing_stopped: bool,
    /// Online keys that were made for a rotation and are in no root yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_online_keys: Option<OnlineKeysView>,
    /// Advice for the operator, one sentence each.
    pub warnings: Vec<String>,
}

/// State of one role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustRoleView {
    /// `root`, `targets`, `snapshot` or `timestamp`.
    pub role: String,
    /// Version of its file.
    pub version: u64,
    /// Expiry of its signature.
    pub expires_unix_ms: u64,
    /// Whole days until then; negative afterwards.
    pub days_left: i64,
    /// Public keys that may sign it, in hex.
    pub keys: Vec<String>,
    /// Number of them that must sign.
    pub threshold: usize,
    /// `operator` (offline keys) or `hub` (online keys).
    pub renewed_by: String,
    /// Advice for the operator; `None` while nothing need be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub todo: Option<String>,
}

/// Public halves of online keys, in hex. The private halves never leave the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnlineKeysView {
    /// Public key of the key that signs snapshots.
    pub snapshot: String,
    /// Public key of the key that signs timestamps.
    pub timestamp: String,
}

/// Request to publish a new root, a newly signed list of the same versions, or both.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustChange {
    /// The root that follows the one in force, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// The newly signed `targets.json`, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<String>,
}

/// Result of a change of trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustChanged {
    /// Version of the root now.
    pub root_version: u64,
    /// Version of the targets now.
    pub targets_version: u64,
    /// Whether all of it was in force already.
    pub unchanged: bool,
}
