//! Why a request is not answered, as a status and the protocol's `{"error": ".."}`.

use std::any::Any;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use edge_core::route::FailureCode;
use http::{HeaderValue, StatusCode, header};

use crate::answer::NoAnswer;
use crate::door::body::BodyLimits;
use crate::door::codec::CodecError;

/// A refusal or failure on its way to the client.
#[derive(Debug)]
pub struct DoorError {
    status: StatusCode,
    /// The label in metrics and logs.
    code: &'static str,
    message: String,
}

/// Code of a request that the server has no room for at this moment.
const BUSY: &str = "busy";

/// Seconds after which a busy agent is worth asking again: queues here drain in less.
const RETRY_AFTER_S: &str = "1";

impl DoorError {
    /// The client sent something that cannot be used.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: FailureCode::BadInput.as_str(), message: message.into() }
    }

    /// There is no model of that name here.
    pub fn unknown_model(name: &str, known: &str) -> Self {
        let name: String = name.chars().take(80).collect();
        let message = format!("this device follows no model {name:?}: it follows {known}");
        Self { status: StatusCode::NOT_FOUND, code: FailureCode::UnknownModel.as_str(), message }
    }

    /// There is no such version here.
    pub fn unknown_version(model: &str, version: &str, serving: &str) -> Self {
        let version: String = version.chars().take(40).collect();
        let message = format!("model {model:?} version {version:?} does not serve here: {serving}");
        Self { status: StatusCode::NOT_FOUND, code: FailureCode::UnknownModel.as_str(), message }
    }

    /// The model is known and no version of it is installed yet.
    pub fn not_ready(model: &str) -> Self {
        let message = format!(
            "no version of model {model:?} is installed yet: `edge-agent status` shows how far its first update is"
        );
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code: FailureCode::UnknownModel.as_str(), message }
    }

    /// Every installed version of the model was given up.
    pub fn given_up(model: &str, why: &str) -> Self {
        let message = format!(
            "no version of model {model:?} runs on this device ({why}): let the hub answer (policy prefer-device), or push a \
             mended version"
        );
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code: FailureCode::DeviceFailed.as_str(), message }
    }

    /// The body is over the limit.
    pub fn too_large(limit: usize) -> Self {
        let message = format!(
            "the body is over the limit of {limit} bytes: send tensors as binary data, send fewer at once, or raise \
             door.body_bytes_max"
        );
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, code: "too-large", message }
    }

    /// The client took too long to send its body.
    pub fn too_slow(limits: BodyLimits) -> Self {
        let message = format!(
            "the body did not arrive in time: send it within {:?} and at no less than {} bytes per second, or change \
             door.body_timeout and door.rate_min_bytes",
            limits.timeout, limits.rate_min
        );
        Self { status: StatusCode::REQUEST_TIMEOUT, code: "too-slow", message }
    }

    /// Other requests use the memory that this one needs.
    pub fn memory_full() -> Self {
        let message = "other requests use the memory for requests: send again in a second, send smaller requests, or \
                       raise door.memory_bytes_max"
            .to_owned();
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code: BUSY, message }
    }

    /// The request takes more memory than all requests together may.
    pub fn memory_never() -> Self {
        let message =
            "the request takes more memory than door.memory_bytes_max allows for one request: send tensors as \
                       binary data, send fewer at once, or raise it"
                .to_owned();
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, code: "too-large", message }
    }

    /// A web page or a name that is not this agent's tried to use it.
    pub fn forbidden(message: String) -> Self {
        Self { status: StatusCode::FORBIDDEN, code: "forbidden", message }
    }

    /// The body is of a type that is not accepted.
    pub fn unsupported_type(given: &str) -> Self {
        let given: String = given.chars().take(80).collect();
        let message = format!(
            "content type {given:?} is not accepted: send application/json, or application/octet-stream for binary \
             tensors (curl: -H 'Content-Type: application/json')"
        );
        Self { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, code: FailureCode::BadInput.as_str(), message }
    }

    /// This program made a mistake; its log has the cause.
    pub fn internal() -> Self {
        let message = "the agent failed on this request: see its log".to_owned();
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, code: "internal", message }
    }

    /// As many requests are being worked on as the configuration allows.
    pub fn busy(limit: usize) -> Self {
        let message = format!("{limit} requests are being worked on: send fewer at once, or raise door.requests_max");
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code: BUSY, message }
    }

    /// The body is encoded in a way that is not taken here.
    pub fn unsupported_encoding(encoding: &str) -> Self {
        let encoding: String = encoding.chars().take(40).collect();
        let message = format!("content encoding {encoding:?} is not supported: send the body as it is");
        Self { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, code: FailureCode::BadInput.as_str(), message }
    }

    /// The label in metrics and logs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The sentence for the client.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl From<CodecError> for DoorError {
    fn from(error: CodecError) -> Self {
        let status = match &error {
            CodecError::Unsupported { .. } => StatusCode::NOT_IMPLEMENTED,
            CodecError::HeaderNotANumber(_)
            | CodecError::HeaderTooLong { .. }
            | CodecError::Json(_)
            | CodecError::Id(_)
            | CodecError::Parameter { .. }
            | CodecError::Tensor { .. }
            | CodecError::NameTooLong(_)
            | CodecError::DataSource { .. }
            | CodecError::BinaryShort { .. }
            | CodecError::BinaryLeft(_)
            | CodecError::Elements { .. }
            | CodecError::NotInJson { .. }
            | CodecError::Sequence
            | CodecError::OutputTwice(_) => StatusCode::BAD_REQUEST,
            // Replaced by the budget's own error, which knows why.
            CodecError::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, code: FailureCode::BadInput.as_str(), message: telemetry::chain(&error) }
    }
}

