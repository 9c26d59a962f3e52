//! Models and versions: what is published, which files belong to it, who may fetch them.
//!
//! [`hub_core::registry`] decides about numbers; signatures are [`crate::storage::metadata`], files are [`crate::storage::blobs`], and how a version gets
//! in is [`publish`], how one is taken back is [`withdraw`]. Signed metadata is the truth: records in the store follow it,
//! and are made again from it when the store was lost. What devices fetch is held against its digests by [`health`],
//! and what nobody fetches by [`scrub`].

pub mod health;
mod judge;
pub mod orphans;
pub mod publish;
mod release;
pub mod scrub;
pub mod withdraw;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use bundle::trust::Trusted;
use bundle::{FileRef, MANIFEST_BYTES_MAX, Manifest};
use bytes::Bytes;
use hub_core::registry as core;
use hub_core::registry::VersionRecord;
use jiff::Timestamp;
use store::{Store, StoreError, Table};
use types::{Digest, ModelName, Place, Version};

use crate::api::trust::{OnlineKeysView, TrustChange, TrustView};
use crate::clock;
use crate::records::v1;
use crate::storage::blobs::{BlobError, BlobStore};
use crate::storage::metadata::{Metadata, MetadataError};
use crate::storage::rotation::Changed;
use crate::storage::standing::Standing;
use crate::storage::trust_view;
use crate::storage::values::CurrentRecord;

pub use crate::storage::metadata::MetadataName;
pub use crate::storage::{blobs, metadata};

