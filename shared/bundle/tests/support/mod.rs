//! A hub with files in memory and its keys, signed by the real signer.

#![expect(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bundle::trust::{MetadataSource, SourceError, Trust, TrustError, Trusted};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use model_tools::sign::{self, Authority, InitialKeys, KeyPair, Roles, Signed};
use tempfile::TempDir;
use types::{ModelName, Version};

pub(crate) fn now() -> Timestamp {
    "2026-11-01T12:00:00Z".parse().unwrap()
}

pub(crate) fn later(days: i64) -> Timestamp {
    now() + SignedDuration::from_hours(days * 24)
}

pub(crate) fn digits() -> ModelName {
    "digits".parse().unwrap()
}

pub(crate) fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

pub(crate) fn rollback_of(error: &TrustError) -> &str {
    match error {
        TrustError::Rollback { role, .. } => role,
        other => panic!("expected a rollback, not {other:?}"),
    }
}

/// Files by name; a test may add any content.
#[derive(Default)]
pub(crate) struct Shelf {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    asked: Mutex<Vec<String>>,
}

impl Shelf {
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        self.files.lock().unwrap().insert(name.to_owned(), bytes.to_vec());
    }

    pub(crate) fn publish(&self, signed: &Signed) {
        self.put(&signed.file_name(), &signed.bytes);
    }

    pub(crate) fn take(&self, name: &str) -> Option<Vec<u8>> {
        self.files.lock().unwrap().remove(name)
    }

    pub(crate) fn get(&self, name: &str) -> Vec<u8> {
        self.files.lock().unwrap()[name].clone()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.files.lock().unwrap().keys().cloned().collect()
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

#[async_trait]
impl MetadataSource for Shelf {
    async fn fetch(&self, name: &str, _bytes_max: u64) -> Result<Option<Bytes>, SourceError> {
        self.asked.lock().unwrap().push(name.to_owned());
        Ok(self.files.lock().unwrap().get(name).cloned().map(Bytes::from))
    }
}

/// A repository with all its keys.
pub(crate) struct World {
    pub(crate) keys: InitialKeys,
    pub(crate) root: Signed,
    pub(crate) targets: Signed,
    pub(crate) snapshot: Signed,
    pub(crate) timestamp: Signed,
    pub(crate) shelf: Arc<Shelf>,
}

impl World {
    pub(crate) fn new() -> Self {
        let keys = InitialKeys::generate().unwrap();
        let made = sign::init_repository(&keys, now()).unwrap();
        let shelf = Arc::new(Shelf::default());
        made.files().into_iter().for_each(|file| shelf.publish(file));
        let sign::Repository { root, targets, snapshot, timestamp } = made;
        Self { keys, root, targets, snapshot, timestamp, shelf }
    }

    /// Signs a manifest and publishes the new metadata.
    pub(crate) fn add(&mut self, path: &str, content: &[u8], at: Timestamp) {
        let old = &self.targets.bytes;
        let targets = sign::add_target(&self.root.bytes, old, path, content, &[&self.keys.targets], at).unwrap();
        self.publish(targets, at);
    }

    /// Publishes these targets with a new snapshot and timestamp.
    pub(crate) fn publish(&mut self, targets: Signed, at: Timestamp) {
        self.targets = targets;
        self.beat(at);
    }

    /// Signs snapshot and timestamp again.
    pub(crate) fn beat(&mut self, at: Timestamp) {
        let (snapshot, timestamp) = self.online(&self.targets.bytes.clone(), at);
        self.snapshot = snapshot;
        self.timestamp = timestamp;
        for signed in [&self.targets, &self.snapshot, &self.timestamp] {
            self.shelf.publish(signed);
        }
    }

    /// Signs a new snapshot and timestamp for any signed targets, as the holder of the online keys can.
    pub(crate) fn online(&self, targets: &[u8], at: Timestamp) -> (Signed, Signed) {
        let previous = Some((self.snapshot.bytes.as_slice(), self.timestamp.bytes.as_slice()));
        sign::snapshot_and_timestamp(&self.root.bytes, previous, targets, &self.keys.online, at).unwrap()
    }

    pub(crate) fn roles(&self) -> Roles {
        Roles {
            root: Authority::of(self.keys.root.public()),
            targets: Authority::of(self.keys.targets.public()),
            snapshot: Authority::of(self.keys.online.snapshot.public()),
            timestamp: Authority::of(self.keys.online.timestamp.public()),
        }
    }

    /// Publishes the next root.
    pub(crate) fn rotate(&mut self, roles: &Roles, signers: &[&KeyPair]) {
        self.root = sign::next_root(&self.root.bytes, roles, signers, now()).unwrap();
        self.shelf.publish(&self.root);
    }

    pub(crate) fn device(&self) -> Device {
        Device::new(&self.root.bytes)
    }
}

/// Trust of a device in a temporary folder.
pub(crate) struct Device {
    pub(crate) folder: TempDir,
    pub(crate) root: Vec<u8>,
    pub(crate) trust: Trust,
}

impl Device {
    pub(crate) fn new(root: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let trust = Trust::open(&folder.path().join("trust"), root).unwrap();
        Self { folder, root: root.to_vec(), trust }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("trust")
    }

    /// Reopens the folder, as after a restart.
    pub(crate) fn reopen(&mut self) {
        self.trust = Trust::open(&self.path(), &self.root).unwrap();
    }

    pub(crate) async fn refresh(&self, shelf: &Arc<Shelf>, at: Timestamp) -> Result<Trusted, TrustError> {
        self.trust.refresh(Arc::clone(shelf) as Arc<dyn MetadataSource>, at).await
    }
}
