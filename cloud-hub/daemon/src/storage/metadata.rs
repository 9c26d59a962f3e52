//! Signed metadata on the hub's disk: what devices fetch, and how it is signed anew.
//!
//! The folder holds `N.root.json`, `N.targets.json` (offline keys), `N.snapshot.json` and `timestamp.json` (online
//! keys). The timestamp is written last: until then nobody sees the rest. Nothing is written that a device would refuse
//! ([`Metadata::prove`]). New roots and new online keys are [`super::rotation`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use bundle::trust::{self, MetadataSource, SourceError, Trust, TrustError, Trusted};
use bytes::Bytes;
use jiff::Timestamp;
use model_tools::sign::{
    KeyPair, OnlineKeys, Role, Roles, SignError, Signed, fresh_snapshot_and_timestamp, snapshot_and_timestamp,
};
use store::files::{self, FileError, Mode};

use super::rotation;
use crate::storage::folder::Folder;

/// Largest metadata file that is read from our own disk: the largest that devices take.
const METADATA_BYTES_MAX: u64 = trust::TARGETS_BYTES_MAX;

/// The name of a metadata file as operators and devices may ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataName {
    /// The root in force.
    Root,
    /// The targets that the timestamp leads to.
    Targets,
    /// A file by its own name, like `3.snapshot.json`.
    File(String),
}

/// A text that names no metadata file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("that is no name of a metadata file: use root.json, targets.json, timestamp.json or like 3.root.json")]
pub struct NotMetadata;

impl std::str::FromStr for MetadataName {
    type Err = NotMetadata;
    fn from_str(text: &str) -> Result<Self, NotMetadata> {
        match text {
            "root.json" => Ok(Self::Root),
            "targets.json" => Ok(Self::Targets),
            text if trust::is_metadata_name(text) => Ok(Self::File(text.to_owned())),
            _ => Err(NotMetadata),
        }
    }
}

