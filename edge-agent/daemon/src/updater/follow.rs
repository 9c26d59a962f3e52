//! Begins to follow a model: makes the parts of its updater from those that all models share.
//!
//! Used by [`crate::agent`] for the models of the configuration and by [`crate::assigned`] for those of the hub.

use std::sync::{Arc, RwLock};

use store::{StoreError, Table};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::commands::Command;
use super::disk;
use super::shared::SharedParts;
use super::task::{ModelUpdater, UpdaterParts};
use crate::models::Model;
use crate::records::v1::{ChosenForm, FailedVersion, OnProbation, StandingOrders};

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

impl SharedParts {
    /// Takes up where the last run of a model was cut off, and loads what served then.
    ///
    /// # Errors
    /// When the store does not read.
    pub async fn follow(&self, model: Arc<Model>) -> Result<Followed, StoreError> {
        let commands = self.updaters.register(&model.name);
        let store = || Arc::clone(&self.store);
        let parts = UpdaterParts {
            model,
            shared: self.clone(),
            failed: Table::new(store()),
            orders: Table::new(store()),
            probations: Table::new(store()),
            choices: Table::new(store()),
            choice: RwLock::default(),
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
        let choices: Table<ChosenForm> = Table::new(Arc::clone(&self.store));
        let key = model.name.as_str();
        let mut deleted = vec![orders.delete(key).await, probations.delete(key).await, choices.delete(key).await];
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
