//! The four roles, one after the other: each is made from the one before and checked as a device would.

use std::collections::BTreeSet;

use bundle::trust;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use types::Digest;

use super::metadata::{Body, Earlier, Signed, reference, sign};
use super::{Draft, KeyPair, PublicKey, Role, SignError};

/// Highest version that honest signers reach: one a second for a century.
///
/// A thief of a key can sign any version. What is above this one is taken for such a jump: the numbering begins anew at 1
/// as soon as the role has other keys, which devices accept (TUF 5.3.11).
pub const VERSION_PLAUSIBLE_MAX: u64 = 1 << 32;

/// Who may sign a role: `threshold` of these keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The keys, each once.
    pub keys: Vec<PublicKey>,
    /// Number of keys that must sign.
    pub threshold: usize,
}

impl Authority {
    /// One key that signs alone.
    #[must_use]
    pub fn of(key: PublicKey) -> Self {
        Self { keys: vec![key], threshold: 1 }
    }

    fn check(&self, role: Role) -> Result<(), SignError> {
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.keys.iter().find(|key| !seen.insert(**key)) {
            return Err(SignError::DuplicateKey { role: role.as_str(), key: twice.to_string() });
        }
        if self.threshold == 0 || self.threshold > self.keys.len() {
            let (keys, threshold) = (self.keys.len(), self.threshold);
            return Err(SignError::Threshold { role: role.as_str(), keys, threshold });
        }
        Ok(())
    }

    /// The signers that may sign this role, each once; refused when they are too few.
    fn chosen<'a>(&self, role: Role, signers: &[&'a KeyPair]) -> Result<Vec<&'a KeyPair>, SignError> {
        let mut seen = BTreeSet::new();
        let lawful = signers.iter().filter(|signer| self.keys.contains(&signer.public()));
        let chosen: Vec<&KeyPair> = lawful.filter(|signer| seen.insert(signer.public())).copied().collect();
        if chosen.len() < self.threshold {
            let (given, needed) = (chosen.len(), self.threshold);
            return Err(SignError::NotEnoughSigners { role: role.as_str(), given, needed });
        }
        Ok(chosen)
    }
}

/// Keys and threshold of each role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    /// Who may change this very list.
    pub root: Authority,
    /// Who may sign manifests.
    pub targets: Authority,
    /// Who may say which targets are the latest; held by the hub.
    pub snapshot: Authority,
    /// Who may say that the hub is alive; held by the hub.
    pub timestamp: Authority,
}

impl Roles {
    /// Returns the keys and the threshold of a role.
    #[must_use]
    pub fn of(&self, role: Role) -> &Authority {
        match role {
            Role::Root => &self.root,
            Role::Targets => &self.targets,
            Role::Snapshot => &self.snapshot,
            Role::Timestamp => &self.timestamp,
        }
    }

    fn to_fields(&self) -> Result<Map<String, Value>, SignError> {
        let mut keys = Map::new();
        let mut roles = Map::new();
        for role in Role::ALL {
            let authority = self.of(role);
            authority.check(role)?;
            let mut ids = Vec::new();
            for key in &authority.keys {
                let id = key.key_id()?;
                keys.insert(id.clone(), key.to_json());
                ids.push(id);
            }
            roles.insert(role.as_str().to_owned(), json!({"keyids": ids, "threshold": authority.threshold}));
        }
        let mut fields = Map::new();
        fields.insert("consistent_snapshot".to_owned(), json!(true));
        fields.insert("keys".to_owned(), Value::Object(keys));
        fields.insert("roles".to_owned(), Value::Object(roles));
        Ok(fields)
    }

    /// Reads the keys and thresholds of a root. Checks no signature.
    ///
    /// # Errors
    /// When it is no root, or names a key twice or a threshold that cannot be met.
    pub fn read(root: &[u8]) -> Result<Self, SignError> {
        // As a value: what is missing in it reads as null, and the checks below refuse that.
        let fields = Value::Object(Earlier::read(Role::Root, root)?.fields);
        let authority = |role: Role| {
            let entry = &fields["roles"][role.as_str()];
            let ids = entry["keyids"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let keys = ids.filter_map(|id| fields["keys"][id]["keyval"]["public"].as_str());
            let keys = keys.map(str::parse).collect::<Result<Vec<PublicKey>, SignError>>()?;
            let threshold = entry["threshold"].as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
            let authority = Authority { keys, threshold };
            authority.check(role)?;
            Ok(authority)
        };
        Ok(Self {
            root: authority(Role::Root)?,
            targets: authority(Role::Targets)?,
            snapshot: authority(Role::Snapshot)?,
            timestamp: authority(Role::Timestamp)?,
        })
    }
}

/// The keys of a new repository. Give the offline ones to the operator, not to the hub.
#[derive(Debug)]
pub struct InitialKeys {
    /// Offline.
    pub root: KeyPair,
    /// Offline.
    pub targets: KeyPair,
    /// Online.
    pub online: OnlineKeys,
}

/// The keys the hub holds.
#[derive(Debug)]
pub struct OnlineKeys {
    /// Key that signs the snapshot.
    pub snapshot: KeyPair,
    /// Key that signs the timestamp.
    pub timestamp: KeyPair,
}

impl InitialKeys {
    /// Makes four new keys.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate() -> Result<Self, SignError> {
        let online = OnlineKeys { snapshot: KeyPair::generate()?, timestamp: KeyPair::generate()? };
        Ok(Self { root: KeyPair::generate()?, targets: KeyPair::generate()?, online })
    }
}

