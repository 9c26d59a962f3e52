//! Signed metadata on the hub's disk: what devices fetch, and how it is signed anew.
//!
//! The folder holds `N.root.json`, `N.targets.json` (offline keys), `N.snapshot.json` and `timestamp.json` (online
//! keys). The timestamp is written last: until then nobody sees the rest. Nothing is written that a device would refuse
//! ([`Metadata::prove`]).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bundle::trust::{self, MetadataSource, SourceError, Trust, TrustError, Trusted};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use model_tools::sign::{
    KeyPair, OnlineKeys, Role, SignError, Signed, fresh_snapshot_and_timestamp, snapshot_and_timestamp,
};
use store::files::{self, FileError, Mode};

use crate::state::Folder;

/// Largest metadata file that is read from our own disk: the largest that devices take.
const METADATA_BYTES_MAX: u64 = trust::TARGETS_BYTES_MAX;

/// The name of a metadata file as operators and devices may ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataName {
    /// The newest root.
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

/// Why metadata could not be read or signed.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The disk.
    #[error("use the hub's signed metadata")]
    File(#[from] FileError),
    /// The folder cannot be listed.
    #[error("list the hub's signed metadata")]
    List(#[source] std::io::Error),
    /// A file that must be there is not, or is no metadata.
    #[error("signed metadata {0} is missing or damaged: restore the hub's folder `trust` from a backup")]
    Damaged(String),
    /// Signing failed.
    #[error("sign metadata")]
    Sign(#[from] SignError),
    /// What would be published does not verify.
    #[error("check metadata as a device would")]
    Refused(#[from] TrustError),
}

impl MetadataError {
    /// Whether the offered metadata is at fault, and not the hub.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Refused(error) => error.is_refusal(),
            Self::Sign(SignError::Refused { source, .. }) => source.is_refusal(),
            Self::Sign(_) | Self::File(_) | Self::List(_) | Self::Damaged(_) => false,
        }
    }
}

/// The newest file of each role.
#[derive(Debug, Clone)]
pub struct Current {
    /// Who may sign what.
    pub root: Vec<u8>,
    /// Which manifests are signed.
    pub targets: Signed,
    /// Which targets are the latest.
    pub snapshot: Signed,
    /// That this is the latest snapshot.
    pub timestamp: Signed,
}

impl Current {
    /// What the operator must sign anew soon, because the hub cannot.
    #[must_use]
    pub fn offline_warnings(&self, now: Timestamp) -> Vec<String> {
        let root = Signed::read(Role::Root, &self.root).map(|root| root.expires);
        let ends = [("trust root", root.ok()), ("signed list of versions", Some(self.targets.expires))];
        let soon = ends.into_iter().filter_map(|(what, expires)| {
            let expires = expires.filter(|expires| expires.duration_since(now) < OFFLINE_NOTICE)?;
            Some(format!(
                "the {what} ends {expires}: sign it anew with the offline keys, or devices refuse updates then"
            ))
        });
        soon.collect()
    }
}

/// How long before their end the operator is told of offline signatures: time to fetch a key from a safe.
const OFFLINE_NOTICE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The hub's metadata folder and the keys that sign in it.
#[derive(Debug)]
pub struct Metadata {
    folder: Folder,
    keys: OnlineKeys,
}

impl Metadata {
    /// Opens the folder and loads the online keys.
    ///
    /// # Errors
    /// When a key cannot be used.
    pub fn open(folder: Folder) -> Result<Self, MetadataError> {
        let key = |name: &str| KeyPair::load(&folder.online_keys().join(name));
        let keys = OnlineKeys { snapshot: key(SNAPSHOT_KEY)?, timestamp: key(TIMESTAMP_KEY)? };
        Ok(Self { folder, keys })
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

    /// The newest root.
    ///
    /// # Errors
    /// When there is none, or the disk fails.
    pub fn root(&self) -> Result<Vec<u8>, MetadataError> {
        let mut newest = None;
        for entry in std::fs::read_dir(self.folder.metadata()).map_err(MetadataError::List)? {
            let name = entry.map_err(MetadataError::List)?.file_name();
            let version = name.to_str().and_then(|name| name.strip_suffix(".root.json")?.parse::<u64>().ok());
            newest = newest.max(version);
        }
        let newest = newest.ok_or_else(|| MetadataError::Damaged("1.root.json".to_owned()))?;
        self.read(&Role::Root.file_name(newest))
    }

    /// What the timestamp leads to.
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
    /// When the targets are not signed by enough of their keys, or signing fails.
    pub fn sign(&self, targets: Option<&[u8]>, now: Timestamp) -> Result<Current, MetadataError> {
        let before = self.current()?;
        let previous = Some((before.snapshot.bytes.as_slice(), before.timestamp.bytes.as_slice()));
        let targets = match targets {
            Some(bytes) => Signed::read(Role::Targets, bytes)?,
            None => before.targets,
        };
        let (snapshot, timestamp) = snapshot_and_timestamp(&before.root, previous, &targets.bytes, &self.keys, now)?;
        Ok(Current { root: before.root, targets, snapshot, timestamp })
    }

    /// Signs a new snapshot and timestamp over the present targets, numbered above all that devices have seen: the folder
    /// may be an older copy. Writes nothing.
    ///
    /// # Errors
    /// As [`Metadata::sign`].
    pub fn sign_afresh(&self, now: Timestamp) -> Result<Current, MetadataError> {
        let before = self.current()?;
        let previous = (before.snapshot.bytes.as_slice(), before.timestamp.bytes.as_slice());
        let (snapshot, timestamp) =
            fresh_snapshot_and_timestamp(&before.root, previous, &before.targets.bytes, &self.keys, now)?;
        Ok(Current { root: before.root, targets: before.targets, snapshot, timestamp })
    }

    /// Verifies a set as a device does that has nothing but the root.
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
        let staged = staged.map(|file| (file.file_name(), Bytes::from(file.bytes.clone())));
        let source = Overlay { folder: self.folder.metadata(), staged: BTreeMap::from(staged) };
        let trust = Trust::open(&folder, &set.root)?;
        Ok(trust.refresh(Arc::new(source), now).await?)
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

    /// Whether snapshot or timestamp should be signed anew.
    ///
    /// # Errors
    /// As [`Metadata::current`].
    pub fn renewal_due(&self, now: Timestamp) -> Result<bool, MetadataError> {
        let current = self.current()?;
        Ok(Role::Timestamp.renewal_due(current.timestamp.expires, now)
            || Role::Snapshot.renewal_due(current.snapshot.expires, now))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, MetadataError> {
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
