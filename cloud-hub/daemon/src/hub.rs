//! The hub as a whole: composed and started ([`start`]), running until it is stopped ([`Running`]).
//!
//! Fed by `cloud-hub serve`. The start takes first what can fail cheapest: folder and lock, engine, ports, store, signed
//! metadata, models; only then is anything served. This is the one place that knows all parts.

mod running;
mod secrets;
mod start;
mod start_error;

use std::sync::Arc;

use service::stop::Stop;
use store::Store;
use tokio_util::task::TaskTracker;

use crate::api::Listening;
use crate::app::App;
use crate::config::HubConfig;
use crate::servers::gateway::Services;
use crate::storage::folder::Folder;

pub use running::{RunError, Running};
pub(crate) use start::second_config;
pub use start::{start, start_with_engine};
pub use start_error::StartError;

/// All parts of a running hub. Servers and jobs get the parts that they need, never the whole.
#[derive(Debug)]
pub struct Hub {
    /// Config of the hub, as read at the start.
    pub config: Arc<HubConfig>,
    /// State folder of the hub.
    pub folder: Folder,
    /// Store of all records.
    pub store: Arc<dyn Store>,
    /// Use cases of operators.
    pub app: App,
    /// Parts that serve devices.
    pub services: Arc<Services>,
    /// Tracker of the offers in progress.
    pub notices: TaskTracker,
    /// Publications and changes of trust in progress.
    pub publications: TaskTracker,
    /// Signals of the end.
    pub stop: Stop,
    /// Addresses that the servers are bound to.
    pub listening: Listening,
}
