//! The HTTP door for applications on this device: Open Inference Protocol v2, as `tritonclient` speaks it.
//!
//! Fed by [`crate::agent`], which binds the port; serves what [`crate::models`] holds through [`crate::answer`].
//! [`serve`] owns the connections, [`guard`] refuses web pages and foreign names, [`router`] maps paths to handlers,
//! [`body`] reads requests within the [`budget`], [`codec`] reads and writes tensors.

pub mod body;
pub mod budget;
pub mod codec;
pub mod connections;
mod error;
pub mod guard;
mod infer;
mod metadata;
mod serve;
mod status;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

pub use body::BodyLimits;
pub use budget::Budget;
pub use error::DoorError;
pub use guard::Guard;
pub use serve::{ConnectionLimits, LocalAddress, serve};

use crate::answer::RunLimits;
use crate::board::Board;
use crate::config::DoorTable;
use crate::models::Models;
use crate::uplink::Link;

/// Everything that a request may need.
#[derive(Debug)]
pub struct Door {
    /// The models of this device.
    pub models: Arc<Models>,
    /// The way to the hub.
    pub link: Link,
    /// What the parts of the agent say of themselves.
    pub board: Arc<Board>,
    /// Limits of the configuration.
    pub table: DoorTable,
    /// Limits of a run on this device.
    pub run: RunLimits,
    /// One permit for each complete request that may be worked on.
    pub permits: Arc<Semaphore>,
    /// Memory of all requests and responses.
    pub budget: Arc<Budget>,
    /// Refuses web pages and foreign names.
    pub guard: Arc<Guard>,
}

impl Door {
    /// A door with as many permits as the configuration allows requests.
    #[must_use]
    pub fn new(models: Arc<Models>, link: Link, board: Arc<Board>, table: DoorTable, run: RunLimits) -> Self {
        let permits = Arc::new(Semaphore::new(table.requests_max.min(Semaphore::MAX_PERMITS)));
        let budget = Budget::new(table.memory_bytes());
        let guard = Arc::new(Guard::new(&table));
        Self { models, link, board, table, run, permits, budget, guard }
    }

    /// Limits of the body of a request.
    #[must_use]
    pub fn body_limits(&self) -> BodyLimits {
        BodyLimits {
            bytes_max: self.table.body_bytes_max,
            timeout: self.table.body_timeout,
            rate_min: self.table.rate_min_bytes,
        }
    }
}

/// What lies at which path.
pub fn router(door: Arc<Door>) -> Router {
    let guard = Arc::clone(&door.guard);
    Router::new()
        .route("/v2", get(metadata::server))
        .route("/v2/", get(metadata::server))
        .route("/v2/health/live", get(metadata::live))
        .route("/v2/health/ready", get(metadata::ready))
        .route("/v2/models/{model}", get(metadata::model))
        .route("/v2/models/{model}/versions/{version}", get(metadata::version))
        .route("/v2/models/{model}/ready", get(metadata::model_ready))
        .route("/v2/models/{model}/versions/{version}/ready", get(metadata::version_ready))
        .route("/v2/models/{model}/stats", get(metadata::model_statistics))
        .route("/v2/models/{model}/versions/{version}/stats", get(metadata::version_statistics))
        .route("/v2/models/stats", get(metadata::statistics))
        .route("/v2/repository/index", post(metadata::index))
        .route("/v2/models/{model}/infer", post(infer::newest))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer::of_version))
        .route("/sanderling/v1/status", get(status::status))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(axum::middleware::from_fn_with_state(guard, guard::check))
        .layer(CatchPanicLayer::custom(error::panicked))
        .with_state(door)
}