/// The newest file of each role.
#[derive(Debug, Clone)]
pub struct Repository {
    /// Roles, and the keys that may sign them.
    pub root: Signed,
    /// Which manifests are signed.
    pub targets: Signed,
    /// Which targets are the latest.
    pub snapshot: Signed,
    /// That this is the latest snapshot.
    pub timestamp: Signed,
}

impl Repository {
    /// Content of the four files.
    #[must_use]
    pub fn files(&self) -> [&Signed; 4] {
        [&self.root, &self.targets, &self.snapshot, &self.timestamp]
    }
}

/// Begins a repository in which each role has one key and nothing is signed yet.
///
/// For more than one key begin with [`first_root`] in its place.
///
/// # Errors
/// When signing fails.
pub fn init_repository(keys: &InitialKeys, now: Timestamp) -> Result<Repository, SignError> {
    let roles = Roles {
        root: Authority::of(keys.root.public()),
        targets: Authority::of(keys.targets.public()),
        snapshot: Authority::of(keys.online.snapshot.public()),
        timestamp: Authority::of(keys.online.timestamp.public()),
    };
    let root = first_root(&roles, &[&keys.root], now)?;
    let targets = first_targets(&root.bytes, &[&keys.targets], now)?;
    let (snapshot, timestamp) = snapshot_and_timestamp(&root.bytes, None, &targets.bytes, &keys.online, now)?;
    Ok(Repository { root, targets, snapshot, timestamp })
}

/// Signs version 1 of a root.
///
/// # Errors
/// When a key is named twice, a threshold cannot be met, or the signers are too few.
pub fn first_root(roles: &Roles, signers: &[&KeyPair], now: Timestamp) -> Result<Signed, SignError> {
    let fields = roles.to_fields()?;
    let signers = roles.root.chosen(Role::Root, signers)?;
    let root = sign(Body { role: Role::Root, version: 1, now, fields }, &signers)?;
    trust::inspect_root(&root.bytes).map_err(refused(Role::Root))?;
    Ok(root)
}

/// Signs the root that follows `previous`: with new keys, new thresholds, or only a new expiry.
///
/// An expired `previous` is no obstacle: devices check the expiry of the newest root only.
///
/// # Errors
/// As [`first_root`]; the signers must be enough for the previous root and for the new one.
pub fn next_root(previous: &[u8], roles: &Roles, signers: &[&KeyPair], now: Timestamp) -> Result<Signed, SignError> {
    let mut draft = draft_root(previous, roles, now)?;
    let old = Roles::read(previous)?;
    for signer in old.root.chosen(Role::Root, signers)?.into_iter().chain(roles.root.chosen(Role::Root, signers)?) {
        draft.sign(signer)?;
    }
    let root = draft.to_signed()?;
    trust::check_next_root(previous, &root.bytes).map_err(refused(Role::Root))?;
    Ok(root)
}

/// Writes the root that follows `previous`, without a signature yet.
///
/// # Errors
/// When a key is named twice, a threshold cannot be met, or `previous` has the highest version there is.
pub fn draft_root(previous: &[u8], roles: &Roles, now: Timestamp) -> Result<Draft, SignError> {
    trust::inspect_root(previous).map_err(refused(Role::Root))?;
    let version = Earlier::read(Role::Root, previous)?.next_version(Role::Root)?;
    if version > trust::VERSION_MAX {
        return Err(SignError::VersionsExhausted(Role::Root.as_str()));
    }
    Draft::new(Body { role: Role::Root, version, now, fields: roles.to_fields()? })
}

/// Signs version 1 of the targets: an empty list.
///
/// # Errors
/// When the signers are too few for the root.
pub fn first_targets(root: &[u8], signers: &[&KeyPair], now: Timestamp) -> Result<Signed, SignError> {
    let mut fields = Map::new();
    fields.insert("targets".to_owned(), json!({}));
    sign_targets(root, 1, fields, signers, now)
}

