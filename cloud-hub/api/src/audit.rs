//! The audit log: one event for each change, in a chain of hashes.

use serde::{Deserialize, Serialize};
use types::Digest;

/// Query of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// Maximum number of events, at most [`crate::PAGE_MAX`] (the default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Returns events before this number: `next` of the page before. The newest without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
}

/// Page of the audit log, newest event first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPage {
    /// The events of this page.
    pub events: Vec<AuditEvent>,
    /// Cursor of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// One change of the hub's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Number of the event, from 1 without gaps.
    pub number: u64,
    /// Time of the change.
    pub at_unix_ms: u64,
    /// Name of the operator or device that made the change.
    pub actor: String,
    /// Kind of the change, like `device.revoke`.
    pub action: String,
    /// Name of the thing that was changed.
    pub object: String,
    /// State before the change; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// State after the change; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Hash of the event before this one.
    pub previous: Digest,
    /// Hash of this event with `previous`.
    pub hash: Digest,
}

/// Result of checking the whole chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditVerification {
    /// Whether every stored event is unchanged and none is missing.
    pub intact: bool,
    /// Number of events that were checked.
    pub checked: u64,
    /// Number of the first stored event; earlier ones were removed by retention, and their hash is kept.
    pub first: u64,
    /// Number of the newest event; 0 when there is none.
    pub last: u64,
    /// Hash of the newest event. Keep it elsewhere: a later log without it was rewritten.
    pub head: Digest,
    /// Sentence about the first place where the chain is broken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}
