//! The agent's folder: what lies where, who holds it, and what the agent says about where it listens.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use store::files::{self, FileError};
use store::{LockError, StateLock};
use types::{ModelName, Version};

/// Name of the manifest in a version's folder.
pub const MANIFEST_FILE: &str = "manifest.json";

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

    /// Makes the folder and those in it that are always there.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn create(&self) -> Result<(), FileError> {
        [self.identity(), self.trust(), self.models(), self.incoming(), self.slots(), self.outbox()]
            .iter()
            .try_for_each(|folder| files::create_dir(folder))
    }

    /// Removes what an interrupted run left half-written. Only under the lock.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn remove_unfinished(&self) -> Result<(), FileError> {
        [self.root.clone(), self.identity(), self.slots()]
            .iter()
            .try_for_each(|folder| files::remove_unfinished(folder))
    }

    /// Returns the state folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the folder of the embedded store.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Key, certificate, CA and hub of this device; see [`crate::identity`].
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    /// Trusted metadata, kept by `bundle`.
    #[must_use]
    pub fn trust(&self) -> PathBuf {
        self.root.join("trust")
    }

    /// Complete, verified versions of all models.
    #[must_use]
    pub fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    /// One version of a model. The folder comes into being in one step, complete.
    #[must_use]
    pub fn version(&self, model: &ModelName, version: Version) -> PathBuf {
        self.models().join(model.as_str()).join(version.to_string())
    }

    /// Versions of a model that are on disk, in order.
    #[must_use]
    pub fn versions(&self, model: &ModelName) -> Vec<Version> {
        let entries = std::fs::read_dir(self.models().join(model.as_str())).into_iter().flatten();
        let mut versions: Vec<Version> =
            entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
        versions.sort_unstable();
        versions
    }

    /// Returns the folder of downloads under way.
    #[must_use]
    pub fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    /// A version's folder while it is put together.
    #[must_use]
    pub fn staging(&self, model: &ModelName, version: Version) -> PathBuf {
        self.incoming().join(format!("{model}-{version}.staging"))
    }

    /// Returns the folder of the log of receipts.
    #[must_use]
    pub fn receipts(&self) -> PathBuf {
        self.root.join("receipts")
    }

    /// Returns the file with the key for digests of inputs; outside of the log, which may be copied elsewhere.
    #[must_use]
    pub fn input_key(&self) -> PathBuf {
        self.root.join("input-key")
    }

    /// Returns the folder of requests that wait for the hub, and of their answers.
    #[must_use]
    pub fn outbox(&self) -> PathBuf {
        self.root.join("outbox")
    }

    /// Returns the file with the key that encrypts personal requests in the outbox (mode 0600).
    #[must_use]
    pub fn outbox_key(&self) -> PathBuf {
        self.root.join("outbox.key")
    }

    /// Compiled kernels of the GPU; made when there are any.
    #[must_use]
    pub fn pipelines(&self) -> PathBuf {
        self.root.join("pipelines")
    }

    /// Pointers of all models.
    #[must_use]
    pub fn slots(&self) -> PathBuf {
        self.root.join("slots")
    }

    /// The pointers of one model.
    #[must_use]
    pub fn slot(&self, model: &ModelName) -> PathBuf {
        self.slots().join(format!("{model}.json"))
    }

    /// Returns the file in which a running agent names the addresses that it bound.
    #[must_use]
    pub fn listening(&self) -> PathBuf {
        self.root.join("listening.json")
    }

    /// Returns the file with the token for orders of the owner to the running agent.
    #[must_use]
    pub fn control_token(&self) -> PathBuf {
        self.root.join("control-token")
    }

    /// Returns a warning for each folder that other users of the machine can read or write.
    #[must_use]
    pub fn exposed(&self) -> Vec<String> {
        [self.root.clone(), self.identity(), self.trust(), self.models(), self.slots(), self.store(), self.outbox()]
            .iter()
            .filter_map(|folder| files::exposed_folder(folder))
            .collect()
    }

    /// Takes the folder for this process until the lock is dropped.
    ///
    /// # Errors
    /// When another agent holds it, or it cannot be written.
    pub fn lock(&self) -> Result<StateLock, LockError> {
        StateLock::acquire(&self.root, crate::records::STATE_SCHEMA)
    }

    /// Writes the bound addresses to `listening.json`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_listening(&self, listening: &Listening) -> Result<(), FileError> {
        service::listening::write(&self.listening(), listening)
    }

    /// Reads the addresses of a running agent; `None` when no agent runs.
    #[must_use]
    pub fn read_listening(&self) -> Option<Listening> {
        service::listening::read(&self.listening())
    }

    /// Removes `listening.json`, which only a running agent has.
    pub fn remove_listening(&self) {
        service::listening::remove(&self.listening());
    }
}

/// The addresses of a running agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// The Open Inference Protocol over HTTP.
    pub http: std::net::SocketAddr,
    /// The Open Inference Protocol over gRPC; `None` where it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<std::net::SocketAddr>,
    /// Unix socket of the protocol over HTTP; `None` where it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Address of `GET /metrics`.
    pub metrics: std::net::SocketAddr,
    /// Process id of the agent.
    pub pid: u32,
}
