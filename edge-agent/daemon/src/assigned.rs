//! Models that the hub assigns to this device beside those of `agent.toml`.
//!
//! Fed by the uplink with each new list; follows what was added and drops what was removed. The list is stored, so that a
//! device without its hub serves the same models after a restart. `updates.assign = false` forbids all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use store::{StoreError, Table};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use types::ModelName;

use crate::config::ModelTable;
use crate::models::Models;
use crate::records::v1::AssignedModels;
use crate::updater::{Followed, SharedParts};

/// Key of the list: there is one.
const KEY: &str = "list";

/// Maximum number of lists that wait: the hub sends one at a time.
const LISTS_WAITING: usize = 4;

/// Reason for which a list is not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotAssigned {
    /// The owner forbids it.
    #[error("the owner of the device does not let the hub assign models (updates.assign)")]
    Forbidden,
    /// The list cannot be stored, or a model's records cannot be read.
    #[error("store the list of assigned models")]
    Store(#[from] StoreError),
}

/// A new list of the hub, and where to say that it is stored.
#[derive(Debug)]
pub struct Assignment {
    /// Names of the models, in place of an earlier list.
    pub models: Vec<ModelName>,
    /// Told when the list is stored.
    pub done: oneshot::Sender<Result<(), NotAssigned>>,
}

/// Models that the hub has assigned, and their updaters.
#[derive(Debug)]
pub struct Assigned {
    shared: SharedParts,
    models: Arc<Models>,
    table: Table<AssignedModels>,
    /// Models of the configuration, which the hub cannot take away.
    configured: BTreeSet<ModelName>,
    is_allowed: bool,
    /// Models that are followed by assignment alone.
    waiting: BTreeMap<ModelName, Followed>,
    running: BTreeMap<ModelName, (CancellationToken, JoinHandle<()>)>,
    /// Notifies of each change of the followed models.
    changed: watch::Sender<u64>,
    lists: mpsc::Receiver<Assignment>,
}

/// Ends of the channels of [`Assigned`] for the uplink.
#[derive(Debug)]
pub struct AssignedLink {
    /// Takes the lists of the hub.
    pub lists: mpsc::Sender<Assignment>,
    /// Changes whenever the device follows other models than before.
    pub changed: watch::Receiver<u64>,
}

impl Assigned {
    /// Follows the models of the list that was stored last.
    ///
    /// # Errors
    /// When the store does not read.
    pub async fn restore(
        shared: SharedParts,
        models: Arc<Models>,
        is_allowed: bool,
    ) -> Result<(Self, AssignedLink), StoreError> {
        let configured = models.iter().map(|model| model.name.clone()).collect();
        let table: Table<AssignedModels> = Table::new(Arc::clone(&shared.store));
        let (send, lists) = mpsc::channel(LISTS_WAITING);
        let (changed, follow) = watch::channel(0);
        let (waiting, running) = (BTreeMap::new(), BTreeMap::new());
        let mut assigned = Self { shared, models, table, configured, is_allowed, waiting, running, changed, lists };
        if is_allowed {
            for name in assigned.table.get(KEY).await?.unwrap_or_default() {
                assigned.follow(&name).await?;
            }
        }
        Ok((assigned, AssignedLink { lists: send, changed: follow }))
    }

    async fn follow(&mut self, name: &ModelName) -> Result<(), StoreError> {
        if self.configured.contains(name) || self.waiting.contains_key(name) || self.running.contains_key(name) {
            return Ok(());
        }
        let model = self.models.add(name, ModelTable::default());
        let followed = self.shared.follow(model).await?;
        self.waiting.insert(name.clone(), followed);
        Ok(())
    }

    /// Runs the updaters of the assigned models and takes new lists until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let tracker = TaskTracker::new();
        self.run_waiting(&tracker, &stop);
        while let Some(Some(Assignment { models, done })) = stop.run_until_cancelled(self.lists.recv()).await {
            let taken = self.take(models).await;
            if let Err(error) = &taken {
                tracing::warn!(error = telemetry::chain(error), "models that the hub assigns are not followed");
            }
            self.run_waiting(&tracker, &stop);
            drop(done.send(taken));
        }
        stop.cancelled().await;
        tracker.close();
        tracker.wait().await;
    }

    fn run_waiting(&mut self, tracker: &TaskTracker, stop: &CancellationToken) {
        for (name, followed) in std::mem::take(&mut self.waiting) {
            let stop = stop.child_token();
            let task = tracker.spawn(followed.run(stop.clone()));
            self.running.insert(name, (stop, task));
        }
    }

    /// Stores a list, follows what is new in it and drops what is not in it any more.
    async fn take(&mut self, models: Vec<ModelName>) -> Result<(), NotAssigned> {
        if !self.is_allowed {
            return Err(NotAssigned::Forbidden);
        }
        self.table.put(KEY, &models).await?;
        let dropped: Vec<ModelName> = self.running.keys().filter(|name| !models.contains(name)).cloned().collect();
        let is_new = |name: &&ModelName| !self.running.contains_key(*name) && !self.configured.contains(*name);
        let added: Vec<ModelName> = models.iter().filter(is_new).cloned().collect();
        for name in &dropped {
            tracing::info!(model = %name, "the hub does not assign the model any more: it is removed");
            let Some((stop, task)) = self.running.remove(name) else { continue };
            stop.cancel();
            drop(task.await);
            if let Some(model) = self.models.find(name.as_str()) {
                self.models.remove(name);
                drop(model.switch(None));
                self.shared.forget(&model).await;
            }
        }
        for name in &added {
            tracing::info!(model = %name, "the hub assigns the model: it is followed");
            self.follow(name).await?;
        }
        if !(dropped.is_empty() && added.is_empty()) {
            self.changed.send_modify(|count| *count = count.wrapping_add(1));
        }
        Ok(())
    }
}
