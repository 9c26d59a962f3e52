//! The records of the audit log.

use hub_core::audit::{Change, Event, Link};
use serde::{Deserialize, Serialize};
use store::Record;
use types::Digest;

/// Key of the link of the newest event.
pub const NEWEST: &str = "newest";

/// Key of the link of the last removed event, behind which the stored events begin.
pub const OLDEST: &str = "oldest";

/// One event, under its number with leading zeros. A field that is added later is not part of the hash.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditEvent {
    number: u64,
    at_unix_ms: u64,
    actor: String,
    action: String,
    object: String,
    #[serde(default)]
    before: Option<String>,
    #[serde(default)]
    after: Option<String>,
    previous: Digest,
    hash: Digest,
}

/// Place in the chain, under [`NEWEST`] or [`OLDEST`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditLink {
    number: u64,
    hash: Digest,
}

impl Record for AuditEvent {
    type Value = Event;
    const TABLE: &'static str = "audit";

    fn from_value(value: &Event) -> Self {
        let Event { number, change, previous, hash } = value.clone();
        let Change { at_unix_ms, actor, action, object, before, after } = change;
        Self { number, at_unix_ms, actor, action, object, before, after, previous, hash }
    }

    fn into_value(self) -> Result<Event, String> {
        let Self { number, at_unix_ms, actor, action, object, before, after, previous, hash } = self;
        let change = Change { at_unix_ms, actor, action, object, before, after };
        Ok(Event { number, change, previous, hash })
    }
}

impl Record for AuditLink {
    type Value = Link;
    const TABLE: &'static str = "audit-link";

    fn from_value(value: &Link) -> Self {
        let Link { number, hash } = *value;
        Self { number, hash }
    }

    fn into_value(self) -> Result<Link, String> {
        let Self { number, hash } = self;
        Ok(Link { number, hash })
    }
}
