//! Who calls: every call carries the token of an operator on record, or is not looked at.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;

use super::Refused;
use super::error::JsonBody;
use crate::api::{ErrorCode, OperatorCreated, OperatorRequest};
use crate::clock;
use crate::hub::Hub;
use crate::operators::{CreateOperatorError, NotAnOperator};

/// The operator whose token a call carries; for the log.
#[derive(Debug, Clone)]
pub(super) struct Operator(pub(super) String);

/// Lets a call through that carries the token of an operator.
pub(super) async fn require_operator(
    State(hub): State<Arc<Hub>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refused> {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    match hub.operators.who(token, clock::unix_ms()).await {
        Ok(name) => {
            request.extensions_mut().insert(Operator(name));
            Ok(next.run(request).await)
        }
        Err(NotAnOperator::Unknown) => {
            Err(Refused::new(ErrorCode::NotAuthorised, "the hub does not know this operator token"))
        }
        Err(NotAnOperator::Expired { name }) => {
            Err(Refused::new(ErrorCode::TokenExpired, format!("the token of operator {name:?} has expired")))
        }
        Err(NotAnOperator::Store(error)) => Err(Refused::storage(&error)),
    }
}

/// `POST /operators`.
pub(super) async fn create_operator(
    State(hub): State<Arc<Hub>>,
    axum::Extension(Operator(by)): axum::Extension<Operator>,
    JsonBody(request): JsonBody<OperatorRequest>,
) -> Result<Json<OperatorCreated>, Refused> {
    let created =
        hub.operators.create(&request.name, request.ttl_days, clock::unix_ms()).await.map_err(
            |error| match &error {
                CreateOperatorError::Name | CreateOperatorError::Ttl => {
                    Refused::new(ErrorCode::BadRequest, error.to_string())
                }
                CreateOperatorError::Store(cause) => Refused::storage(cause),
            },
        )?;
    tracing::info!(operator = by, created = created.name, "operator token made");
    Ok(Json(created))
}
