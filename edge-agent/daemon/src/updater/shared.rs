//! Parts of the agent that the updaters of all models share.
//!
//! Made by [`crate::agent`] once; each updater has a copy beside its own tables.

use std::sync::Arc;

use store::Store;

use super::commands::Updaters;
use super::{Attempts, LoadMemory, LoadTable, Transfers};
use crate::config::UpdatesTable;
use crate::engines::Engines;
use crate::measured::Measurements;
use crate::reports::Reports;
use crate::state::Folder;
use crate::status::SharedStatus;
use crate::trust::DeviceTrust;
use crate::uplink::Link;

/// Parts that the updaters of all models share.
#[derive(Debug, Clone)]
pub struct SharedParts {
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
    /// Memory of the loads of all models.
    pub load_memory: Arc<LoadMemory>,
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