/// Error for a registry that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum RegistryOpenError {
    /// The store cannot be used.
    #[error("read the registry's records")]
    Store(#[from] StoreError),
    /// The signed metadata cannot be used.
    #[error("read the registry's signed metadata")]
    Metadata(#[from] MetadataError),
}

/// Registry of models and versions.
#[derive(Debug)]
pub struct Registry {
    blobs: Arc<dyn BlobStore>,
    metadata: Arc<Metadata>,
    versions: Table<v1::ModelVersion>,
    currents: Table<v1::CurrentVersion>,
    core: Mutex<core::Registry>,
    known: RwLock<Known>,
    health: health::Health,
    standing: RwLock<Standing>,
    /// Held while a version is published or metadata signed: both number what comes next.
    signing: tokio::sync::Mutex<()>,
}

/// Facts that follow from the published manifests.
#[derive(Debug, Default)]
struct Known {
    manifests: BTreeMap<(ModelName, Version), (Digest, Arc<Manifest>)>,
    /// Manifests and files of device variants of offered versions: what a device may fetch. The full models stay here.
    fetchable: HashMap<Digest, Fetchable>,
}

/// A blob that devices may fetch.
#[derive(Debug, Clone)]
enum Fetchable {
    /// The manifest of a version; several versions never share one.
    Manifest(ModelName, Version),
    /// A file of a variant for devices.
    File(FileRef),
}

impl Known {
    fn add(&mut self, digest: Digest, manifest: Manifest) {
        self.manifests.insert((manifest.model.clone(), manifest.version), (digest, Arc::new(manifest)));
    }

    /// Finds anew what devices may fetch: nothing of a version that is held or withdrawn.
    fn offer(&mut self, core: &core::Registry) {
        self.fetchable.clear();
        for ((model, version), (digest, manifest)) in &self.manifests {
            if !core.model(model).is_some_and(|known| known.is_offered(*version)) {
                continue;
            }
            self.fetchable.insert(*digest, Fetchable::Manifest(model.clone(), *version));
            for file in manifest.variants_for(Place::Device).flat_map(bundle::Variant::files) {
                self.fetchable.insert(file.digest, Fetchable::File(file.clone()));
            }
        }
    }
}

impl Registry {
    /// Opens the registry; `rebuilt` says that the store was lost and must be filled again from what is signed.
    ///
    /// Signs the metadata anew where that is due. A failure of that, an expired signature too, stops publishing and not the
    /// hub. What is wrong with the files of single versions is part of [`Registry::damage`].
    ///
    /// # Errors
    /// When store or metadata cannot be used.
    pub async fn open(
        store: Arc<dyn Store>,
        blobs: Arc<dyn BlobStore>,
        metadata: Metadata,
        rebuilt: bool,
    ) -> Result<Self, RegistryOpenError> {
        let registry = Self {
            blobs,
            metadata: Arc::new(metadata),
            versions: Table::new(Arc::clone(&store)),
            currents: Table::new(store),
            core: Mutex::default(),
            known: RwLock::default(),
            health: health::Health::default(),
            standing: RwLock::default(),
            signing: tokio::sync::Mutex::new(()),
        };
        let trusted = registry.metadata.current()?.listed()?;
        registry.restore(&trusted, rebuilt).await?;
        // The failure is part of the standing, which the hub shows and logs.
        drop(registry.sign_at_start(Timestamp::now()).await);
        Ok(registry)
    }

    /// Returns the storage of files.
    #[must_use]
    pub fn blobs(&self) -> &dyn BlobStore {
        self.blobs.as_ref()
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

    /// Returns whether devices may fetch a blob: it is the manifest of an offered version, or a file of its variants for devices.
    #[must_use]
    pub fn is_fetchable(&self, digest: &Digest) -> bool {
        self.known().fetchable.contains_key(digest)
    }

    /// The version whose manifest this is, where devices may fetch it.
    #[must_use]
    pub fn fetchable_manifest(&self, digest: &Digest) -> Option<(ModelName, Version)> {
        match self.known().fetchable.get(digest)? {
            Fetchable::Manifest(model, version) => Some((model.clone(), *version)),
            Fetchable::File(_) => None,
        }
    }

    /// Returns a file that devices may fetch; `None` for manifests and for what is nobody's to fetch.
    #[must_use]
    pub fn fetchable_file(&self, digest: &Digest) -> Option<FileRef> {
        match self.known().fetchable.get(digest)? {
            Fetchable::File(file) => Some(file.clone()),
            Fetchable::Manifest(..) => None,
        }
    }

    /// Returns the newest version of a model whose variants for devices have this file.
    #[must_use]
    pub fn version_of_file(&self, model: &ModelName, digest: &Digest) -> Option<Version> {
        let known = self.known();
        let mut found = known.manifests.iter().rev().filter(|((name, _version), (_digest, manifest))| {
            let mut files = manifest.variants_for(Place::Device).flat_map(bundle::Variant::files);
            name == model && files.any(|file| file.digest == *digest)
        });
        found.next().map(|((_name, version), _manifest)| *version)
    }

    /// Returns a file of a variant for devices of any published version, held ones too.
    #[must_use]
    pub fn published_file(&self, digest: &Digest) -> Option<FileRef> {
        let known = self.known();
        let manifests = known.manifests.values().map(|(_digest, manifest)| manifest);
        let mut files =
            manifests.flat_map(|manifest| manifest.variants_for(Place::Device).flat_map(bundle::Variant::files));
        files.find(|file| file.digest == *digest).cloned()
    }

    /// The manifest of a published version.
    #[must_use]
    pub fn manifest(&self, model: &ModelName, version: Version) -> Option<Arc<Manifest>> {
        self.known().manifests.get(&(model.clone(), version)).map(|(_digest, manifest)| Arc::clone(manifest))
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
        // Devices would refuse every version under it.
        self.metadata.current()?.require_fresh(Timestamp::now())?;
        self.keep_current(&after, model, version).await?;
        self.take(after);
        Ok(change)
    }

    /// Holds publications back as long as the guard lives, and reads the timestamp that is published: for a backup whose
    /// records and metadata are of one moment.
    ///
    /// # Errors
    /// When the timestamp cannot be read.
    pub async fn hold_still(&self) -> Result<(tokio::sync::MutexGuard<'_, ()>, Bytes), MetadataError> {
        let guard = self.signing.lock().await;
        let name = metadata::TIMESTAMP_FILE;
        let timestamp = self.metadata(&MetadataName::File(name.to_owned())).await?;
        Ok((guard, timestamp.ok_or_else(|| MetadataError::Damaged(name.to_owned()))?))
    }

    /// Signs snapshot and timestamp anew if that is due; returns whether it was.
    ///
    /// # Errors
    /// When signing or the disk fails; devices keep what they have until it expires.
    pub async fn renew_metadata(&self, now: Timestamp) -> Result<bool, MetadataError> {
        let _one_at_a_time = self.signing.lock().await;
        let renewed = match self.metadata.renewal_due(now)? {
            true => self.sign_anew(now).await,
            // Keys that cannot be used are told now, while the operator has days to see to them.
            false => self.metadata.keys().map(|_usable| false),
        };
        self.note_standing(renewed.as_ref().err())?;
        renewed
    }

    /// Signs snapshot and timestamp anew if a clock that was ahead signed them for too long; returns whether it did.
    ///
    /// Not at the start: a machine that boots with a clock that is behind would shorten what is good.
    ///
    /// # Errors
    /// As [`Registry::renew_metadata`].
    pub async fn shorten_metadata(&self, now: Timestamp) -> Result<bool, MetadataError> {
        let _one_at_a_time = self.signing.lock().await;
        if !self.metadata.is_signed_too_long(now)? {
            return Ok(false);
        }
        let signed = self.sign_anew(now).await;
        self.note_standing(signed.as_ref().err())?;
        signed
    }

    /// Signs snapshot and timestamp anew, so that devices follow also where this folder is an older copy of the hub's:
    /// restored from a backup, or a machine that was set back.
    async fn sign_at_start(&self, now: Timestamp) -> Result<bool, MetadataError> {
        let fresh = {
            let _one_at_a_time = self.signing.lock().await;
            self.sign_afresh(now).await
        };
        match fresh {
            Ok(true) => {
                let _one_at_a_time = self.signing.lock().await;
                self.note_standing(None)?;
                Ok(true)
            }
            // What is signed may be good still; whether it is, and why it cannot be renewed, is part of the standing.
            Ok(false) | Err(_) => self.renew_metadata(now).await,
        }
    }

    async fn sign_afresh(&self, now: Timestamp) -> Result<bool, MetadataError> {
        let Some(set) = self.metadata.sign_afresh(now)? else { return Ok(false) };
        self.metadata.prove(&set, now).await?;
        self.metadata.publish(&set)?;
        Ok(true)
    }

    async fn sign_anew(&self, now: Timestamp) -> Result<bool, MetadataError> {
        let set = self.metadata.sign(None, now)?;
        self.metadata.prove(&set, now).await?;
        self.metadata.publish(&set)?;
        Ok(true)
    }

    /// Writes down that devices follow a version, and that it is not held any more.
    async fn keep_current(
        &self,
        after: &core::Registry,
        model: &ModelName,
        version: Version,
    ) -> Result<(), StoreError> {
        if let Ok(record) = after.resolve(model, Some(version)) {
            self.versions.put(&version_key(model, version), record).await?;
        }
        let earlier = self.currents.get(model.as_str()).await?;
        let before = match earlier {
            Some(earlier) if earlier.version == version => earlier.before,
            Some(earlier) => Some(earlier.version),
            None => None,
        };
        self.currents.put(model.as_str(), &CurrentRecord { version, before }).await
    }

    /// Takes a changed registry for the truth, and what devices may fetch with it.
    fn take(&self, after: core::Registry) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.offer(&after);
        *self.core() = after;
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads again how long the trust lasts.
    fn note_standing(&self, problem: Option<&MetadataError>) -> Result<(), MetadataError> {
        let standing = Standing::of(&self.metadata.current()?, problem);
        *self.standing.write().unwrap_or_else(PoisonError::into_inner) = standing;
        Ok(())
    }

    /// Advice for the operator about the trust; empty while all is well.
    #[must_use]
    pub fn trust_warnings(&self, now: Timestamp) -> Vec<String> {
        self.standing.read().unwrap_or_else(PoisonError::into_inner).warnings(now)
    }

    /// Keys, versions and expiry of every role.
    ///
    /// # Errors
    /// When the metadata cannot be read.
    pub fn trust_view(&self, now: Timestamp) -> Result<TrustView, MetadataError> {
        let warnings = self.trust_warnings(now);
        trust_view::read_view(&self.metadata, warnings, now)
    }

    /// Makes the online keys that the next root will name.
    ///
    /// # Errors
    /// When they cannot be made or stored.
    pub async fn next_online_keys(&self) -> Result<OnlineKeysView, MetadataError> {
        let _one_at_a_time = self.signing.lock().await;
        Ok(OnlineKeysView::from(self.metadata.next_online_keys()?))
    }

    /// Publishes a new root, a newly signed list of the same versions, or both.
    ///
    /// # Errors
    /// When a device would refuse them, or the disk does.
    ///
    /// # Cancel safety
    /// See [`Metadata::change`].
    pub async fn change_trust(&self, change: &TrustChange, now: Timestamp) -> Result<Changed, MetadataError> {
        let _one_at_a_time = self.signing.lock().await;
        let (root, targets) = (change.root.as_deref(), change.targets.as_deref());
        let changed = self.metadata.change(root.map(str::as_bytes), targets.map(str::as_bytes), now).await?;
        self.note_standing(None)?;
        Ok(changed)
    }

    fn core(&self) -> MutexGuard<'_, core::Registry> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills memory from what is signed and what is on record.
    async fn restore(&self, trusted: &Trusted, rebuilt: bool) -> Result<(), RegistryOpenError> {
        for model in trusted.models() {
            let mut records = Vec::new();
            for version in trusted.versions(model) {
                let Ok(target) = trusted.manifest(model, version) else { continue };
                records.push(self.restore_record(model, version, target.digest).await?);
                if !self.restore_manifest(trusted, model, version, target.digest).await {
                    // Part of the damage that the hub shows until the version is pushed again.
                    self.note_damaged(target.digest, "the manifest is missing or not whole");
                }
            }
            let kept = self.currents.get(model.as_str()).await?;
            let is_listed = |version: &Version| records.iter().any(|record| record.version == *version);
            // After a cut in a withdrawal the record still names the withdrawn version.
            let mut current =
                kept.and_then(|kept| Some(kept.version).filter(is_listed).or(kept.before).filter(is_listed));
            if rebuilt && current.is_none() {
                current = records.last().map(|record| record.version);
                if let Some(version) = current {
                    self.currents.put(model.as_str(), &CurrentRecord { version, before: None }).await?;
                }
            }
            self.core().restore(model.clone(), records, current);
        }
        let core = self.snapshot();
        self.take(core);
        Ok(())
    }

    /// The record of a signed version; made again where it was lost or is of content that was withdrawn since.
    async fn restore_record(
        &self,
        model: &ModelName,
        version: Version,
        manifest: Digest,
    ) -> Result<VersionRecord, StoreError> {
        let key = version_key(model, version);
        if let Some(record) = self.versions.get(&key).await?.filter(|record| record.manifest == manifest) {
            return Ok(record);
        }
        let record =
            VersionRecord { version, manifest, published_unix_s: clock::unix_s(), held: false, released: false };
        self.versions.put(&key, &record).await?;
        Ok(record)
    }

    /// Reads the manifest of a signed version; says whether it is there and whole.
    async fn restore_manifest(&self, trusted: &Trusted, model: &ModelName, version: Version, digest: Digest) -> bool {
        let read = match self.blobs.read(&digest, manifest_bytes_max()).await {
            Ok(Some(bytes)) => bundle::read_manifest(trusted, model, version, &bytes),
            Ok(None) => return false,
            Err(error) => {
                tracing::warn!(%model, %version, error = telemetry::chain(&error), "manifest cannot be read");
                return false;
            }
        };
        match read {
            Ok(manifest) => {
                self.known.write().unwrap_or_else(PoisonError::into_inner).add(digest, manifest);
                true
            }
            Err(error) => {
                tracing::warn!(%model, %version, error = telemetry::chain(&error), "manifest is not the signed one");
                false
            }
        }
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
    blobs: &dyn BlobStore,
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
