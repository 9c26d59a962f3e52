//! Messages about trust on the operator API: keys, versions and expiry of each role, and changes of them.

use jiff::Timestamp;
use model_tools::sign::{PublicKey, Role, Signed};
use serde::{Deserialize, Serialize};

use crate::registry::metadata::{Metadata, MetadataError};
use crate::registry::rotation::{Changed, OnlinePublic};
use crate::registry::standing;

/// Every role: keys, version, expiry and what to do.
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

/// One role.
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
    /// Of the key that signs snapshots.
    pub snapshot: String,
    /// Of the key that signs timestamps.
    pub timestamp: String,
}

/// Publishes a new root, a newly signed list of the same versions, or both.
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

/// A change is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustChanged {
    /// Version of the root now.
    pub root_version: u64,
    /// Version of the targets now.
    pub targets_version: u64,
    /// Whether all of it was in force already.
    pub unchanged: bool,
}

impl From<Changed> for TrustChanged {
    fn from(changed: Changed) -> Self {
        let Changed { root, targets, unchanged } = changed;
        Self { root_version: root, targets_version: targets, unchanged }
    }
}

impl From<OnlinePublic> for OnlineKeysView {
    fn from(keys: OnlinePublic) -> Self {
        Self { snapshot: keys.snapshot.to_string(), timestamp: keys.timestamp.to_string() }
    }
}

impl TrustView {
    /// Reads the view from a hub's folder, running or stopped.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn read(metadata: &Metadata, mut warnings: Vec<String>, now: Timestamp) -> Result<Self, MetadataError> {
        let (current, roles) = (metadata.current()?, metadata.roles()?);
        let root = Signed::read(Role::Root, &current.root)?;
        let files = [&root, &current.targets, &current.snapshot, &current.timestamp];
        let roles = files.map(|file| {
            let authority = roles.of(file.role);
            let offline = standing::is_offline(file.role);
            TrustRoleView {
                role: file.role.as_str().to_owned(),
                version: file.version,
                expires_unix_ms: u64::try_from(file.expires.as_millisecond()).unwrap_or(0),
                days_left: file.expires.duration_since(now).as_secs().div_euclid(24 * 3600),
                keys: authority.keys.iter().map(PublicKey::to_string).collect(),
                threshold: authority.threshold,
                renewed_by: (if offline { "operator" } else { "hub" }).to_owned(),
                todo: standing::advice(file.role, file.version, file.expires, now),
            }
        });
        let mut stopped = current.require_fresh(now).is_err();
        if let Err(error) = metadata.keys() {
            stopped = true;
            let command = error.command().unwrap_or_default();
            warnings.push(format!("{}; run: {command}", telemetry::chain(&error)));
        }
        warnings.dedup();
        let next_online_keys = metadata.waiting_online_keys().map(OnlineKeysView::from);
        Ok(Self { roles: roles.into(), publishing_stopped: stopped, next_online_keys, warnings })
    }
}
