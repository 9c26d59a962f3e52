//! Content of verified metadata: the list of signed manifests.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use sigstore_tuf::{Metadata, Root, Targets, TrustedMetadataSet};
use types::{Digest, ModelName, Version};

use super::error::refused;
use super::folder::SetFiles;
use super::{TrustError, root};
use crate::file::MANIFEST_FILE;
use crate::manifest::MANIFEST_BYTES_MAX;

/// Length and digest of a signed manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetRef {
    /// Size in bytes, at most [`MANIFEST_BYTES_MAX`].
    pub length: u64,
    /// Digest of the manifest.
    pub digest: Digest,
}

/// Content of a `targets.json` whose signatures were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetsListing {
    /// Version of the targets.
    pub version: u64,
    /// Expiry of the targets.
    pub expires: Timestamp,
    /// Listed manifests by model and version.
    pub manifests: BTreeMap<ModelName, BTreeMap<Version, TargetRef>>,
}

/// The manifests that the offline keys signed, from one set of metadata that verified as a whole.
///
/// Cheap to clone; does not change when its [`super::Trust`] is refreshed.
#[derive(Debug, Clone)]
pub struct Trusted(Arc<Content>);

#[derive(Debug, Clone)]
struct Content {
    root_version: u64,
    timestamp_version: u64,
    snapshot_version: u64,
    targets: TargetsListing,
    expiries: Expiries,
    clock_behind: Option<SignedDuration>,
}

/// Expiry of each of the four roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiries {
    /// Expiry of the root; only the operator can renew it.
    pub root: Timestamp,
    /// Expiry of the targets; only the operator can renew them.
    pub targets: Timestamp,
    /// Expiry of the snapshot; the hub renews it.
    pub snapshot: Timestamp,
    /// Expiry of the timestamp; the hub renews it.
    pub timestamp: Timestamp,
}

impl Expiries {
    /// Returns every role by its name in metadata, with its expiry.
    #[must_use]
    pub fn roles(&self) -> [(&'static str, Timestamp); 4] {
        let Self { root, targets, snapshot, timestamp } = *self;
        [("root", root), ("targets", targets), ("snapshot", snapshot), ("timestamp", timestamp)]
    }

    /// Returns the role that expires first, with its expiry.
    #[must_use]
    pub fn first(&self) -> (&'static str, Timestamp) {
        let [root, others @ ..] = self.roles();
        others.into_iter().fold(root, |first, role| if role.1 < first.1 { role } else { first })
    }
}

impl Trusted {
    pub(super) fn of(set: &TrustedMetadataSet) -> Result<Self, TrustError> {
        let timestamp = set.timestamp().ok_or(TrustError::Incomplete)?;
        let snapshot = set.snapshot().ok_or(TrustError::Incomplete)?;
        let targets = listing(set.targets_role("targets").ok_or(TrustError::Incomplete)?);
        let expiries = Expiries {
            root: set.root().expires,
            targets: targets.expires,
            snapshot: snapshot.expires,
            timestamp: timestamp.expires,
        };
        Ok(Self(Arc::new(Content {
            root_version: set.root().version,
            timestamp_version: timestamp.version,
            snapshot_version: snapshot.version,
            targets,
            expiries,
            clock_behind: None,
        })))
    }

    pub(super) fn with_clock_behind(self, behind: SignedDuration) -> Self {
        let clock_behind = behind.is_positive().then_some(behind);
        Self(Arc::new(Content { clock_behind, ..Arc::unwrap_or_clone(self.0) }))
    }

    /// Returns size and digest of the signed manifest of a version.
    ///
    /// # Errors
    /// Returns [`TrustError::NotListed`] if the version is not signed.
    pub fn manifest(&self, model: &ModelName, version: Version) -> Result<TargetRef, TrustError> {
        let found = self.0.targets.manifests.get(model).and_then(|versions| versions.get(&version));
        found.copied().ok_or_else(|| TrustError::NotListed { model: model.clone(), version })
    }

    /// Returns the newest signed version of a model.
    #[must_use]
    pub fn latest_version(&self, model: &ModelName) -> Option<Version> {
        self.0.targets.manifests.get(model)?.keys().next_back().copied()
    }

    /// Returns every signed version of a model, oldest first.
    pub fn versions(&self, model: &ModelName) -> impl Iterator<Item = Version> {
        self.0.targets.manifests.get(model).into_iter().flat_map(BTreeMap::keys).copied()
    }

    /// Returns every model with a signed version.
    pub fn models(&self) -> impl Iterator<Item = &ModelName> {
        self.0.targets.manifests.keys()
    }

