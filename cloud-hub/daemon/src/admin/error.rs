//! How the API refuses: a status, a code, one clause, and never a path, an address or a cause.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use crate::api::{ApiError, ErrorCode};

/// A refusal on its way to the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(ApiError);

impl Refused {
    /// A refusal whose text may be shown as it is.
    pub fn new(code: ErrorCode, error: impl Into<String>) -> Self {
        Self(ApiError { error: error.into(), code, hint: None })
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// A fault of the hub: the cause goes to the log, its id to the operator.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        let id = Uuid::new_v4();
        tracing::error!(%id, error = telemetry::chain(error), "operator call failed");
        Self::new(ErrorCode::Internal, format!("the hub failed, see its log for {id}"))
    }

    /// A fault of the hub's disk: as [`Refused::internal`], with its own code.
    pub fn storage(error: &(dyn std::error::Error + 'static)) -> Self {
        let id = Uuid::new_v4();
        tracing::error!(%id, error = telemetry::chain(error), "storage failed");
        Self::new(ErrorCode::Storage, format!("the hub could not store this, see its log for {id}"))
    }

    /// What programs may decide on.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match self.0.code {
            ErrorCode::NotAuthorised | ErrorCode::TokenExpired => StatusCode::UNAUTHORIZED,
            ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::Conflict => StatusCode::CONFLICT,
            ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::NotTrusted => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorCode::Storage => StatusCode::INSUFFICIENT_STORAGE,
            ErrorCode::TooMany => StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self.0)).into_response()
    }
}

/// The answer to a call that does not exist.
pub(super) async fn no_such_call() -> Refused {
    Refused::new(ErrorCode::NotFound, "the hub has no such call").hint("are hub and command line of the same version?")
}

/// The answer to a call whose handler panicked; the panic itself is in the log.
pub(super) fn panicked() -> Response {
    Refused::new(ErrorCode::Internal, "the hub failed, see its log").into_response()
}

/// Deadline for a JSON body: the largest one takes a link of 1.1 Mbit/s this long.
const JSON_LIMIT: Duration = Duration::from_secs(60);

/// A JSON body whose refusals are ours: axum's own would be plain text.
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> axum::extract::FromRequest<S> for JsonBody<T> {
    type Rejection = Refused;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, Refused> {
        let read = tokio::time::timeout(JSON_LIMIT, Json::<T>::from_request(request, state)).await;
        let late = |_elapsed| Refused::new(ErrorCode::BadRequest, "the request came too slowly");
        match read.map_err(late)? {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Refused::new(ErrorCode::TooLarge, "the request is too large"))
            }
            Err(rejection) => Err(Refused::new(ErrorCode::BadRequest, rejection.body_text())),
        }
    }
}

/// A part of the path that must be a name of ours.
pub(super) struct Named<T>(pub(super) T);

impl<S, T> axum::extract::FromRequestParts<S> for Named<T>
where
    S: Send + Sync,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self, Refused> {
        let path = axum::extract::Path::<String>::from_request_parts(parts, state).await;
        let axum::extract::Path(text) =
            path.map_err(|_rejection| Refused::new(ErrorCode::BadRequest, "the path of the call is not readable"))?;
        text.parse().map(Self).map_err(|invalid: T::Err| Refused::new(ErrorCode::BadRequest, invalid.to_string()))
    }
}
