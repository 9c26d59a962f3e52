//! Lower bounds of trust: the highest trusted versions, and the latest trusted time.
//!
//! `sigstore-tuf` compares with the set that it is given; the floor remains effective when that set was lost. A version
//! counts for the keys that signed it: when the root removes a role's keys, its numbering may restart (TUF 5.3.11).

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sigstore_tuf::Root;
use types::Digest;

use super::{TrustError, Trusted, root};

/// Version of the schema of `floor.json`.
const SCHEMA: u32 = 1;

/// Lowest acceptable versions and earliest plausible time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Floor {
    pub(super) last_trusted: Timestamp,
    timestamp: Option<RoleFloor>,
    snapshot: Option<RoleFloor>,
    targets: Option<RoleFloor>,
}

/// Version of a role, and the keys that signed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleFloor {
    version: u64,
    keys: Digest,
}

/// Content of `floor.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FloorFile {
    schema: u32,
    last_trusted_unix_s: i64,
    timestamp: Option<RoleFloor>,
    snapshot: Option<RoleFloor>,
    targets: Option<RoleFloor>,
}

impl Default for Floor {
    fn default() -> Self {
        Self { last_trusted: Timestamp::UNIX_EPOCH, timestamp: None, snapshot: None, targets: None }
    }
}

impl Floor {
    /// Returns the floor after this set, if none of its versions is below the present floor.
    pub(super) fn raise(&self, root: &Root, set: &Trusted) -> Result<Self, TrustError> {
        let offered = |role: &str, version: u64| {
            let keys = root::authority(root, role).ok_or(TrustError::Incomplete)?;
            Ok(RoleFloor { version, keys })
        };
        let timestamp = offered("timestamp", set.timestamp_version())?;
        let snapshot = offered("snapshot", set.snapshot_version())?;
        let targets = offered("targets", set.targets_version())?;
        // A thief of either online key can advance both numberings, so both are reset together.
        let online = same_keys(self.timestamp, timestamp) && same_keys(self.snapshot, snapshot);
        not_under("timestamp", self.timestamp.filter(|_| online), timestamp)?;
        not_under("snapshot", self.snapshot.filter(|_| online), snapshot)?;
        not_under("targets", self.targets.filter(|_| same_keys(self.targets, targets)), targets)?;
        let last_trusted = self.last_trusted;
        Ok(Self { last_trusted, timestamp: Some(timestamp), snapshot: Some(snapshot), targets: Some(targets) })
    }

    /// Returns whether the later floor differs enough to be written.
    pub(super) fn differs(&self, later: &Self, clock_step: SignedDuration) -> bool {
        let versions = |floor: &Self| (floor.timestamp, floor.snapshot, floor.targets);
        versions(self) != versions(later) || later.last_trusted.duration_since(self.last_trusted) >= clock_step
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&FloorFile {
            schema: SCHEMA,
            last_trusted_unix_s: self.last_trusted.as_second(),
            timestamp: self.timestamp,
            snapshot: self.snapshot,
            targets: self.targets,
        })
    }

    /// Parses `floor.json`; `None` if it is damaged.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let file: FloorFile = serde_json::from_slice(bytes).ok()?;
        let last_trusted = Timestamp::from_second(file.last_trusted_unix_s).ok()?;
        let FloorFile { schema, timestamp, snapshot, targets, .. } = file;
        (schema == SCHEMA).then_some(Self { last_trusted, timestamp, snapshot, targets })
    }
}

fn same_keys(floor: Option<RoleFloor>, offered: RoleFloor) -> bool {
    floor.is_some_and(|floor| floor.keys == offered.keys)
}

fn not_under(role: &str, floor: Option<RoleFloor>, offered: RoleFloor) -> Result<(), TrustError> {
    match floor {
        Some(floor) if offered.version < floor.version => {
            Err(TrustError::Rollback { role: role.to_owned(), trusted: floor.version, offered: offered.version })
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_reads_back_and_a_damaged_one_does_not() {
        let keys = Digest::of(b"keys");
        let floor = Floor {
            last_trusted: Timestamp::from_second(1_800_000_000).unwrap(),
            timestamp: Some(RoleFloor { version: 9, keys }),
            snapshot: None,
            targets: Some(RoleFloor { version: 2, keys }),
        };
        let bytes = floor.to_bytes().unwrap();
        assert_eq!(Floor::from_bytes(&bytes), Some(floor));
        assert_eq!(Floor::from_bytes(&bytes[1..]), None);
        assert_eq!(Floor::from_bytes(b""), None);
    }
}