    /// Returns the earliest expiry of a part of this set.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.0.expiries.first().1
    }

    /// Returns the expiry of each role.
    #[must_use]
    pub fn expiries(&self) -> Expiries {
        self.0.expiries
    }

    /// Returns the time by which this machine's clock was before the last trusted time; `None` if it was not.
    #[must_use]
    pub fn clock_behind(&self) -> Option<SignedDuration> {
        self.0.clock_behind
    }

    /// Returns the version of the root.
    #[must_use]
    pub fn root_version(&self) -> u64 {
        self.0.root_version
    }

    /// Returns the version of the timestamp.
    #[must_use]
    pub fn timestamp_version(&self) -> u64 {
        self.0.timestamp_version
    }

    /// Returns the version of the snapshot.
    #[must_use]
    pub fn snapshot_version(&self) -> u64 {
        self.0.snapshot_version
    }

    /// Returns the version of the targets.
    #[must_use]
    pub fn targets_version(&self) -> u64 {
        self.0.targets.version
    }
}

/// Checks a single root and returns its version: the rules of this project for keys, and the signatures of its own
/// keys.
///
/// # Errors
/// Fails if it is not acceptable.
pub fn inspect_root(root: &[u8]) -> Result<u64, TrustError> {
    root::accept(root)?;
    Ok(TrustedMetadataSet::from_root(root).map_err(refused)?.root().version)
}

/// Checks that devices that trust `root` will accept `next` after it.
///
/// # Errors
/// Fails if it is not the next version, or not signed by enough keys of both.
pub fn check_next_root(root: &[u8], next: &[u8]) -> Result<(), TrustError> {
    root::accept(next)?;
    TrustedMetadataSet::from_root(root).and_then(|mut set| set.update_root(next)).map_err(refused)
}

/// Verifies a whole set against a root and lists its signed manifests. Ignores expiry: the caller decides about that.
///
/// For the hub, which continues to serve signed metadata after the signatures have expired.
///
/// # Errors
/// Fails if the root is not acceptable, or a file is not signed by enough of its keys or does not match the others.
pub fn inspect_set(root: &[u8], timestamp: &[u8], snapshot: &[u8], targets: &[u8]) -> Result<Trusted, TrustError> {
    root::accept(root)?;
    let files = SetFiles { timestamp: timestamp.to_vec(), snapshot: snapshot.to_vec(), targets: targets.to_vec() };
    Trusted::of(&super::verify_set(root, &files)?)
}

/// Reads a `targets.json` that is signed by enough of the root's targets keys. Does not check its freshness.
///
/// For the signer, who must not add to a forged list, and for the hub, which must not publish metadata that devices
/// would refuse.
///
/// # Errors
/// Fails if the root is not acceptable, or the targets are not signed by enough of its keys.
pub fn inspect_targets(root: &[u8], targets: &[u8]) -> Result<TargetsListing, TrustError> {
    root::accept(root)?;
    let root = TrustedMetadataSet::from_root(root).map_err(refused)?;
    let root: &Root = root.root();
    let role = root.role("targets").ok_or(TrustError::Incomplete)?;
    let targets = Metadata::<Targets>::from_slice(targets).map_err(refused)?;
    targets.verify_threshold(&root.keys, role, "targets").map_err(refused)?;
    Ok(listing(targets.signed()))
}

fn listing(targets: &Targets) -> TargetsListing {
    let mut manifests: BTreeMap<ModelName, BTreeMap<Version, TargetRef>> = BTreeMap::new();
    for (path, target) in &targets.targets {
        // Later versions may list other targets; this version ignores them.
        let Some((model, version)) = parse_path(path) else { continue };
        let bytes_max = u64::try_from(MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
        let digest = target.hashes.get("sha256").and_then(|hex| format!("sha256:{hex}").parse().ok());
        let Some(digest) = digest.filter(|_| target.length <= bytes_max) else {
            tracing::warn!(path, "signed manifest has no SHA-256 or is too long: ignored");
            continue;
        };
        manifests.entry(model).or_default().insert(version, TargetRef { length: target.length, digest });
    }
    TargetsListing { version: targets.version, expires: targets.expires, manifests }
}

fn parse_path(path: &str) -> Option<(ModelName, Version)> {
    let mut parts = path.split('/');
    let (model, version, file) = (parts.next()?, parts.next()?, parts.next()?);
    (file == MANIFEST_FILE && parts.next().is_none()).then_some(())?;
    Some((model.parse().ok()?, version.parse().ok()?))
}
