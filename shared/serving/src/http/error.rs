//! An error as an HTTP response: its status and the protocol's `{"error": ".."}`.

use std::any::Any;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use types::{ErrorCode, InferenceError};

use crate::codec::CodecError;
use crate::refusal;
use crate::status::http_status;

/// An error on its way to an HTTP client.
#[derive(Debug)]
pub struct HttpError(pub InferenceError);

impl From<InferenceError> for HttpError {
    fn from(error: InferenceError) -> Self {
        Self(error)
    }
}

impl From<CodecError> for HttpError {
    fn from(error: CodecError) -> Self {
        Self(refusal::codec(&error))
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let later = error.amendment.as_ref();
        let body = ErrorBody {
            error: &error.message,
            id: later.map(|later| later.request_id.as_str()),
            parameters: later.map(|later| LaterBody {
                queued: true,
                amendment: &later.path,
                amendment_expires_unix_s: later.expires_unix_s,
            }),
        };
        let mut response = (http_status(error.code), axum::Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(after) = error.retry_after {
            // Whole seconds, rounded up: zero would mean at once.
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from(after.as_secs().saturating_add(u64::from(after.subsec_nanos() > 0)).max(1)),
            );
        }
        if error.code == ErrorCode::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[derive(serde::Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    /// Id of a request that waits for the hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<LaterBody<'a>>,
}

/// Reference to a later answer.
#[derive(serde::Serialize)]
struct LaterBody<'a> {
    queued: bool,
    amendment: &'a str,
    amendment_expires_unix_s: u64,
}

/// Answers a request for a path that does not exist.
pub(super) async fn unknown_path(uri: http::Uri) -> HttpError {
    let path: String = uri.path().chars().take(200).collect();
    let message =
        format!("there is no path {path:?}: models are at /v2/models/{{model}}, GET /openapi.json lists every path");
    InferenceError::new(ErrorCode::UnknownPath, message).into()
}

/// Answers a request by a method that its path does not take.
pub(super) async fn wrong_method(method: http::Method) -> HttpError {
    let message = format!("this path does not take {method}: GET /openapi.json lists the methods of every path");
    InferenceError::new(ErrorCode::WrongMethod, message).into()
}

/// Answers a request whose handler panicked: it must cost one request, not the server. The panic itself is in the log.
pub(super) fn panicked(_payload: Box<dyn Any + Send + 'static>) -> http::Response<Body> {
    HttpError(refusal::internal()).into_response()
}
