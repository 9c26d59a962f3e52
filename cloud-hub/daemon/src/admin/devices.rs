//! Calls about devices and the tokens that let them join.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use types::DeviceId;

use super::Refused;
use super::auth::Operator;
use super::error::{JsonBody, Named};
use crate::api::{DeviceList, DeviceView, ErrorCode, RevokeRequest, TOKEN_TTL_S_MAX, TokenCreated, TokenRequest};
use crate::fleet::FleetError;
use crate::hub::Hub;
use crate::tokens::{CreateTokenError, TokenOrder};

/// Longest reason for a revocation in bytes: one line.
const WHY_BYTES_MAX: usize = 200;

/// `POST /tokens`.
pub(super) async fn create_token(
    State(hub): State<Arc<Hub>>,
    Extension(Operator(by)): Extension<Operator>,
    JsonBody(request): JsonBody<TokenRequest>,
) -> Result<Json<TokenCreated>, Refused> {
    let lifetime_s = request.ttl_s.unwrap_or(TOKEN_TTL_S_MAX);
    let order = TokenOrder { device: request.device, replace: request.replace, lifetime_s };
    let created = hub.create_token(order).await.map_err(|error| match &error {
        CreateTokenError::DeviceExists(_) => Refused::new(ErrorCode::Conflict, error.to_string())
            .hint("choose another name, or add --replace to enrol the same machine anew"),
        CreateTokenError::Lifetime(_) => Refused::new(ErrorCode::BadRequest, error.to_string()),
        CreateTokenError::Token(_) => Refused::internal(&error),
        CreateTokenError::Store(cause) => Refused::storage(cause),
    })?;
    tracing::info!(operator = by, device = %created.device, lifetime_s, "join token made");
    Ok(Json(created))
}

/// `GET /devices`.
pub(super) async fn list(State(hub): State<Arc<Hub>>) -> Result<Json<DeviceList>, Refused> {
    let devices = hub.fleet.list().await.map_err(|error| refuse(&error))?;
    Ok(Json(DeviceList { devices, unknown: hub.fleet.unknown() }))
}

/// `GET /devices/{id}`.
pub(super) async fn show(
    State(hub): State<Arc<Hub>>,
    Named(device): Named<DeviceId>,
) -> Result<Json<DeviceView>, Refused> {
    hub.fleet.show(&device).await.map(Json).map_err(|error| refuse(&error))
}

/// `POST /devices/{id}/revoke`.
pub(super) async fn revoke(
    State(hub): State<Arc<Hub>>,
    Extension(Operator(by)): Extension<Operator>,
    Named(device): Named<DeviceId>,
    JsonBody(request): JsonBody<RevokeRequest>,
) -> Result<Json<DeviceView>, Refused> {
    if request.why.len() > WHY_BYTES_MAX || request.why.chars().any(char::is_control) {
        return Err(Refused::new(
            ErrorCode::BadRequest,
            format!("a reason is at most {WHY_BYTES_MAX} bytes on one line"),
        ));
    }
    let view = hub.fleet.revoke(&device, &request.why).await.map_err(|error| refuse(&error))?;
    tracing::info!(operator = by, %device, "device revoked");
    Ok(Json(view))
}

/// `POST /devices/{id}/readmit`.
pub(super) async fn readmit(
    State(hub): State<Arc<Hub>>,
    Extension(Operator(by)): Extension<Operator>,
    Named(device): Named<DeviceId>,
) -> Result<Json<DeviceView>, Refused> {
    let view = hub.fleet.readmit(&device).await.map_err(|error| refuse(&error))?;
    tracing::info!(operator = by, %device, "device readmitted");
    Ok(Json(view))
}

fn refuse(error: &FleetError) -> Refused {
    match error {
        FleetError::Unknown(_) => {
            Refused::new(ErrorCode::NotFound, error.to_string()).hint("see all of them: cloud-hub device list")
        }
        FleetError::NotSeen(_) => Refused::new(ErrorCode::NotFound, error.to_string()).hint(
            "it tries again within the hour, or at once when its agent is started again; or enrol it with a new token",
        ),
        FleetError::Exists(device) => Refused::new(ErrorCode::Conflict, error.to_string())
            .hint(format!("enrol the same machine anew: cloud-hub token create --name {device} --replace")),
        FleetError::Store(cause) => Refused::storage(cause),
    }
}
