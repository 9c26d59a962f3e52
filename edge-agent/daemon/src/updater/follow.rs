//! Begins to follow a model: makes the parts of its updater from those that all models share.
//!
//! Used by [`crate::agent`] for the models of the configuration and by [`crate::assigned`] for those of the hub.

use std::sync::Arc;

use store::{Store, StoreError, Table};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::commands::{Command, Updaters};
use super::task::{ModelUpdater, UpdaterParts};
use super::{Attempts, LoadTable, Transfers, disk};
use crate::config::UpdatesTable;
use crate::engines::Engines;
use crate::measured::Measurements;
use crate::models::Model;
use crate::records::v1::{FailedVersion, OnProbation, StandingOrders};
use crate::reports::Reports;
use crate::state::Folder;
use crate::status::SharedStatus;
use crate::trust::DeviceTrust;
use crate::uplink::Link;

/// Parts that the updaters of all models share.
#[derive(Debug, Clone)]
pub struct Follower {
    /// State folder with the versions.
    pub folder: Folder,
    /// Trust in versions; `None` on a device that was never enrolled.
    pub trust: Option<Arc<DeviceTrust>>,
    /// The way to the hub.
    pub link: Link,
    /// Engines that can run models.
    pub engines: Arc<Engines>,
    /// Configuration of loads.
    pub load: LoadTable,
    /// Settings of updates.
    pub updates: UpdatesTable,
    /// The downloads of all models.
    pub transfers: Arc<Transfers>,
    /// Outbox of reports to the hub.
    pub reports: Arc<Reports>,
    /// Store of the agent's records.
    pub store: Arc<dyn Store>,
    /// Loads that were begun.
    pub attempts: Attempts,
    /// Measurements that wait for the hub.
    pub measurements: Arc<Measurements>,
    /// Status of the agent, updated at each change.
    pub shared_status: Arc<SharedStatus>,
    /// Registry of the updaters.
    pub updaters: Arc<Updaters>,
}

/// The updater of a model that is followed, and its commands.
#[derive(Debug)]
pub struct Followed {
    updater: ModelUpdater,
    commands: mpsc::Receiver<Command>,
}

impl Followed {
    /// Runs the updater until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        self.updater.run(self.commands, stop).await;
    }
}

impl Follower {
    /// Takes up where the last run of a model was cut off, and loads what served then.
    ///
    /// # Errors
    /// When the store does not read.
    pub async fn follow(&self, model: Arc<Model>) -> Result<Followed, StoreError> {
        let commands = self.updaters.register(&model.name);
        let store = || Arc::clone(&self.store);
        let parts = UpdaterParts {
            model,
            folder: self.folder.clone(),
            trust: self.trust.clone(),
            link: self.link.clone(),
            engines: Arc::clone(&self.engines),
            load: self.load.clone(),
            updates: self.updates.clone(),
            transfers: Arc::clone(&self.transfers),
            reports: Arc::clone(&self.reports),
            failed: Table::new(store()),
            orders: Table::new(store()),
            probations: Table::new(store()),
            attempts: self.attempts.clone(),
            measurements: Arc::clone(&self.measurements),
            shared_status: Arc::clone(&self.shared_status),
        };
        Ok(Followed { updater: ModelUpdater::resume(parts).await?, commands })
    }

    /// Removes everything of a model that is not followed any more; its updater has ended.
    pub async fn forget(&self, model: &Model) {
        self.updaters.remove(&model.name);
        let (folder, name) = (self.folder.clone(), model.name.clone());
        let removed = tokio::task::spawn_blocking(move || disk::remove_model(&folder, &name)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(model = %model.name, error = telemetry::chain(&error), "files of a model stay on the disk");
        }
        let (orders, probations): (Table<StandingOrders>, Table<OnProbation>) =
            (Table::new(Arc::clone(&self.store)), Table::new(Arc::clone(&self.store)));
        let failed: Table<FailedVersion> = Table::new(Arc::clone(&self.store));
        let prefix = format!("{}/", model.name);
        let mut deleted = vec![orders.delete(model.name.as_str()).await, probations.delete(model.name.as_str()).await];
        for (key, _failure) in failed.list().await.map(|listing| listing.records).unwrap_or_default() {
            if key.starts_with(&prefix) {
                deleted.push(failed.delete(&key).await);
            }
        }
        for error in deleted.into_iter().filter_map(Result::err) {
            tracing::warn!(model = %model.name, error = telemetry::chain(&error), "a record of a model stays stored");
        }
        self.shared_status.forget(&model.name);
    }
}
