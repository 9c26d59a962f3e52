//! Refusals of the API: a status, a code, one clause, and never a path, an address or a cause.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use crate::api::{ApiError, ErrorCode};

/// Refusal of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(ApiError);

impl Refused {
    /// Creates a refusal whose text may be shown as it is.
    pub fn new(code: ErrorCode, error: impl Into<String>) -> Self {
        Self(ApiError { error: error.into(), code, hint: None })
    }

    /// Adds advice for the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Creates the refusal for a fault of the hub: the cause goes to the log, its id to the operator.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        let id = Uuid::new_v4();
        tracing::error!(%id, error = telemetry::chain(error), "operator call failed");
        Self::new(ErrorCode::Internal, format!("the hub failed, see its log for {id}"))
    }

    /// Creates the refusal for a fault of the hub's disk: as [`Refused::internal`], with its own code.
    pub fn storage(error: &(dyn std::error::Error + 'static)) -> Self {
        let id = Uuid::new_v4();
        tracing::error!(%id, error = telemetry::chain(error), "storage failed");
        Self::new(ErrorCode::Storage, format!("the hub could not store this, see its log for {id}"))
    }

    /// Returns the code for programs.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

/// Answers a call that does not exist.
pub(super) async fn no_such_call() -> Refused {
    Refused::new(ErrorCode::NotFound, "the hub has no such call").hint("are hub and command line of the same version?")
}

/// Returns the response to a call whose handler panicked; the panic itself is in the log.
pub(super) fn panicked() -> Response {
    Refused::new(ErrorCode::Internal, "the hub failed, see its log").into_response()
}
