//! Models and versions: publishing, offering, withdrawing, and how far the devices are.

use std::sync::Arc;

use bundle::manifest::regress;
use hub_core::audit::Change as Event;
use hub_core::registry::{Change, Standing};
use tokio_util::task::TaskTracker;
use types::{ModelName, Place, Version};

use super::offers::Offers;
use crate::api::{
    DeleteRequest, Deleted, DeltaView, Garbage, ModelList, ModelView, PAGE_MAX, PageQuery, PublishRequest, Published,
    VersionView, WithdrawRequest, Withdrawn,
};
use crate::app::counters::Counters;
use crate::app::deltas::Deltas;
use crate::app::fleet::Fleet;
use crate::app::operators::Caller;
use crate::app::registry::Registry;
use crate::app::registry::orphans::ORPHAN_AGE;
use crate::app::registry::publish::{Publication, PublishError};
use crate::app::rollouts::Rollouts;
use crate::clock;
use crate::storage::audit::AuditLog;
use crate::storage::blobs::BlobError;
use crate::workers::Workers;
use crate::workers::load::Loader;
use crate::workers::pool::Pool;

/// Use cases of models and versions.
#[derive(Debug)]
pub struct Models {
    /// Registry of versions and files.
    pub registry: Arc<Registry>,
    /// Versions that the hub has loaded.
    pub workers: Arc<Workers>,
    /// Loader, which checks a version before its publication.
    pub loader: Arc<Loader>,
    /// Devices that follow models.
    pub fleet: Arc<Fleet>,
    /// Deltas to the versions.
    pub deltas: Arc<Deltas>,
    /// Counters of devices, for figures.
    pub counters: Arc<Counters>,
    /// Rollouts, which a version must not be taken from.
    pub rollouts: Arc<Rollouts>,
    /// Sender of offers to devices.
    pub offers: Offers,
    /// Publications in progress, which the end of the hub waits for.
    pub publications: TaskTracker,
    /// Audit log, which records each change.
    pub audit: AuditLog,
}

impl Models {
    /// Publishes a version, loads it on the hub, and offers it to devices.
    ///
    /// # Errors
    /// When a check fails; nothing is published then.
    pub async fn publish(
        self: &Arc<Self>,
        by: &Caller,
        model: &ModelName,
        request: PublishRequest,
    ) -> Result<Published, PublishError> {
        // In a task of its own: an operator who hangs up must not leave a version half way.
        let (models, model, by) = (Arc::clone(self), model.clone(), by.clone());
        let work = async move { models.publish_whole(&by, model, &request).await };
        match self.publications.spawn(work).await {
            Ok(published) => published,
            Err(_lost) => Err(PublishError::Mismatch("publishing was broken off: push again")),
        }
    }

    async fn publish_whole(
        &self,
        by: &Caller,
        model: ModelName,
        request: &PublishRequest,
    ) -> Result<Published, PublishError> {
        let version = request.version;
        let before = self.offered(&model);
        let mut publication = self.registry.publish(&self.loader, &model, request).await?;
        let pool = match publication.pool.take() {
            // It did not load at the start, for example because a file was damaged.
            None if publication.unchanged && !self.workers.is_loaded(&model, version) => {
                self.load_again(&model, version).await?
            }
            pool => pool,
        };
        if let Some(pool) = pool {
            self.workers.put(pool, self.registry.current(&model));
        }
        if !publication.unchanged || publication.change != Change::None {
            let after = format!("{}, manifest {}", self.offered(&model).unwrap_or_default(), request.manifest);
            self.record(by, "model.publish", &model, version, before, Some(after)).await;
        }
        // Before the offers: a device that asks for a delta finds it in the queue.
        self.deltas.prepare(&model, version);
        let devices_told = match publication.change {
            Change::Current(version) => self.offers.offer(&model, version, false),
            Change::None if publication.mended && self.registry.current(&model) == Some(version) => {
                self.offers.offer(&model, version, true)
            }
            Change::Held(_) | Change::None => 0,
        };
        let Publication { unchanged, warnings, .. } = publication;
        let offered = self.registry.current(&model);
        Ok(Published { model, version, devices_told, offered, unchanged, warnings })
    }