impl From<NoAnswer> for DoorError {
    fn from(error: NoAnswer) -> Self {
        let code = error.code();
        let advice = match &error {
            NoAnswer::Failed { failure, .. } => format!("; {}", failure.advice()),
            NoAnswer::Route(_) => String::new(),
        };
        let status = error.failure().map_or(StatusCode::INTERNAL_SERVER_ERROR, status_of);
        Self { status, code, message: format!("{}{advice}", telemetry::chain(&error)) }
    }
}

/// The statuses that Triton gives, and 504 for a deadline that passed.
fn status_of(code: FailureCode) -> StatusCode {
    match code {
        FailureCode::BadInput => StatusCode::BAD_REQUEST,
        FailureCode::UnknownModel => StatusCode::NOT_FOUND,
        FailureCode::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        FailureCode::DeviceBusy | FailureCode::HubUnreachable | FailureCode::HubBusy | FailureCode::NotAuthorised => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        FailureCode::DeviceFailed | FailureCode::HubFailed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for DoorError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(ErrorBody { error: &self.message })).into_response();
        if self.code == BUSY || self.code == FailureCode::DeviceBusy.as_str() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        response
    }
}

#[derive(serde::Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
}

/// Nothing lies at that path.
pub(super) async fn no_such_path(uri: http::Uri) -> DoorError {
    let path: String = uri.path().chars().take(200).collect();
    let message = format!("nothing lies at {path:?}: models are at /v2/models/{{model}}");
    DoorError { status: StatusCode::NOT_FOUND, code: "no-such-path", message }
}

/// Something lies there and wants another verb.
pub(super) async fn wrong_method(method: http::Method) -> DoorError {
    let message = format!("{method} is not what this path takes: infer and repository/index are POST, all else is GET");
    DoorError { status: StatusCode::METHOD_NOT_ALLOWED, code: "wrong-method", message }
}

/// A mistake in this program must cost one request, not the agent. The panic itself is in the log.
pub(super) fn panicked(_payload: Box<dyn Any + Send + 'static>) -> http::Response<Body> {
    DoorError::internal().into_response()
}
