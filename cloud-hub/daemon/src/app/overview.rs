//! Status of the hub, with everything that an operator should see to.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use store::StoreError;
use types::{Digest, ModelName};

use crate::api::{EngineView, FormView, HubStatus, Listening};
use crate::app::calibrations::Calibrations;
use crate::app::fleet::Fleet;
use crate::app::operators::Operators;
use crate::app::registry::Registry;
use crate::clock;
use crate::storage::backup::Restored;
use crate::storage::folder::Folder;
use crate::workers::Workers;
use crate::workers::load::Loader;

/// Status of the hub.
#[derive(Debug)]
pub struct Overview {
    /// Registry of versions, which are counted.
    pub registry: Arc<Registry>,
    /// Versions that the hub has loaded.
    pub workers: Arc<Workers>,
    /// Loader, for its engine.
    pub loader: Arc<Loader>,
    /// Devices and their connections.
    pub fleet: Arc<Fleet>,
    /// Thresholds in the field, for those that are broken.
    pub calibrations: Arc<Calibrations>,
    /// Operators, for tokens that end soon.
    pub operators: Arc<Operators>,
    /// State folder, for the note of a restored backup.
    pub folder: Folder,
    /// Fingerprint of the CA.
    pub ca: Digest,
    /// Addresses that the servers are bound to.
    pub listening: Listening,
    /// Time of the start.
    pub started: Instant,
    /// Warnings of the start.
    pub warnings: Vec<String>,
}

impl Overview {
    /// Returns a summary of the hub's state.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn status(&self) -> Result<HubStatus, StoreError> {
        let devices = self.fleet.count().await?;
        let tokens = self.operators.warnings(clock::unix_ms()).await?;
        let described = self.loader.engine.describe();
        let (requests_waiting, requests_running) = self.workers.load();
        let loaded = self.workers.all();
        Ok(HubStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            listening: self.listening.clone(),
            ca: self.ca,
            engine: EngineView { name: described.engine.to_string(), version: described.version },
            devices,
            devices_connected: self.fleet.online(),
            requests_waiting,
            requests_running,
            models: self.registry.snapshot().models().count(),
            loaded: loaded.iter().map(|pool| format!("{}/{}", pool.model(), pool.version())).collect(),
            warnings: self.warnings().into_iter().chain(tokens).collect(),
            isolation: Some(self.loader.inference.isolation),
            hosts: self.loader.engine.hosts(),
        })
    }

    /// Returns whether a warning of the start is over: the version that did not load then is loaded now.
    fn is_over(&self, warning: &str) -> bool {
        let loaded = self.workers.all();
        loaded.iter().any(|pool| warning.starts_with(&format!("{}/{} does not load: ", pool.model(), pool.version())))
    }

    /// Returns every warning that is valid now.
    fn warnings(&self) -> Vec<String> {
        let own = self.warnings.iter().filter(|warning| !self.is_over(warning)).cloned();
        let own = own.chain(self.workers.warnings()).chain(self.registry.trust_warnings(Timestamp::now()));
        let restored = Restored::read(&self.folder).map(|restored| restored.warning());
        own.chain(restored)
            .chain(self.registry.damage())
            .chain(self.foreign_content())
            .chain(self.calibrations.warnings())
            .collect()
    }

    /// Returns a warning for each device that serves other content under a number than was published under it. That takes
    /// a number that was used twice: a withdrawal that a lost record allowed, or a hub that was restored from a backup.
    fn foreign_content(&self) -> Vec<String> {
        let is_other = |model: &ModelName, installed: &FormView| {
            let manifest = self.registry.manifest(model, installed.version)?;
            let published = manifest.variant(&installed.variant).map(|variant| variant.file.digest);
            (published != Some(installed.digest)).then(|| {
                format!(
                    "serves {model}/{} with other content than is published: push a higher version",
                    installed.version
                )
            })
        };
        let models: Vec<ModelName> =
            self.registry.snapshot().models().map(|(model, _versions)| model.clone()).collect();
        let followers = models.iter().flat_map(|model| {
            self.fleet.followers(model).into_iter().filter_map(move |follower| {
                Some(format!("device {} {}", follower.device, is_other(model, follower.active.as_ref()?)?))
            })
        });
        followers.collect()
    }
}