    /// Makes a version current and offers it to devices, also to those that had rejected it.
    ///
    /// # Errors
    /// When there is no such version, it is too low, or the store fails.
    pub async fn offer(&self, by: &Caller, model: &ModelName, version: Version) -> Result<Published, PublishError> {
        if let Some(rollout) = self.rollouts.active(model, None) {
            return Err(PublishError::InRollout { model: model.clone(), rollout });
        }
        let before = self.offered(model);
        let change = self.registry.offer(model, version).await?;
        // Also when it was current already: devices that rejected it try again.
        self.record(by, "model.offer", model, version, before, self.offered(model)).await;
        self.deltas.prepare(model, version);
        let devices_told = self.offers.offer(model, version, true);
        let (model, unchanged) = (model.clone(), change == Change::None);
        let offered = Some(version);
        Ok(Published { model, version, devices_told, offered, unchanged, warnings: Vec::new() })
    }

    /// Withdraws a version that no device has.
    ///
    /// # Errors
    /// When a device has it or may have it, or a check fails; it is published as before then.
    pub async fn withdraw(
        self: &Arc<Self>,
        by: &Caller,
        model: &ModelName,
        request: WithdrawRequest,
    ) -> Result<Withdrawn, PublishError> {
        // In a task of its own, like a publication.
        let (models, model, by) = (Arc::clone(self), model.clone(), by.clone());
        let work = async move {
            let version = request.version;
            if let Some(rollout) = models.rollouts.active(&model, Some(version)) {
                return Err(PublishError::InRollout { model, rollout });
            }
            let before = models.offered(&model);
            let offered = models.registry.withdraw(&models.fleet, &model, &request).await?;
            models.workers.remove(&model, version);
            models.record(&by, "model.withdraw", &model, version, before, models.offered(&model)).await;
            Ok(Withdrawn { model, version, offered })
        };
        match self.publications.spawn(work).await {
            Ok(withdrawn) => withdrawn,
            Err(_lost) => Err(PublishError::Mismatch("the withdrawal was broken off: withdraw again")),
        }
    }

    /// Deletes a version that no device holds and that is not offered.
    ///
    /// # Errors
    /// When a device holds it, it is offered, or a check fails; it is published as before then.
    pub async fn delete(
        self: &Arc<Self>,
        by: &Caller,
        model: &ModelName,
        request: DeleteRequest,
    ) -> Result<Deleted, PublishError> {
        // In a task of its own, like a publication.
        let (models, model, by) = (Arc::clone(self), model.clone(), by.clone());
        let work = async move {
            let version = request.version;
            if let Some(rollout) = models.rollouts.active(&model, None) {
                return Err(PublishError::InRollout { model, rollout });
            }
            let devices = models.rollouts.pinned_to(&model, version);
            if !devices.is_empty() {
                return Err(PublishError::Taken { model, version, devices });
            }
            let files = models.registry.delete(&models.fleet, &model, &request).await?;
            models.workers.remove(&model, version);
            models.deltas.collect(false);
            let after = format!("deleted, {} files with {} bytes", files.files, files.bytes);
            models.record(&by, "model.delete", &model, version, Some("past".to_owned()), Some(after)).await;
            Ok(Deleted { model, version, files })
        };
        match self.publications.spawn(work).await {
            Ok(deleted) => deleted,
            Err(_lost) => Err(PublishError::Mismatch("the deletion was broken off: delete again")),
        }
    }