/// Signs a list with one more target.
///
/// `old` usually comes from the hub, which may be in wrong hands: it is taken only when the targets keys signed it,
/// so nothing gets onto the list that its keepers did not put there.
///
/// # Errors
/// When `old` is not signed by the root's targets keys, when the path is on the list already (a version is signed
/// once), or when the signers are too few.
pub fn add_target(
    root: &[u8],
    old: &[u8],
    path: &str,
    content: &[u8],
    signers: &[&KeyPair],
    now: Timestamp,
) -> Result<Signed, SignError> {
    finish_targets(root, draft_addition(root, old, path, content, now)?, signers)
}

/// Writes a list with one more target, without a signature yet; otherwise as [`add_target`].
///
/// # Errors
/// As [`add_target`], but for the signers.
pub fn draft_addition(root: &[u8], old: &[u8], path: &str, content: &[u8], now: Timestamp) -> Result<Draft, SignError> {
    let mut earlier = checked_targets(root, old)?;
    let hashes = json!({"sha256": Digest::of(content).to_hex()});
    let list = earlier.fields.entry("targets").or_insert_with(|| json!({}));
    if let Some(known) = list.get(path) {
        let same = known["hashes"] == hashes && known["length"] == json!(content.len());
        return Err(SignError::AlreadySigned { path: path.to_owned(), same });
    }
    if let Some(list) = list.as_object_mut() {
        list.insert(path.to_owned(), json!({"length": content.len(), "hashes": hashes}));
    }
    let version = earlier.next_version_at(Role::Targets, now)?;
    Draft::new(Body { role: Role::Targets, version, now, fields: earlier.fields })
}

/// Signs a list without one of its targets.
///
/// # Errors
/// As [`add_target`]; and when the path is not on the list.
pub fn remove_target(
    root: &[u8],
    old: &[u8],
    path: &str,
    signers: &[&KeyPair],
    now: Timestamp,
) -> Result<Signed, SignError> {
    finish_targets(root, draft_removal(root, old, path, now)?, signers)
}

/// Writes a list without one of its targets, and without a signature yet; otherwise as [`remove_target`].
///
/// # Errors
/// As [`remove_target`], but for the signers.
pub fn draft_removal(root: &[u8], old: &[u8], path: &str, now: Timestamp) -> Result<Draft, SignError> {
    let mut earlier = checked_targets(root, old)?;
    let list = earlier.fields.get_mut("targets").and_then(Value::as_object_mut);
    if list.and_then(|list| list.remove(path)).is_none() {
        return Err(SignError::NotSigned { path: path.to_owned() });
    }
    let version = earlier.next_version_at(Role::Targets, now)?;
    Draft::new(Body { role: Role::Targets, version, now, fields: earlier.fields })
}

/// Signs the same list again with a new expiry, or with the keys of a new root.
///
/// # Errors
/// As [`add_target`]. After the targets keys changed, `old_root` is the root that `old` was signed under.
pub fn renew_targets(
    root: &[u8],
    old_root: &[u8],
    old: &[u8],
    signers: &[&KeyPair],
    now: Timestamp,
) -> Result<Signed, SignError> {
    finish_targets(root, draft_targets(&Roles::read(root)?, old_root, old, now)?, signers)
}

/// Writes the same list again for the roles of a root, without a signature yet; otherwise as [`renew_targets`].
///
/// # Errors
/// As [`renew_targets`], but for the signers.
pub fn draft_targets(roles: &Roles, old_root: &[u8], old: &[u8], now: Timestamp) -> Result<Draft, SignError> {
    let earlier = checked_targets(old_root, old)?;
    let version = next_number(Role::Targets, &earlier, roles.targets == Roles::read(old_root)?.targets, now)?;
    Draft::new(Body { role: Role::Targets, version, now, fields: earlier.fields })
}

/// Counts on; begins anew at 1 when the role has other keys and the number is one that a thief ran away with.
fn next_number(role: Role, earlier: &Earlier, is_same_authority: bool, now: Timestamp) -> Result<u64, SignError> {
    if !is_same_authority && earlier.version > VERSION_PLAUSIBLE_MAX {
        return Ok(1);
    }
    earlier.next_version_at(role, now)
}

/// Signs a snapshot of these targets and a timestamp of it: what the hub does after each change, and from time to
/// time so that devices know it is alive ([`Role::renewal_due`]).
///
/// `previous` are the snapshot and the timestamp before. The snapshot is signed anew only when the targets changed or
/// half of its life is over; else it comes back as it was.
///
/// # Errors
/// When the targets are not signed by the root's targets keys, when `previous` cannot be read, or when these are not
/// the root's online keys.
pub fn snapshot_and_timestamp(
    root: &[u8],
    previous: Option<(&[u8], &[u8])>,
    targets: &[u8],
    keys: &OnlineKeys,
    now: Timestamp,
) -> Result<(Signed, Signed), SignError> {
    online(root, previous, targets, keys, now, Keep::WhatIsFresh)
}