/// Error for metadata that cannot be read or signed.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The disk cannot be used.
    #[error("use the hub's signed metadata")]
    File(#[from] FileError),
    /// The folder cannot be listed.
    #[error("list the hub's signed metadata")]
    List(#[source] std::io::Error),
    /// A file that must be there is not, or is no metadata.
    #[error("signed metadata {0} is missing or damaged: restore the hub's folder `trust` from a backup")]
    Damaged(String),
    /// The metadata cannot be signed.
    #[error("sign metadata")]
    Sign(#[from] SignError),
    /// The metadata to publish does not verify.
    #[error("check metadata as a device would")]
    Refused(#[from] TrustError),
    /// A signature of the offline keys has expired, so that devices refuse whatever is published.
    #[error("the trust {} expired at {expires}: nothing can be published", role.as_str())]
    Expired {
        /// Role: root or targets.
        role: Role,
        /// Expiry of the signature.
        expires: Timestamp,
    },
    /// The hub has no online keys that it can sign with.
    #[error("use the hub's online keys: {0}")]
    NoOnlineKeys(String),
    /// The new root names online keys that this hub does not have.
    #[error("the new root names online keys that this hub does not have: prepare the change again")]
    ForeignOnlineKeys,
    /// The change was made from something else than what is in force.
    #[error("the change does not follow what is in force at the hub: {0}")]
    NotNext(&'static str),
}

/// Command that renews what only the operator can renew.
pub const RENEW_COMMAND: &str = "cloud-hub trust renew --keys DIR";

impl MetadataError {
    /// Returns whether the offered metadata is at fault, and not the hub.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Refused(error) => error.is_refusal(),
            Self::Sign(SignError::Refused { source, .. }) => source.is_refusal(),
            Self::ForeignOnlineKeys | Self::NotNext(_) => true,
            Self::Sign(_)
            | Self::File(_)
            | Self::List(_)
            | Self::Damaged(_)
            | Self::Expired { .. }
            | Self::NoOnlineKeys(_) => false,
        }
    }

    /// The command to run when publishing stopped; `None` when no command of the operator mends it.
    #[must_use]
    pub fn command(&self) -> Option<&'static str> {
        match self {
            Self::Expired { .. } | Self::Refused(TrustError::Expired { .. }) => Some(RENEW_COMMAND),
            Self::NoOnlineKeys(_)
            | Self::Sign(SignError::NotEnoughSigners { .. } | SignError::VersionsExhausted(_)) => {
                Some("cloud-hub trust rotate online --keys DIR")
            }
            Self::Sign(_)
            | Self::File(_)
            | Self::List(_)
            | Self::Damaged(_)
            | Self::Refused(_)
            | Self::ForeignOnlineKeys
            | Self::NotNext(_) => None,
        }
    }
}

/// The newest file of each role.
#[derive(Debug, Clone)]
pub struct Current {
    /// Signed root, as its bytes.
    pub root: Vec<u8>,
    /// The signed list of manifests.
    pub targets: Signed,
    /// The snapshot, which names the newest targets.
    pub snapshot: Signed,
    /// That this is the latest snapshot.
    pub timestamp: Signed,
}

impl Current {
    /// Refuses to publish under an offline signature that has expired: devices would refuse it.
    ///
    /// # Errors
    /// [`MetadataError::Expired`] with the date; [`MetadataError::command`] says what to do.
    pub fn require_fresh(&self, now: Timestamp) -> Result<(), MetadataError> {
        let root = Signed::read(Role::Root, &self.root)?;
        for (role, expires) in [(Role::Root, root.expires), (Role::Targets, self.targets.expires)] {
            if expires < now {
                return Err(MetadataError::Expired { role, expires });
            }
        }
        Ok(())
    }

    /// Lists what is signed, whether or not it has expired.
    ///
    /// # Errors
    /// When the files do not verify under the root.
    pub fn listed(&self) -> Result<Trusted, MetadataError> {
        let [timestamp, snapshot, targets] = [&self.timestamp, &self.snapshot, &self.targets].map(|file| &file.bytes);
        Ok(trust::inspect_set(&self.root, timestamp, snapshot, targets)?)
    }
}

/// The hub's metadata folder and the keys that sign in it.
#[derive(Debug)]
pub struct Metadata {
    pub(crate) folder: Folder,
    /// Replaced by a rotation; the text says why there are none.
    keys: RwLock<Result<Arc<OnlineKeys>, String>>,
}

impl Metadata {
    /// Opens the folder, finishes a change that was cut off, and loads the online keys.
    ///
    /// Keys that cannot be used are no error here: the hub answers without them, and [`Metadata::sign`] says why it cannot.
    ///
    /// # Errors
    /// When a change that was cut off cannot be finished.
    pub fn open(folder: Folder) -> Result<Self, MetadataError> {
        rotation::finish(&folder)?;
        let keys = RwLock::new(load_keys(&folder));
        Ok(Self { folder, keys })
    }

    /// Loads the online keys again, after a rotation replaced their files.
    pub(crate) fn reload_keys(&self) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = load_keys(&self.folder);
    }

    /// The keys that the hub signs with.
    pub(crate) fn keys(&self) -> Result<Arc<OnlineKeys>, MetadataError> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone().map_err(MetadataError::NoOnlineKeys)
    }

    /// A file by name; `None` when there is none.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn get(&self, name: &MetadataName) -> Result<Option<Bytes>, MetadataError> {
        match name {
            MetadataName::Root => Ok(Some(self.root()?.into())),
            MetadataName::Targets => Ok(Some(self.current()?.targets.bytes.into())),
            MetadataName::File(name) => {
                match files::read_bounded(&self.folder.metadata().join(name), METADATA_BYTES_MAX) {
                    Ok(bytes) => Ok(Some(bytes.into())),
                    Err(error) if error.is_not_found() => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// The root in force.
    ///
    /// # Errors
    /// When there is none, one between the oldest and the newest is missing, or the disk fails.
    pub fn root(&self) -> Result<Vec<u8>, MetadataError> {
        let newest = self.root_versions()?.pop().ok_or_else(|| MetadataError::Damaged("1.root.json".to_owned()))?;
        self.read(&Role::Root.file_name(newest))
    }

    /// Versions of the roots in the folder, oldest first, without a gap.
    pub(crate) fn root_versions(&self) -> Result<Vec<u64>, MetadataError> {
        let mut versions = Vec::new();
        for entry in std::fs::read_dir(self.folder.metadata()).map_err(MetadataError::List)? {
            let name = entry.map_err(MetadataError::List)?.file_name();
            versions.extend(name.to_str().and_then(|name| name.strip_suffix(".root.json")?.parse::<u64>().ok()));
        }
        versions.sort_unstable();
        // Devices follow one root after the other: behind a gap they are lost.
        let gap = versions.windows(2).find(|pair| pair[0].checked_add(1) != Some(pair[1]));
        match gap {
            Some(pair) => Err(MetadataError::Damaged(Role::Root.file_name(pair[0].saturating_add(1)))),
            None => Ok(versions),
        }
    }

    /// Returns the metadata that the timestamp leads to.
    ///
    /// # Errors
    /// When a link of the chain is missing, or the disk fails.
    pub fn current(&self) -> Result<Current, MetadataError> {
        let timestamp = Signed::read(Role::Timestamp, &self.read("timestamp.json")?)?;
        let snapshot = self.follow(&timestamp, "snapshot.json", Role::Snapshot)?;
        let targets = self.follow(&snapshot, "targets.json", Role::Targets)?;
        Ok(Current { root: self.root()?, targets, snapshot, timestamp })
    }

    /// Signs snapshot and timestamp over these targets (or the present ones), without writing anything.
    ///
    /// # Errors
    /// When the targets are not signed by enough of their keys, an offline signature has expired, or signing fails.
    pub fn sign(&self, targets: Option<&[u8]>, now: Timestamp) -> Result<Current, MetadataError> {
        let before = self.current()?;
        let targets = match targets {
            Some(bytes) => Signed::read(Role::Targets, bytes)?,
            None => before.targets.clone(),
        };
        let keys = self.keys()?;
        let root = before.root.clone();
        self.sign_with(&before, root, targets, &keys, now)
    }

    /// Signs a new snapshot and timestamp over the present targets, numbered above all that devices have seen: the folder
    /// may be an older copy. `None` when this clock would shorten what is signed, as one that is behind does. Writes
    /// nothing.
    ///
    /// # Errors
    /// As [`Metadata::sign`].
    pub fn sign_afresh(&self, now: Timestamp) -> Result<Option<Current>, MetadataError> {
        let before = self.current()?;
        let previous = (before.snapshot.bytes.as_slice(), before.timestamp.bytes.as_slice());
        let keys = self.keys()?;
        let (snapshot, timestamp) =
            fresh_snapshot_and_timestamp(&before.root, previous, &before.targets.bytes, &keys, now)?;
        if snapshot.expires < before.snapshot.expires || timestamp.expires < before.timestamp.expires {
            return Ok(None);
        }
        let set = Current { root: before.root, targets: before.targets, snapshot, timestamp };
        set.require_fresh(now)?;
        Ok(Some(set))
    }

    /// Signs snapshot and timestamp for a root and targets that follow `before`.
    pub(crate) fn sign_with(
        &self,
        before: &Current,
        root: Vec<u8>,
        targets: Signed,
        keys: &OnlineKeys,
        now: Timestamp,
    ) -> Result<Current, MetadataError> {
        let previous = Some((before.snapshot.bytes.as_slice(), before.timestamp.bytes.as_slice()));
        let (snapshot, timestamp) = snapshot_and_timestamp(&root, previous, &targets.bytes, keys, now)?;
        let set = Current { root, targets, snapshot, timestamp };
        set.require_fresh(now)?;
        Ok(set)
    }

    /// Verifies a set as a device does that has slept since the oldest root there is.
    ///
    /// # Errors
    /// When a device would refuse it.
    ///
    /// # Cancel safety
    /// Leaves a folder behind that the next call empties.
    pub async fn prove(&self, set: &Current, now: Timestamp) -> Result<Trusted, MetadataError> {
        let folder = self.folder.trusted();
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(MetadataError::List(error)),
            Ok(()) | Err(_) => {}
        }
        files::create_dir(&folder)?;
        let staged = [&set.targets, &set.snapshot, &set.timestamp];
        let mut staged = BTreeMap::from(staged.map(|file| (file.file_name(), Bytes::from(file.bytes.clone()))));
        let root = Signed::read(Role::Root, &set.root)?;
        staged.insert(root.file_name(), root.bytes.into());
        let source: Arc<dyn MetadataSource> = Arc::new(Overlay { folder: self.folder.metadata(), staged });
        let oldest = self.root_versions()?.first().copied().unwrap_or(root.version);
        let trust = Trust::open(&folder, &self.read(&Role::Root.file_name(oldest))?)?;
        loop {
            match trust.refresh(Arc::clone(&source), now).await {
                // A chain of thousands is taken piece by piece; each try goes on from where the last one ended.
                Err(TrustError::ManyRoots) => {}
                proven => return Ok(proven?),
            }
        }
    }

    /// Makes a set what devices fetch.
    ///
    /// # Errors
    /// When the disk refuses; devices then still see the set before.
    pub fn publish(&self, set: &Current) -> Result<(), MetadataError> {
        // The timestamp last: it is what makes the others seen.
        for file in [&set.targets, &set.snapshot, &set.timestamp] {
            files::write_atomic(&self.folder.metadata().join(file.file_name()), &file.bytes, Mode::Shared)?;
        }
        Ok(())
    }

    /// Returns whether snapshot or timestamp should be signed anew.
    ///
    /// # Errors
    /// As [`Metadata::current`].
    pub fn renewal_due(&self, now: Timestamp) -> Result<bool, MetadataError> {
        let current = self.current()?;
        let due = |file: &Signed| file.role.renewal_due(file.expires, now);
        Ok(due(&current.timestamp) || due(&current.snapshot))
    }

    /// Returns whether snapshot or timestamp were signed by a clock that was far ahead of this one.
    ///
    /// # Errors
    /// As [`Metadata::current`].
    pub fn is_signed_too_long(&self, now: Timestamp) -> Result<bool, MetadataError> {
        let current = self.current()?;
        let too_long = |file: &Signed| file.role.is_too_long(file.expires, now);
        Ok(too_long(&current.timestamp) || too_long(&current.snapshot))
    }

    /// Reads keys and thresholds of the newest root.
    ///
    /// # Errors
    /// When there is no root.
    pub fn roles(&self) -> Result<Roles, MetadataError> {
        Ok(Roles::read(&self.root()?)?)
    }

    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>, MetadataError> {
        let bytes = files::read_bounded(&self.folder.metadata().join(name), METADATA_BYTES_MAX);
        bytes.map_err(|error| if error.is_not_found() { MetadataError::Damaged(name.to_owned()) } else { error.into() })
    }

    /// Reads the file that another one points to.
    fn follow(&self, from: &Signed, name: &str, role: Role) -> Result<Signed, MetadataError> {
        let value: serde_json::Value =
            serde_json::from_slice(&from.bytes).map_err(|_broken| MetadataError::Damaged(from.file_name()))?;
        let version = value["signed"]["meta"][name]["version"].as_u64();
        let version = version.ok_or_else(|| MetadataError::Damaged(from.file_name()))?;
        Ok(Signed::read(role, &self.read(&role.file_name(version))?)?)
    }
}

/// File name of the timestamp, the one file of the metadata whose name has no version.
pub const TIMESTAMP_FILE: &str = "timestamp.json";
/// File name of the key that signs snapshots.
pub const SNAPSHOT_KEY: &str = "snapshot.key";
/// File name of the key that signs timestamps.
pub const TIMESTAMP_KEY: &str = "timestamp.key";

fn load_keys(folder: &Folder) -> Result<Arc<OnlineKeys>, String> {
    let key = |name: &str| KeyPair::load(&folder.online_keys().join(name)).map_err(|error| telemetry::chain(&error));
    Ok(Arc::new(OnlineKeys { snapshot: key(SNAPSHOT_KEY)?, timestamp: key(TIMESTAMP_KEY)? }))
}

/// New files laid over the folder.
struct Overlay {
    folder: PathBuf,
    staged: BTreeMap<String, Bytes>,
}

#[async_trait]
impl MetadataSource for Overlay {
    async fn fetch(&self, name: &str, bytes_max: u64) -> Result<Option<Bytes>, SourceError> {
        if let Some(bytes) = self.staged.get(name) {
            return Ok(Some(bytes.clone()));
        }
        if !trust::is_metadata_name(name) {
            return Ok(None);
        }
        match files::read_bounded(&self.folder.join(name), bytes_max) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(SourceError::new(error)),
        }
    }
}
