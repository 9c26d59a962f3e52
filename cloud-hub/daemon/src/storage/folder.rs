//! The hub's folder: what lies where, who holds it, and what the hub says about where it listens.

use std::path::{Path, PathBuf};

use store::files::{self, FileError};
use store::{LockError, StateLock};
use types::Digest;

use crate::api::Listening;

/// Paths inside the state folder.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The layout under this folder; touches nothing.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Returns the path of the state folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the path of the embedded store.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Model files and manifests, named by their digest.
    #[must_use]
    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs").join("sha256")
    }

    /// Deltas between model files: a cache, which may be removed while the hub is stopped.
    #[must_use]
    pub fn deltas(&self) -> PathBuf {
        self.root.join("deltas")
    }

    /// Returns the folder of the answers to queued requests that devices have not stored yet.
    #[must_use]
    pub fn queued_answers(&self) -> PathBuf {
        self.root.join("queued-answers")
    }

    /// Certificate of the CA (PEM).
    #[must_use]
    pub fn ca_certificate(&self) -> PathBuf {
        self.root.join("ca").join("ca.crt")
    }

    /// Key of the CA (PEM, mode 0600).
    #[must_use]
    pub fn ca_key(&self) -> PathBuf {
        self.root.join("ca").join("ca.key")
    }

    /// Keys for stateless resets and connection ids (mode 0600).
    #[must_use]
    pub fn quic_keys(&self) -> PathBuf {
        self.root.join("quic.keys")
    }

    /// Keys that sign snapshots and timestamps.
    #[must_use]
    pub fn online_keys(&self) -> PathBuf {
        self.root.join("trust").join("online")
    }

    /// Online keys that were made for a rotation and are in no root yet.
    #[must_use]
    pub fn next_online_keys(&self) -> PathBuf {
        self.root.join("trust").join("online-next")
    }

    /// A change of trust that is decided and not wholly carried out; absent otherwise.
    #[must_use]
    pub fn trust_change(&self) -> PathBuf {
        self.root.join("trust").join("change")
    }

    /// Signed metadata that devices fetch.
    #[must_use]
    pub fn metadata(&self) -> PathBuf {
        self.root.join("trust").join("metadata")
    }

    /// Returns the folder of the metadata that the hub itself trusts, kept as a device keeps it.
    #[must_use]
    pub fn trusted(&self) -> PathBuf {
        self.root.join("trust").join("trusted")
    }

    /// Returns the path of the file with the addresses that a running hub has bound.
    #[must_use]
    pub fn listening(&self) -> PathBuf {
        self.root.join("listening.json")
    }

    /// Loads of versions that ended the hub or failed.
    #[must_use]
    pub fn loads(&self) -> PathBuf {
        self.root.join("loads.json")
    }

    /// Token of the running hub for the verbs of this machine (mode 0600).
    #[must_use]
    pub fn local_token(&self) -> PathBuf {
        self.root.join("local.token")
    }

    /// Returns the path of one blob.
    #[must_use]
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.to_hex())
    }

    /// Takes the folder for this process until the lock is dropped.
    ///
    /// # Errors
    /// When another hub holds it, or it cannot be written.
    pub fn lock(&self) -> Result<StateLock, LockError> {
        StateLock::acquire(&self.root, crate::records::STATE_SCHEMA)
    }

    /// Returns a warning for each folder that other users of the machine can read or write.
    #[must_use]
    pub fn exposed(&self) -> Vec<String> {
        let ca = self.ca_key();
        let parents = [Some(self.root()), ca.parent()];
        let parents = parents.into_iter().flatten().map(Path::to_owned);
        parents.chain([self.online_keys(), self.store()]).filter_map(|folder| files::exposed_folder(&folder)).collect()
    }

    /// Writes the bound addresses to `listening.json`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_listening(&self, listening: &Listening) -> Result<(), FileError> {
        service::listening::write(&self.listening(), listening)
    }

    /// Removes the files that only a running hub has: `listening.json` and the token of this machine.
    pub fn remove_listening(&self) {
        for file in [self.listening(), self.local_token()] {
            service::listening::remove(&file);
        }
    }
}