    /// Removes files that nothing needs, or counts them.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn collect_garbage(&self, by: &Caller, dry_run: bool) -> Result<Garbage, BlobError> {
        let orphans = self.registry.collect_orphans(ORPHAN_AGE, dry_run).await?;
        let deltas = self.deltas.collect(dry_run);
        if !dry_run {
            let after =
                format!("{} uploads, {} deltas, {} bytes", orphans.files, deltas.files, orphans.bytes + deltas.bytes);
            let event = Event::new(clock::unix_ms(), &by.name, "model.gc", "files");
            self.audit.record(event.states(None, Some(after))).await;
        }
        Ok(Garbage { dry_run, orphans, deltas, versions: self.registry.unheld(&self.fleet) })
    }

    /// Returns a page of the models, by name.
    #[must_use]
    pub fn list(&self, query: &PageQuery) -> ModelList {
        let registry = self.registry.snapshot();
        let limit = query.limit.map_or(usize::MAX, |limit| limit.clamp(1, PAGE_MAX) as usize);
        let behind = |name: &ModelName| query.after.as_deref().is_none_or(|after| name.as_str() > after);
        let mut wanted = registry.models().filter(|(name, _model)| behind(name));
        let models: Vec<ModelView> = wanted.by_ref().take(limit).map(|(name, model)| self.view(name, model)).collect();
        let next = wanted.next().and_then(|_more| models.last()).map(|last| last.model.to_string());
        ModelList { models, next }
    }

    /// Returns one model; `None` when there is none of that name.
    #[must_use]
    pub fn show(&self, name: &ModelName) -> Option<ModelView> {
        self.registry.snapshot().model(name).map(|model| self.view(name, model))
    }

    /// Loads a published version that is not loaded, where it is the current one.
    async fn load_again(&self, model: &ModelName, version: Version) -> Result<Option<Pool>, PublishError> {
        let is_current = self.registry.current(model) == Some(version);
        match self.registry.manifest(model, version).filter(|_manifest| is_current) {
            Some(manifest) => self.registry.load_own(&self.loader, &manifest).await,
            None => Ok(None),
        }
    }

    /// Returns the state of a model for the audit log: the version that is offered.
    fn offered(&self, model: &ModelName) -> Option<String> {
        let registry = self.registry.snapshot();
        let model = registry.model(model)?;
        Some(model.current().map_or_else(|| "offered none".to_owned(), |version| format!("offered {version}")))
    }

    async fn record(
        &self,
        by: &Caller,
        action: &str,
        model: &ModelName,
        version: Version,
        before: Option<String>,
        after: Option<String>,
    ) {
        let event = Event::new(clock::unix_ms(), &by.name, action, format!("{model}/{version}"));
        self.audit.record(event.states(before, after)).await;
    }

    fn view(&self, name: &ModelName, model: &hub_core::registry::Model) -> ModelView {
        let mut versions: Vec<VersionView> = model
            .versions()
            .map(|(record, standing)| VersionView {
                version: record.version,
                manifest: record.manifest,
                published_unix_ms: record.published_unix_s.saturating_mul(1000),
                held: record.held || (standing == Standing::Held && !record.released),
                variants: self.variant_names(name, record.version),
                loaded: self.workers.is_loaded(name, record.version),
                deltas: self.delta_views(name, record.version),
            })
            .collect();
        versions.reverse();
        let offered = model.current().and_then(|version| self.registry.manifest(name, version));
        ModelView {
            model: name.clone(),
            latest: versions.first().map(|version| version.version),
            offered: model.current(),
            versions,
            devices: self.fleet.followers(name),
            answered: self.workers.answered(name),
            figures: Vec::new(),
            warnings: offered.map_or_else(Vec::new, |manifest| regress::warnings(&manifest)),
        }
    }

    fn delta_views(&self, model: &ModelName, version: Version) -> Vec<DeltaView> {
        let Some(manifest) = self.registry.manifest(model, version) else { return Vec::new() };
        let mut views = Vec::new();
        for variant in manifest.variants_for(Place::Device) {
            for file in variant.files() {
                for entry in self.deltas.to_file(&file.digest) {
                    let from = entry.pair.base.and_then(|base| self.registry.version_of_file(model, &base));
                    // From a version that was deleted or belongs to another model.
                    if entry.pair.base.is_some() && from.is_none() {
                        continue;
                    }
                    views.push(DeltaView {
                        from,
                        variant: variant.name.to_string(),
                        file: file.name.to_string(),
                        bytes: entry.bytes,
                        of_bytes: file.size,
                    });
                }
            }
        }
        views
    }

    fn variant_names(&self, model: &ModelName, version: Version) -> Vec<String> {
        let manifest = self.registry.manifest(model, version);
        manifest.map_or_else(Vec::new, |manifest| {
            manifest.variants.iter().map(|variant| format!("{} ({})", variant.name, variant.runs_on)).collect()
        })
    }
}
