//! Validity of the signatures that updates rest on, in the agent's status.

use std::collections::BTreeMap;

use edge_core::trust::Standing;
use serde::{Deserialize, Serialize};
use service::clock;

/// Whether the signatures that updates rest on are valid. The device goes on answering when they have expired.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrustStatus {
    /// `unknown` (never refreshed), `valid` or `expired`, by this device's clock.
    pub state: String,
    /// Last second of each role's signature since 1970: `root`, `targets`, `snapshot`, `timestamp`.
    pub expires_unix_s: BTreeMap<String, i64>,
    /// Time of the last refresh since the agent started, in milliseconds since 1970.
    pub refreshed_unix_ms: Option<u64>,
    /// Error of the last refresh; `None` after a success.
    pub last_error: Option<String>,
}

impl TrustStatus {
    /// Expiry of each role that is known.
    #[must_use]
    pub fn roles(&self) -> Vec<(&'static str, i64)> {
        let known = |role: &'static str| self.expires_unix_s.get(role).map(|expires| (role, *expires));
        ["root", "targets", "snapshot", "timestamp"].into_iter().filter_map(known).collect()
    }

    /// Compares the expiry of the roles with this device's clock.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let now = clock::signed_unix_s();
        edge_core::trust::standing(&self.roles(), now)
    }
}

pub(super) fn with_state(trust: TrustStatus) -> TrustStatus {
    let state = match trust.standing() {
        Standing::Unknown => "unknown",
        Standing::Valid { .. } => "valid",
        Standing::Expired { .. } => "expired",
    };
    TrustStatus { state: state.to_owned(), ..trust }
}
