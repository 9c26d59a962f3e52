//! The source of metadata, and its buffer until all of it has verified.
//!
//! [`SourceRepository`] passes the caller's [`MetadataSource`] to `sigstore-tuf` and checks every response against its
//! limit and, for roots, against [`super::root`]. [`Staging`] replaces the store of `sigstore-tuf`, which would write
//! each file as it arrives: a timestamp stored without its snapshot would lose the last version of the snapshot.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use sigstore_tuf::transport::FetchFuture;
use sigstore_tuf::{MetadataStore, Repository, UpdaterConfig};

use super::folder::SetFiles;
use super::{ROOT_ROTATIONS_MAX, TrustError, root};

/// Maximum size of a root in bytes: 64 keys and as many signatures take 25 kB.
pub const ROOT_BYTES_MAX: u64 = 512 * 1024;
/// Maximum size of a timestamp in bytes: it names one file.
pub const TIMESTAMP_BYTES_MAX: u64 = 16 * 1024;
/// Maximum size of a snapshot in bytes: without delegations it names one file.
pub const SNAPSHOT_BYTES_MAX: u64 = 64 * 1024;
/// Maximum size of the targets in bytes: 20,000 versions at 230 bytes each.
pub const TARGETS_BYTES_MAX: u64 = 5 * 1024 * 1024;

/// Error: a metadata source failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SourceError(Box<dyn std::error::Error + Send + Sync>);

impl SourceError {
    /// Wraps the cause of the failure.
    pub fn new(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

/// Provides metadata files by name, as the hub stores them: `3.root.json`, `timestamp.json`, `7.snapshot.json`.
#[async_trait]
pub trait MetadataSource: Send + Sync {
    /// Fetches a file, or `None` if there is no file of that name. Should stop reading after `bytes_max` bytes; a
    /// longer file is refused.
    ///
    /// # Errors
    /// Fails if the file may exist but could not be fetched.
    async fn fetch(&self, name: &str, bytes_max: u64) -> Result<Option<Bytes>, SourceError>;
}

/// Whether this is the name of a metadata file, which is safe to look up in the hub's folder of them.
#[must_use]
pub fn is_metadata_name(name: &str) -> bool {
    let number = |text: &str| {
        (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0')
    };
    name == "timestamp.json"
        || name.split_once('.').is_some_and(|(version, role)| {
            number(version) && matches!(role, "root.json" | "snapshot.json" | "targets.json")
        })
}

pub(super) fn limits() -> UpdaterConfig {
    let mut limits = UpdaterConfig::default();
    limits.root_max_length = ROOT_BYTES_MAX;
    limits.timestamp_max_length = TIMESTAMP_BYTES_MAX;
    limits.snapshot_max_length = SNAPSHOT_BYTES_MAX;
    limits.targets_max_length = TARGETS_BYTES_MAX;
    limits.max_root_rotations = ROOT_ROTATIONS_MAX;
    limits
}

/// An error of this crate that passes around `sigstore-tuf`, whose errors cannot contain it.
pub(super) type Fault = Arc<Mutex<Option<TrustError>>>;

pub(super) fn take_fault(fault: &Fault) -> Option<TrustError> {
    fault.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Adapter from a [`MetadataSource`] to the repository trait of `sigstore-tuf`.
pub(super) struct SourceRepository {
    source: Arc<dyn MetadataSource>,
    fault: Fault,
}

impl SourceRepository {
    pub(super) fn new(source: Arc<dyn MetadataSource>) -> Self {
        Self { source, fault: Fault::default() }
    }

    pub(super) fn fault(&self) -> Fault {
        Arc::clone(&self.fault)
    }

    async fn checked(&self, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, TrustError> {
        let answer = self.source.fetch(name, bytes_max).await;
        let answer = answer.map_err(|source| TrustError::Source { name: name.to_owned(), source })?;
        let Some(bytes) = answer else { return Ok(None) };
        if u64::try_from(bytes.len()).map_or(true, |length| length > bytes_max) {
            return Err(TrustError::TooLarge { name: name.to_owned(), bytes_max });
        }
        if name.ends_with(".root.json") {
            root::accept(&bytes)?;
        }
        Ok(Some(bytes.into()))
    }
}

impl Repository for SourceRepository {
    fn fetch_metadata<'a>(&'a self, name: &'a str, max_length: u64) -> FetchFuture<'a> {
        Box::pin(async move {
            self.checked(name, max_length).await.map_err(|error| {
                let shown = sigstore_tuf::Error::transport(error.to_string());
                *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                shown
            })
        })
    }

    /// Fails, because targets are never fetched this way: `sigstore-tuf` would load them into memory as a whole.
    fn fetch_target<'a>(&'a self, path: &'a str, _max_length: u64) -> FetchFuture<'a> {
        Box::pin(
            async move { Err(sigstore_tuf::Error::transport(format!("target {path:?} is not fetched as metadata"))) },
        )
    }
}

/// Provides the committed set for comparison and collects new files in memory.
#[derive(Debug)]
pub(super) struct Staging {
    /// Trusted root at the start of the refresh.
    root: Vec<u8>,
    root_version: u64,
    committed: Option<SetFiles>,
    staged: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Staging {
    pub(super) fn new(root: Vec<u8>, root_version: u64, committed: Option<SetFiles>) -> Self {
        Self { root, root_version, committed, staged: Mutex::default() }
    }

    /// Whether a root of this refresh has other online keys, so that the committed snapshot and timestamp are
    /// discarded.
    fn is_online_rotated(&self) -> bool {
        let newest = self.new_roots().pop();
        newest.is_some_and(|(_version, newest)| root::is_online_rotated(&self.root, &newest))
    }

    /// Returns the roots that verified in this refresh, oldest first.
    pub(super) fn new_roots(&self) -> Vec<(u64, Vec<u8>)> {
        let staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = self.root_version;
        let mut roots = Vec::new();
        while let Some(version) = next.checked_add(1) {
            let Some(bytes) = staged.get(&format!("root_history/{version}.root.json")) else { break };
            roots.push((version, bytes.clone()));
            next = version;
        }
        roots
    }

    /// Returns the set after the refresh: the new files, and the others unchanged.
    pub(super) fn set(&self) -> Option<SetFiles> {
        let staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        let file = |name: &str| staged.get(name).cloned().or_else(|| self.committed.as_ref()?.file(name).cloned());
        Some(SetFiles {
            timestamp: file("timestamp.json")?,
            snapshot: file("snapshot.json")?,
            targets: file("targets.json")?,
        })
    }
}

impl MetadataStore for Staging {
    fn load(&self, name: &str) -> sigstore_tuf::Result<Option<Vec<u8>>> {
        // Called after the roots: metadata of an old key must not affect the numbering of a new one.
        let committed = self.committed.as_ref().filter(|_| !self.is_online_rotated());
        Ok(committed.and_then(|set| set.file(name)).cloned())
    }

    fn store(&self, name: &str, bytes: &[u8]) -> sigstore_tuf::Result<()> {
        let mut staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        staged.insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_metadata_is_looked_up_by_name() {
        for name in ["timestamp.json", "1.root.json", "42.snapshot.json", "7.targets.json"] {
            assert!(is_metadata_name(name), "{name} was refused");
        }
        for name in [
            "",
            "root.json",
            "../1.root.json",
            "01.root.json",
            "1.root.key",
            "1.x.json",
            "1.root.json/",
            "-1.root.json",
        ] {
            assert!(!is_metadata_name(name), "{name} was taken");
        }
    }
}
