//! Calls about operators and their tokens.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::{Extension, Json};

use super::Refused;
use super::auth::Operator;
use super::error::JsonBody;
use crate::api::{ErrorCode, OperatorCreated, OperatorList, OperatorRenewal, OperatorRequest, OperatorRevoked};
use crate::clock;
use crate::hub::Hub;
use crate::operators::{CreateOperatorError, RevokeOperatorError, local};

/// `POST /operators`.
pub(super) async fn create(
    State(hub): State<Arc<Hub>>,
    Extension(Operator(by)): Extension<Operator>,
    JsonBody(request): JsonBody<OperatorRequest>,
) -> Result<Json<OperatorCreated>, Refused> {
    let created = hub.operators.create(&request.name, request.ttl_days, clock::unix_ms()).await.map_err(refused)?;
    tracing::info!(operator = by, created = created.name, "operator token made");
    Ok(Json(created))
}

/// `POST /operators/renew`.
pub(super) async fn renew(
    State(hub): State<Arc<Hub>>,
    Extension(Operator(by)): Extension<Operator>,
    JsonBody(request): JsonBody<OperatorRenewal>,
) -> Result<Json<OperatorCreated>, Refused> {
    let name = match request.name {
        Some(name) => name,
        None if by == local::NAME => {
            return Err(Refused::new(ErrorCode::BadRequest, "which operator's token is to be renewed is not said")
                .hint("name the operator: cloud-hub operator renew NAME --config hub.toml"));
        }
        None => by.clone(),
    };
    let renewed = hub.operators.renew(&name, request.ttl_days, clock::unix_ms()).await.map_err(refused)?;
    tracing::info!(operator = by, renewed = renewed.name, "operator token renewed");
    Ok(Json(renewed))
}

fn refused(error: CreateOperatorError) -> Refused {
    match &error {
        CreateOperatorError::Name | CreateOperatorError::Ttl => Refused::new(ErrorCode::BadRequest, error.to_string()),
        CreateOperatorError::Exists { .. } => Refused::new(ErrorCode::Conflict, error.to_string())
            .hint("choose another name, or renew that one: cloud-hub operator renew NAME --out FILE"),
        CreateOperatorError::Unknown { .. } => {
            Refused::new(ErrorCode::NotFound, error.to_string()).hint("see all of them: cloud-hub operator list")
        }
        CreateOperatorError::Store(cause) => Refused::storage(cause),
    }
}

/// `GET /operators`.
pub(super) async fn list(State(hub): State<Arc<Hub>>) -> Result<Json<OperatorList>, Refused> {
    let operators = hub.operators.list(clock::unix_ms()).await.map_err(|error| Refused::storage(&error))?;
    Ok(Json(OperatorList { operators }))
}

/// `POST /operators/{operator}/revoke`.
pub(super) async fn revoke(
    State(hub): State<Arc<Hub>>,
    Extension(Operator(by)): Extension<Operator>,
    Path(name): Path<String>,
) -> Result<Json<OperatorRevoked>, Refused> {
    let revoked = hub.operators.revoke(&name, &by, clock::unix_ms()).await.map_err(|error| match &error {
        RevokeOperatorError::Unknown { .. } => {
            Refused::new(ErrorCode::NotFound, error.to_string()).hint("see all of them: cloud-hub operator list")
        }
        RevokeOperatorError::Last { .. } => Refused::new(ErrorCode::Conflict, error.to_string())
            .hint("make another operator first: cloud-hub operator create NAME --out FILE"),
        RevokeOperatorError::Store(cause) => Refused::storage(cause),
    })?;
    tracing::warn!(operator = by, revoked = revoked.name, "operator revoked");
    Ok(Json(revoked))
}
