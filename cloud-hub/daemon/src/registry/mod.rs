//! Models and versions: what is published, which files belong to it, who may fetch them.
//!
//! [`hub_core::registry`] decides about numbers; signatures are [`metadata`], files are [`blobs`], and how a version gets
//! in is [`publish`]. Signed metadata is the truth: records in the store follow it, and are made again from it when the
//! store was lost.

pub mod blobs;
mod judge;
pub mod metadata;
pub mod publish;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bundle::trust::Trusted;
use bundle::{MANIFEST_BYTES_MAX, Manifest};
use bytes::Bytes;
use hub_core::registry as core;
use hub_core::registry::VersionRecord;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use store::{Store, StoreError, Table};
use types::{Digest, ModelName, Place, Version};

use crate::clock;
use blobs::{BlobError, Blobs};
use metadata::{Metadata, MetadataError};

pub use metadata::MetadataName;

/// Which version of a model devices follow.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct CurrentRecord {
    version: Version,
}

/// Why the registry could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum RegistryOpenError {
    /// The store.
    #[error("read the registry's records")]
    Store(#[from] StoreError),
    /// The signed metadata.
    #[error("read the registry's signed metadata")]
    Metadata(#[from] MetadataError),
}

/// The registry.
#[derive(Debug)]
pub struct Registry {
    blobs: Blobs,
    metadata: Arc<Metadata>,
    versions: Table<VersionRecord>,
    currents: Table<CurrentRecord>,
    core: Mutex<core::Registry>,
    known: RwLock<Known>,
    /// Held while a version is published or metadata signed: both number what comes next.
    signing: tokio::sync::Mutex<()>,
}

/// What follows from the published manifests.
#[derive(Debug, Default)]
struct Known {
    manifests: BTreeMap<(ModelName, Version), Arc<Manifest>>,
    /// Manifests and files of device variants: what a device may fetch. The full models stay here.
    fetchable: HashSet<Digest>,
}

impl Known {
    fn add(&mut self, digest: Digest, manifest: Manifest) {
        self.fetchable.insert(digest);
        let files = manifest.variants_for(Place::Device).flat_map(bundle::Variant::files);
        self.fetchable.extend(files.map(|file| file.digest));
        self.manifests.insert((manifest.model.clone(), manifest.version), Arc::new(manifest));
    }
}

impl Registry {
    /// Opens the registry; `rebuilt` says that the store was lost and must be filled again from what is signed.
    ///
    /// Signs the metadata anew where that is due. What is wrong with single versions becomes a warning.
    ///
    /// # Errors
    /// When store or metadata cannot be used.
    pub async fn open(
        store: Arc<dyn Store>,
        blobs: Blobs,
        metadata: Metadata,
        rebuilt: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Self, RegistryOpenError> {
        let registry = Self {
            blobs,
            metadata: Arc::new(metadata),
            versions: Table::new(Arc::clone(&store), "version"),
            currents: Table::new(store, "current"),
            core: Mutex::default(),
            known: RwLock::default(),
            signing: tokio::sync::Mutex::new(()),
        };
        let now = Timestamp::now();
        let set = registry.metadata.sign(None, now)?;
        let trusted = registry.metadata.prove(&set, now).await?;
        registry.metadata.publish(&set)?;
        warnings.extend(set.offline_warnings(now));
        registry.restore(&trusted, rebuilt, warnings).await?;
        Ok(registry)
    }

    /// The files.
    #[must_use]
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// A metadata file; `None` when there is none of that name.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn metadata(&self, name: &MetadataName) -> Result<Option<Bytes>, MetadataError> {
        let (metadata, name) = (Arc::clone(&self.metadata), name.clone());
        let read = tokio::task::spawn_blocking(move || metadata.get(&name)).await;
        read.unwrap_or_else(|lost| Err(MetadataError::List(std::io::Error::other(lost))))
    }

    /// Whether devices may fetch a blob: it is a published manifest, or a file of a variant for devices.
    #[must_use]
    pub fn is_fetchable(&self, digest: &Digest) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).fetchable.contains(digest)
    }

    /// The manifest of a published version.
    #[must_use]
    pub fn manifest(&self, model: &ModelName, version: Version) -> Option<Arc<Manifest>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.manifests.get(&(model.clone(), version)).cloned()
    }

    /// The version that devices follow.
    #[must_use]
    pub fn current(&self, model: &ModelName) -> Option<Version> {
        self.core().current(model)
    }

    /// Every model with its versions, as of now.
    #[must_use]
    pub fn snapshot(&self) -> core::Registry {
        self.core().clone()
    }

    /// Makes a version current, and says what that changed.
    ///
    /// # Errors
    /// When there is no such version, it is under the current one, or the store fails.
    pub async fn offer(&self, model: &ModelName, version: Version) -> Result<core::Change, publish::PublishError> {
        let _one_at_a_time = self.signing.lock().await;
        let mut after = self.snapshot();
        let change = after.offer(model, version)?;
        self.currents.put(model.as_str(), &CurrentRecord { version }).await?;
        *self.core() = after;
        Ok(change)
    }

    /// Signs snapshot and timestamp anew if that is due; says whether it was.
    ///
    /// # Errors
    /// When signing or the disk fails; devices keep what they have until it expires.
    pub async fn renew_metadata(&self, now: Timestamp) -> Result<bool, MetadataError> {
        let _one_at_a_time = self.signing.lock().await;
        if !self.metadata.renewal_due(now)? {
            return Ok(false);
        }
        let set = self.metadata.sign(None, now)?;
        self.metadata.prove(&set, now).await?;
        self.metadata.publish(&set)?;
        Ok(true)
    }

    fn core(&self) -> MutexGuard<'_, core::Registry> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills memory from what is signed and what is on record.
    async fn restore(
        &self,
        trusted: &Trusted,
        rebuilt: bool,
        warnings: &mut Vec<String>,
    ) -> Result<(), RegistryOpenError> {
        for model in trusted.models() {
            let mut records = Vec::new();
            for version in trusted.versions(model) {
                match self.restore_version(trusted, model, version).await? {
                    Some(record) => records.push(record),
                    None => warnings
                        .push(format!("{model}/{version} is signed but its manifest is not on disk: push it again")),
                }
            }
            let mut current = self.currents.get(model.as_str()).await?.map(|record| record.version);
            if rebuilt && current.is_none() {
                current = records.last().map(|record| record.version);
                if let Some(version) = current {
                    self.currents.put(model.as_str(), &CurrentRecord { version }).await?;
                }
            }
            self.core().restore(model.clone(), records, current);
        }
        Ok(())
    }

    async fn restore_version(
        &self,
        trusted: &Trusted,
        model: &ModelName,
        version: Version,
    ) -> Result<Option<VersionRecord>, RegistryOpenError> {
        let Ok(target) = trusted.manifest(model, version) else { return Ok(None) };
        let bytes = self.blobs.read(&target.digest, manifest_bytes_max()).await;
        let manifest = match bytes {
            Ok(Some(bytes)) => bundle::read_manifest(trusted, model, version, &bytes),
            Ok(None) => return Ok(None),
            Err(error) => {
                tracing::warn!(%model, %version, error = telemetry::chain(&error), "manifest cannot be read");
                return Ok(None);
            }
        };
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(error) => {
                tracing::warn!(%model, %version, error = telemetry::chain(&error), "manifest is not the signed one");
                return Ok(None);
            }
        };
        let key = version_key(model, version);
        let record = match self.versions.get(&key).await? {
            Some(record) => record,
            None => {
                let record = VersionRecord { version, manifest: target.digest, published_unix_s: clock::unix_s() };
                self.versions.put(&key, &record).await?;
                record
            }
        };
        self.known.write().unwrap_or_else(PoisonError::into_inner).add(target.digest, manifest);
        Ok(Some(record))
    }
}

/// Ordered by number, also as text.
fn version_key(model: &ModelName, version: Version) -> String {
    format!("{model}/{:020}", version.number())
}

fn manifest_bytes_max() -> u64 {
    u64::try_from(MANIFEST_BYTES_MAX).unwrap_or(u64::MAX)
}

/// Reads the files of the hub's variant of a version, held against their digests.
///
/// # Errors
/// When one is too large, has rotted, or the disk fails; `Ok(None)` when one is missing.
pub async fn variant_bytes(
    blobs: &Blobs,
    variant: &bundle::Variant,
) -> Result<Option<crate::workers::load::VariantBytes>, BlobError> {
    let Some(model) = blobs.read(&variant.file.digest, variant.file.size).await? else { return Ok(None) };
    let golden = match &variant.golden {
        Some(file) => match blobs.read(&file.digest, file.size).await? {
            Some(bytes) => Some(bytes),
            None => return Ok(None),
        },
        None => None,
    };
    Ok(Some(crate::workers::load::VariantBytes { model, golden }))
}
