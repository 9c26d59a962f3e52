//! Rules for a root beyond TUF: one kind of key, in one spelling, and each key counted once.
//!
//! TUF lets a producer choose key ids, so one key under two ids would satisfy a threshold of two. With one scheme and
//! one spelling, equal keys are equal texts. Every root is checked here before it is trusted, whatever its origin.

use std::collections::{BTreeMap, BTreeSet};

use sigstore_tuf::{Key, Metadata, Root};
use types::Digest;

use super::TrustError;
use super::error::refused;

/// Length of an ed25519 public key in hex digits.
pub const ED25519_HEX_CHARS: usize = 64;

/// Roles that every root must name.
const ROLES: [&str; 4] = ["root", "targets", "snapshot", "timestamp"];

/// Maximum number of keys of one root; a handful of people and two online keys are usual.
const KEYS_MAX: usize = 64;

/// Maximum version of a root: above it JSON readers in other languages lose digits, and incrementing could overflow.
pub const VERSION_MAX: u64 = 1 << 53;

/// Refuses roots whose keys could be counted twice, or whose thresholds cannot be reached.
pub(super) fn accept(bytes: &[u8]) -> Result<(), TrustError> {
    let metadata = Metadata::<Root>::from_slice(bytes).map_err(refused)?;
    let version = metadata.signed().version;
    if !(1..=VERSION_MAX).contains(&version) {
        return Err(bad(format!("version {version} is not within 1 to 2^53")));
    }
    keys_once(&metadata.signed().keys)?;
    ROLES.into_iter().try_for_each(|role| check_role(metadata.signed(), role))
}

fn keys_once(keys: &BTreeMap<String, Key>) -> Result<(), TrustError> {
    if keys.len() > KEYS_MAX {
        return Err(bad(format!("{} keys are over the limit of {KEYS_MAX}", keys.len())));
    }
    let mut seen = BTreeSet::new();
    for (id, key) in keys {
        let public = key.keyval.public.as_str();
        let lower_hex = public.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if key.keytype != "ed25519" || key.scheme != "ed25519" || public.len() != ED25519_HEX_CHARS || !lower_hex {
            return Err(bad(format!("key {} is not ed25519 in lower-case hex", short(id))));
        }
        if !seen.insert(public) {
            return Err(bad(format!("key {} is listed under two ids", short(id))));
        }
    }
    Ok(())
}

fn check_role(root: &Root, name: &str) -> Result<(), TrustError> {
    let role = root.role(name).ok_or_else(|| bad(format!("role {name:?} is missing")))?;
    let distinct: BTreeSet<&String> = role.keyids.iter().filter(|id| root.keys.contains_key(*id)).collect();
    if distinct.len() != role.keyids.len() {
        return Err(bad(format!("role {name:?} names a key twice, or a key that is not listed")));
    }
    if role.threshold == 0 || role.threshold > distinct.len() {
        let (keys, threshold) = (distinct.len(), role.threshold);
        return Err(bad(format!("role {name:?} has {keys} keys and the threshold {threshold}")));
    }
    Ok(())
}

/// Returns an identifier of the signers of a role, which changes exactly when its keys or its threshold change.
pub(super) fn authority(root: &Root, role: &str) -> Option<Digest> {
    let role = root.role(role)?;
    let mut keys: Vec<&str> =
        role.keyids.iter().filter_map(|id| root.keys.get(id)).map(|key| key.keyval.public.as_str()).collect();
    keys.sort_unstable();
    Some(Digest::of(format!("{}\n{}", role.threshold, keys.join("\n")).as_bytes()))
}

/// Returns whether the keys or the threshold of the snapshot or of the timestamp differ between two roots.
///
/// TUF 5.3.11: a client then discards both files, so that their numbering can restart.
pub(super) fn is_online_rotated(before: &[u8], after: &[u8]) -> bool {
    let read = |bytes: &[u8]| Metadata::<Root>::from_slice(bytes).ok();
    let (Some(before), Some(after)) = (read(before), read(after)) else { return false };
    let differs = |role| authority(before.signed(), role) != authority(after.signed(), role);
    differs("snapshot") || differs("timestamp")
}

fn bad(problem: String) -> TrustError {
    TrustError::BadRoot(problem)
}

/// Truncates a key id, which the producer chooses, so that it does not fill a log.
fn short(id: &str) -> String {
    id.chars().take(16).collect()
}
