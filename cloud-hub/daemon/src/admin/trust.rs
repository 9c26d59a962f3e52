//! Calls about trust: who may sign what and until when, new online keys, new roots and lists.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use jiff::Timestamp;

use super::Refused;
use super::auth::Operator;
use super::error::JsonBody;
use crate::api::ErrorCode;
use crate::api::trust::{OnlineKeysView, TrustChange, TrustChanged, TrustView};
use crate::hub::Hub;
use crate::registry::metadata::MetadataError;

/// `GET /trust`.
pub(super) async fn show(State(hub): State<Arc<Hub>>) -> Result<Json<TrustView>, Refused> {
    hub.registry.trust_view(Timestamp::now()).map(Json).map_err(|error| refuse(&error))
}

/// `POST /trust/online-keys`.
pub(super) async fn make_online_keys(
    State(hub): State<Arc<Hub>>,
    Extension(Operator(by)): Extension<Operator>,
) -> Result<Json<OnlineKeysView>, Refused> {
    let keys = hub.registry.next_online_keys().await.map_err(|error| refuse(&error))?;
    tracing::info!(
        operator = by,
        snapshot = keys.snapshot,
        timestamp = keys.timestamp,
        "online keys made for a rotation"
    );
    Ok(Json(keys))
}

/// `POST /trust/changes`.
pub(super) async fn change(
    State(hub): State<Arc<Hub>>,
    Extension(Operator(by)): Extension<Operator>,
    JsonBody(change): JsonBody<TrustChange>,
) -> Result<Json<TrustChanged>, Refused> {
    let changed = hub.change_trust(change).await.map_err(|error| refuse(&error))?;
    tracing::info!(
        operator = by,
        root = changed.root_version,
        targets = changed.targets_version,
        unchanged = changed.unchanged,
        "trust changed"
    );
    Ok(Json(changed))
}

/// The answer to a call that failed on the signed metadata.
pub(super) fn refuse(error: &MetadataError) -> Refused {
    let told = telemetry::chain(error);
    match (error.command(), error) {
        (Some(command), _) => Refused::new(ErrorCode::NotTrusted, told).hint(format!("run: {command}")),
        (None, MetadataError::NotNext(_) | MetadataError::ForeignOnlineKeys) => Refused::new(ErrorCode::Conflict, told)
            .hint("something was published or renewed meanwhile: prepare the change again"),
        (None, error) if error.is_refusal() => Refused::new(ErrorCode::NotTrusted, told)
            .hint("are the keys those of this hub? see who may sign what: cloud-hub trust status"),
        (None, error) => Refused::storage(error),
    }
}