/// As [`snapshot_and_timestamp`], with a snapshot that is new in any case: its number is above that of every snapshot
/// that was signed before now. For a hub that starts, perhaps from an older copy of its folder.
///
/// # Errors
/// As [`snapshot_and_timestamp`].
pub fn fresh_snapshot_and_timestamp(
    root: &[u8],
    previous: (&[u8], &[u8]),
    targets: &[u8],
    keys: &OnlineKeys,
    now: Timestamp,
) -> Result<(Signed, Signed), SignError> {
    online(root, Some(previous), targets, keys, now, Keep::Nothing)
}

/// Whether a snapshot that is still good comes back as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    WhatIsFresh,
    Nothing,
}

fn online(
    root: &[u8],
    previous: Option<(&[u8], &[u8])>,
    targets: &[u8],
    keys: &OnlineKeys,
    now: Timestamp,
    keep: Keep,
) -> Result<(Signed, Signed), SignError> {
    trust::inspect_targets(root, targets).map_err(refused(Role::Targets))?;
    let roles = Roles::read(root)?;
    let targets = Signed::read(Role::Targets, targets)?;
    let (mut snapshot_version, mut timestamp_version) = (1, 1);
    let mut kept = None;
    if let Some((snapshot, timestamp)) = previous {
        // After a rotation the files before are signed by the old keys.
        let is_signed = |role: Role, bytes: &[u8]| {
            let count = Draft::read(role, bytes)?.count(roles.of(role))?;
            Ok::<bool, SignError>(count >= roles.of(role).threshold)
        };
        let earlier = Earlier::read(Role::Snapshot, snapshot)?;
        let is_ours = is_signed(Role::Snapshot, snapshot)?;
        let pinned = earlier.fields.get("meta").and_then(|meta| meta.get("targets.json"));
        let unchanged = pinned == Some(&reference(&targets));
        let may_keep = keep == Keep::WhatIsFresh && is_ours;
        let is_kept = may_keep && unchanged && !Role::Snapshot.renewal_due(earlier.expires, now);
        // A kept snapshot needs no further number: there may be none.
        snapshot_version = if is_kept { earlier.version } else { next_number(Role::Snapshot, &earlier, is_ours, now)? };
        let before = Earlier::read(Role::Timestamp, timestamp)?;
        timestamp_version = next_number(Role::Timestamp, &before, is_signed(Role::Timestamp, timestamp)?, now)?;
        if is_kept {
            kept = Some(Signed::read(Role::Snapshot, snapshot)?);
        }
    }
    let snapshot = match kept {
        Some(snapshot) => snapshot,
        None => {
            let signers = roles.snapshot.chosen(Role::Snapshot, &[&keys.snapshot])?;
            pointing(Role::Snapshot, snapshot_version, "targets.json", &targets, &signers, now)?
        }
    };
    let signers = roles.timestamp.chosen(Role::Timestamp, &[&keys.timestamp])?;
    let timestamp = pointing(Role::Timestamp, timestamp_version, "snapshot.json", &snapshot, &signers, now)?;
    Ok((snapshot, timestamp))
}

fn pointing(
    role: Role,
    version: u64,
    name: &str,
    to: &Signed,
    signers: &[&KeyPair],
    now: Timestamp,
) -> Result<Signed, SignError> {
    let mut fields = Map::new();
    fields.insert("meta".to_owned(), json!({name: reference(to)}));
    sign(Body { role, version, now, fields }, signers)
}

fn checked_targets(root: &[u8], targets: &[u8]) -> Result<Earlier, SignError> {
    trust::inspect_targets(root, targets).map_err(refused(Role::Targets))?;
    Earlier::read(Role::Targets, targets)
}

fn sign_targets(
    root: &[u8],
    version: u64,
    fields: Map<String, Value>,
    signers: &[&KeyPair],
    now: Timestamp,
) -> Result<Signed, SignError> {
    finish_targets(root, Draft::new(Body { role: Role::Targets, version, now, fields })?, signers)
}

fn finish_targets(root: &[u8], mut draft: Draft, signers: &[&KeyPair]) -> Result<Signed, SignError> {
    trust::inspect_root(root).map_err(refused(Role::Root))?;
    for signer in Roles::read(root)?.targets.chosen(Role::Targets, signers)? {
        draft.sign(signer)?;
    }
    let targets = draft.to_signed()?;
    trust::inspect_targets(root, &targets.bytes).map_err(refused(Role::Targets))?;
    Ok(targets)
}

pub(super) fn refused(role: Role) -> impl FnOnce(trust::TrustError) -> SignError {
    move |source| SignError::Refused { role: role.as_str(), source }
}
