//! Publishes a version to the registry: everything is checked before anything is visible.
//!
//! Fed by the admin API with targets that the operator signed. In order: the manifest and its files are here and whole,
//! the new targets are signed and add this version and nothing else, the hub's own variant loads and gives its golden
//! answers, a device would accept the metadata. Only then is it written.

use bundle::manifest::regress;
use bundle::trust::{self, TargetsListing};
use bundle::{FileRef, Manifest, ManifestError};
use engine::ModelLimits;
use hub_core::registry as core;
use hub_core::registry::{Change, Publish, RegistryError, VersionRecord};
use hub_core::rollout::RolloutId;
use jiff::Timestamp;
use std::sync::PoisonError;
use store::StoreError;
use types::{DeviceId, Digest, EngineName, ModelName, Place, Version};

use super::{Registry, manifest_bytes_max, variant_bytes, version_key};
use crate::api::PublishRequest;
use crate::clock;
use crate::storage::blobs::BlobError;
use crate::storage::metadata::MetadataError;
use crate::workers::gpu;
use crate::workers::load::{self, LoadFailed, Loader};
use crate::workers::pool::Pool;

/// Error for a version that was not published, offered or withdrawn.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No such model or version, or a number that is taken or too low.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Somebody else published in between, so the signed list is not the next one.
    #[error("the signed list of versions is not the one after the hub's own")]
    Moved,
    /// A file was not uploaded, or not wholly.
    #[error("file {name} ({digest}) is not on the hub")]
    MissingBlob {
        /// Name in the manifest.
        name: String,
        /// Digest of the file.
        digest: Digest,
    },
    /// The manifest is not lawful.
    #[error("read the manifest")]
    Manifest(#[from] ManifestError),
    /// Call, manifest and signed list do not say the same.
    #[error("the request contradicts itself: {0}")]
    Mismatch(&'static str),
    /// Signatures do not hold.
    #[error("the signed list of versions is not to be trusted")]
    NotTrusted(#[source] MetadataError),
    /// The hub's own variant does not work.
    #[error("the variant for the hub, {file}, does not work")]
    Load {
        /// Its model file, as the manifest names it.
        file: String,
        /// Reason of the refusal.
        #[source]
        source: LoadFailed,
    },
    /// A variant for devices is one that no device would load.
    #[error("the variant for devices, {file}, is refused")]
    Hostile {
        /// Its model file, as the manifest names it.
        file: String,
        /// Reason of the refusal.
        #[source]
        source: engine::Refusal,
    },
    /// A variant for devices ended the child process that tried it.
    #[error("the variant for devices, {file}, is refused: it ends the engine")]
    Crashes {
        /// Its model file, as the manifest names it.
        file: String,
        /// End of the child process.
        #[source]
        source: engine::HostDeath,
    },
    /// A variant names an engine that does not have its operators.
    #[error("the variant for devices, {file}, names the engine wgpu, which cannot run it: {problem}")]
    NotForGpu {
        /// Its model file, as the manifest names it.
        file: String,
        /// Error of the engine.
        problem: String,
    },
    /// A run of a variant takes too much memory.
    #[error(
        "one run of {file} takes {needed} bytes of memory, over the limit of {limit}; its largest tensor is {largest:?} \
         with {largest_bytes} bytes"
    )]
    Memory {
        /// Its model file, as the manifest names it.
        file: String,
        /// Bytes of all tensors that live at once.
        needed: u64,
        /// Limit in bytes: `inference.run_memory_max_bytes`.
        limit: u64,
        /// Name of the largest tensor.
        largest: String,
        /// Bytes of the largest tensor.
        largest_bytes: u64,
    },
    /// The rule for scores cannot be right.
    #[error("the rule in [score] cannot be right: {problem}")]
    Score {
        /// Reason, and the value to write instead.
        problem: String,
    },
    /// The version is worse than the one that devices follow.
    #[error("this version is worse than version {than}: {}", .problems.join("; "))]
    Worse {
        /// The version that devices follow.
        than: Version,
        /// Parts that it lacks or changes.
        problems: Vec<String>,
    },
    /// The version has warnings, and the operator asked for none.
    #[error("this version has warnings, which --strict refuses: {}", .problems.join("; "))]
    Strict {
        /// Parts that it lacks, or promises more loosely than the version before.
        problems: Vec<String>,
    },
    /// Devices have the version, or may have it.
    #[error("{model} {version} cannot be withdrawn: {} has it or may have it", holders(.devices))]
    Taken {
        /// Name of the model.
        model: ModelName,
        /// Number of the version.
        version: Version,
        /// The devices, by name.
        devices: Vec<DeviceId>,
    },
    /// Devices hold the version.
    #[error("{model} {version} cannot be deleted: {} holds it or is installing it", holders(.devices))]
    Kept {
        /// Name of the model.
        model: ModelName,
        /// Number of the version.
        version: Version,
        /// The devices, by name.
        devices: Vec<DeviceId>,
    },
    /// The version is the newest, and devices knew it: its number must not be free for other content.
    #[error("{model} {version} cannot be deleted yet: it is the newest version, and {} had it", holders(.devices))]
    Newest {
        /// Name of the model.
        model: ModelName,
        /// Number of the version.
        version: Version,
        /// The devices, by name.
        devices: Vec<DeviceId>,
    },
    /// A rollout of the model is under way.
    #[error("rollout {rollout} of {model} is under way")]
    InRollout {
        /// Name of the model.
        model: ModelName,
        /// Number of the rollout.
        rollout: RolloutId,
    },
    /// The disk, for blobs.
    #[error("read an uploaded file")]
    Blob(#[from] BlobError),
    /// An offline signature has expired, or the hub has no online keys: nothing can be published.
    #[error("publish signed metadata")]
    Stopped(#[source] MetadataError),
    /// The disk or the keys, for metadata.
    #[error("publish signed metadata")]
    Metadata(#[source] MetadataError),
    /// The store cannot be used.
    #[error("write the registry's records")]
    Store(#[from] StoreError),
}

impl From<MetadataError> for PublishError {
    fn from(error: MetadataError) -> Self {
        match error.command() {
            Some(_) => Self::Stopped(error),
            None if error.is_refusal() => Self::NotTrusted(error),
            None => Self::Metadata(error),
        }
    }
}

/// Most devices that an error names.
const HOLDERS_NAMED: usize = 5;

fn holders(devices: &[DeviceId]) -> String {
    let named = devices.iter().take(HOLDERS_NAMED).map(DeviceId::as_str).collect::<Vec<_>>().join(", ");
    match devices.len().saturating_sub(HOLDERS_NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// Result of a publication.
#[derive(Debug)]
pub struct Publication {
    /// Change of the registry.
    pub change: Change,
    /// Whether the version was there already, with the same content.
    pub unchanged: bool,
    /// Whether files of it were damaged on this disk and are whole again: devices that gave it up must hear of it.
    pub mended: bool,
    /// The hub's own variant, ready to answer; `None` when the version has none, or was there already.
    pub pool: Option<Pool>,
    /// Effects that the author may not expect, for the operator.
    pub warnings: Vec<String>,
}

impl Registry {
    /// Publishes one version of a model. See the module for what is checked.
    ///
    /// # Errors
    /// When anything does not hold; devices then see nothing of it.
    ///
    /// # Cancel safety
    /// The version is published and on record, or (after a cut at the worst moment) published and put on record at the
    /// next start, or not at all.
    pub async fn publish(
        &self,
        loader: &Loader,
        model: &ModelName,
        request: &PublishRequest,
    ) -> Result<Publication, PublishError> {
        let _one_at_a_time = self.signing.lock().await;
        let version = request.version;
        let manifest = self.uploaded_manifest(model, version, request.manifest).await?;
        // The first version is current at once: there is nothing to protect. Later ones are rolled out.
        let is_first = self.snapshot().model(model).is_none_or(|known| {
            known.current().is_none() && known.versions().all(|(other, _standing)| other.version == version)
        });
        let held = request.hold || !(request.offer || is_first);
        let record = VersionRecord {
            version,
            manifest: request.manifest,
            published_unix_s: clock::unix_s(),
            held,
            released: false,
        };
        let publish = if held { Publish::Hold } else { Publish::Offer };
        // Before the files are looked at: the operator must act first.
        self.metadata.current()?.require_fresh(Timestamp::now())?;
        let mut after = self.snapshot();
        let was_there = self.manifest(model, version).is_some();
        let change = after.publish(model, record.clone(), publish)?;
        let mut pool = None;
        let mut warnings = Vec::new();
        if !was_there {
            warnings.extend(self.refuse_worse(&manifest, request)?);
            self.check_files(&manifest).await?;
            self.check_device_models(&manifest).await?;
            let unknown = self.judge_memory(&manifest, loader.inference.run_memory_max_bytes).await?;
            pool = self.load_own(loader, &manifest).await?;
            match self.try_device_models(loader, &manifest).await {
                // Held, it goes to no device until an operator offers it: perhaps to look into it.
                Err(error @ PublishError::Crashes { .. }) if request.hold => warnings.push(telemetry::chain(&error)),
                tried => tried?,
            }
            self.judge_score(&manifest, pool.as_ref()).await?;
            warnings.extend(regress::warnings(&manifest));
            warnings.extend(unknown);
            self.publish_metadata(model, &manifest, request).await?;
            let record = after.resolve(model, Some(version)).unwrap_or(&record);
            self.versions.put(&version_key(model, version), record).await?;
            self.known.write().unwrap_or_else(PoisonError::into_inner).add(request.manifest, manifest);
        }
        if after.current(model) == Some(version) {
            self.keep_current(&after, model, version).await?;
        }
        self.take(after);
        let mended = self.take_mended(model, version);
        Ok(Publication { change, unchanged: was_there, mended, pool, warnings })
    }

    /// Loads the variant of a version that this hub runs; `None` when it has none.
    ///
    /// # Errors
    /// When its files are missing, or it does not work.
    pub async fn load_own(&self, loader: &Loader, manifest: &Manifest) -> Result<Option<Pool>, PublishError> {
        let Some(variant) = load::hub_variant(manifest, loader.engine.as_ref()) else { return Ok(None) };
        let missing = || PublishError::MissingBlob { name: variant.file.name.to_string(), digest: variant.file.digest };
        let files = variant_bytes(self.blobs(), variant).await?.ok_or_else(missing)?;
        let failed = |source| PublishError::Load { file: variant.file.name.to_string(), source };
        Ok(Some(loader.load(manifest, variant, files).await.map_err(failed)?))
    }

    async fn uploaded_manifest(
        &self,
        model: &ModelName,
        version: Version,
        digest: Digest,
    ) -> Result<Manifest, PublishError> {
        let missing = || PublishError::MissingBlob { name: "manifest.json".to_owned(), digest };
        let bytes = self.blobs.read(&digest, manifest_bytes_max()).await?.ok_or_else(missing)?;
        let manifest = Manifest::parse(&bytes)?;
        if manifest.model != *model {
            return Err(PublishError::Mismatch("the manifest is of another model"));
        }
        if manifest.version != version {
            return Err(PublishError::Mismatch("the manifest is of another version"));
        }
        Ok(manifest)
    }

    async fn check_files(&self, manifest: &Manifest) -> Result<(), PublishError> {
        for file in manifest.files() {
            // Their hashes were right when they were uploaded; what the hub runs itself is hashed again.
            if self.blobs.length(&file.digest).await? != Some(file.size) {
                return Err(PublishError::MissingBlob { name: file.name.to_string(), digest: file.digest });
            }
        }
        Ok(())
    }

    /// Holds what devices will load against the limits that they hold it against, and what names their GPUs against what
    /// that engine can run.
    async fn check_device_models(&self, manifest: &Manifest) -> Result<(), PublishError> {
        for variant in manifest.variants_for(Place::Device) {
            let FileRef { name, digest, size, .. } = &variant.file;
            let missing = || PublishError::MissingBlob { name: name.to_string(), digest: *digest };
            let bytes = self.blobs.read(digest, *size).await?.ok_or_else(missing)?;
            let names_gpu = variant.engines.contains(&EngineName::Wgpu);
            let checking = move || {
                engine::precheck::check(&bytes, &ModelLimits::default())?;
                Ok(names_gpu.then(|| gpu::problem(&bytes)).flatten())
            };
            let checked = tokio::task::spawn_blocking(checking).await;
            let checked = checked.map_err(|_lost| PublishError::Mismatch("the check was broken off: push again"))?;
            let problem = checked.map_err(|source| PublishError::Hostile { file: name.to_string(), source })?;
            if let Some(problem) = problem {
                return Err(PublishError::NotForGpu { file: name.to_string(), problem });
            }
        }
        Ok(())
    }

    /// Runs what devices will run once, in child processes: what ends one would end its host on every device.
    async fn try_device_models(&self, loader: &Loader, manifest: &Manifest) -> Result<(), PublishError> {
        for variant in manifest.variants_for(Place::Device) {
            let FileRef { name, digest, .. } = &variant.file;
            let missing = || PublishError::MissingBlob { name: name.to_string(), digest: *digest };
            let files = variant_bytes(self.blobs(), variant).await?.ok_or_else(missing)?;
            let tried = loader.try_for_devices(manifest, variant, files).await;
            let tried = tried.map_err(|source| PublishError::Load { file: name.to_string(), source })?;
            if let Some(source) = tried {
                return Err(PublishError::Crashes { file: name.to_string(), source });
            }
        }
        Ok(())
    }

    async fn publish_metadata(
        &self,
        model: &ModelName,
        manifest: &Manifest,
        request: &PublishRequest,
    ) -> Result<(), PublishError> {
        let now = Timestamp::now();
        let before = self.metadata.current()?;
        let old = inspect(&before.root, &before.targets.bytes)?;
        let new = inspect(&before.root, request.targets.as_bytes())?;
        let expected = target(model, manifest.version, &new).is_some_and(|digest| digest == request.manifest);
        if !expected {
            return Err(PublishError::Mismatch("the signed list does not name this manifest for this version"));
        }
        // After a cut between metadata and record the list is published already.
        if before.targets.bytes != request.targets.as_bytes() {
            if new.version <= old.version {
                return Err(PublishError::Moved);
            }
            check_only_addition(model, manifest.version, &old, &new)?;
        }
        let set = self.metadata.sign(Some(request.targets.as_bytes()), now)?;
        self.metadata.prove(&set, now).await?;
        self.metadata.publish(&set)?;
        self.note_standing(None)?;
        Ok(())
    }
}

pub(super) fn inspect(root: &[u8], targets: &[u8]) -> Result<TargetsListing, PublishError> {
    trust::inspect_targets(root, targets).map_err(|error| PublishError::from(MetadataError::from(error)))
}

fn target(model: &ModelName, version: Version, listing: &TargetsListing) -> Option<Digest> {
    Some(listing.manifests.get(model)?.get(&version)?.digest)
}

/// One push adds one version, and a withdrawal is the same the other way round: a list that drops or changes others was
/// made from something else than ours.
pub(super) fn check_only_addition(
    model: &ModelName,
    version: Version,
    old: &TargetsListing,
    new: &TargetsListing,
) -> Result<(), PublishError> {
    let mut without = new.manifests.clone();
    if let Some(versions) = without.get_mut(model) {
        versions.remove(&version);
        if versions.is_empty() {
            without.remove(model);
        }
    }
    if without == old.manifests { Ok(()) } else { Err(PublishError::Moved) }
}

/// Returns whether a change means that devices must be told.
#[must_use]
pub fn is_offer(change: core::Change) -> bool {
    match change {
        Change::Current(_) => true,
        Change::None | Change::Held(_) => false,
    }
}
