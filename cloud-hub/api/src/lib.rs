//! The hub's admin API as types: every endpoint with its method, path, role, request and response.
//!
//! Read by the hub's router, by the operator's command line, by the reference page and by the OpenAPI document, so that
//! none of them can differ from the others. Times are milliseconds since 1970 (`_unix_ms`). Every refusal is an [`ApiError`].
//!
//! Deliberately absent: HTTP libraries. [`endpoint::Endpoint`] describes a call; servers and clients carry it out.

pub mod audit;
mod calibrations;
mod cloned;
mod devices;
pub mod endpoint;
pub mod endpoints;
mod error;
mod figures;
mod hub;
mod models;
pub mod openapi;
mod operators;
mod page;
mod recovery;
pub mod reference;
mod role;
mod rollouts;
mod schema;
mod tokens;
pub mod trust;

pub use calibrations::{CalibrationList, CalibrationReset, CalibrationResetDone, CalibrationView};
pub use cloned::ClonedView;
pub use devices::{
    DeviceList, DeviceListQuery, DeviceModelView, DeviceState, DeviceView, DriftView, EngineOfDevice, FormView,
    LabelChange, ReportView, RevokeRequest, RunningView,
};
pub use error::{ApiError, ErrorCode};
pub use figures::{FiguresView, MeasuredView, ModelFigures, VariantFiguresView};
pub use hub::{EngineView, HubStatus, Listening};
pub use models::{
    BlobStored, DeleteRequest, Deleted, DeltaView, FilesView, Garbage, GarbageRequest, ModelDeviceView, ModelList,
    ModelView, OfferRequest, PublishRequest, Published, ReasonView, UnheldView, VersionView, WithdrawRequest,
    Withdrawn,
};
pub use operators::{OperatorCreated, OperatorList, OperatorRenewal, OperatorRequest, OperatorRevoked, OperatorView};
pub use page::{PAGE_MAX, PageQuery};
pub use recovery::{BackupSnapshot, UnknownDevice};
pub use role::{Role, UnknownRole};
pub use rollouts::{
    AssignRequest, AssignmentView, DecisionView, ExplainQuery, PinRequest, PinView, RolloutAction, RolloutCounts,
    RolloutDetail, RolloutDeviceView, RolloutExplanation, RolloutList, RolloutRequest, RolloutView,
};
pub use tokens::{TOKEN_TTL_S_MAX, TokenCreated, TokenRequest};

/// Prefix of every path.
pub const PREFIX: &str = "/api/v1";

/// Maximum length of a JSON body in bytes: targets metadata of thousands of versions (about 300 bytes each) fits.
pub const JSON_BYTES_MAX: usize = 8 * 1024 * 1024;
