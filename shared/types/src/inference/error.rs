//! Errors of inference: one code for each kind, with one sentence of advice.
//!
//! `serving` gives each code one HTTP status and one gRPC status; the reference page of the API lists all of them.

use std::fmt;
use std::time::Duration;

use crate::Amendment;

/// Kind of an error, as metrics and logs name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorCode {
    /// The request is malformed, or its tensors do not fit the model.
    BadInput,
    /// No model or version of that name is known here.
    UnknownModel,
    /// The model is known and no version of it can answer.
    NotReady,
    /// The deadline of the request passed.
    DeadlineExceeded,
    /// The client withdrew the request before it was answered.
    Cancelled,
    /// The server works on as many requests, or holds as many bytes, as its configuration allows.
    Busy,
    /// The queue of the device's model is full.
    DeviceBusy,
    /// The queue of the hub's model is full.
    HubBusy,
    /// The device's engine failed.
    DeviceFailed,
    /// The hub failed on the request.
    HubFailed,
    /// The hub is needed and cannot be reached.
    HubUnreachable,
    /// The hub does not serve this device.
    NotAuthorised,
    /// The caller has no valid token.
    Unauthenticated,
    /// Too many logins of this address failed.
    TooManyLogins,
    /// A web page or a host name that is not allowed.
    Forbidden,
    /// The request is larger than its limit.
    TooLarge,
    /// The request did not arrive in time.
    TooSlow,
    /// The content type or the content encoding is not accepted.
    UnsupportedMedia,
    /// A part of the protocol that this server does not implement.
    Unsupported,
    /// No resource has that path or method name.
    UnknownPath,
    /// The path does not take that HTTP method.
    WrongMethod,
    /// A fault of the server itself.
    Internal,
    /// No answer yet: the request is stored and waits for the hub.
    Queued,
    /// The outbox has no room for the request.
    OutboxFull,
    /// The id belongs to another request that waits for the hub.
    IdInUse,
}

impl ErrorCode {
    /// Every code, for documentation and tests.
    pub const ALL: [Self; 25] = [
        Self::BadInput,
        Self::UnknownModel,
        Self::NotReady,
        Self::DeadlineExceeded,
        Self::Cancelled,
        Self::Busy,
        Self::DeviceBusy,
        Self::HubBusy,
        Self::DeviceFailed,
        Self::HubFailed,
        Self::HubUnreachable,
        Self::NotAuthorised,
        Self::Unauthenticated,
        Self::TooManyLogins,
        Self::Forbidden,
        Self::TooLarge,
        Self::TooSlow,
        Self::UnsupportedMedia,
        Self::Unsupported,
        Self::UnknownPath,
        Self::WrongMethod,
        Self::Internal,
        Self::Queued,
        Self::OutboxFull,
        Self::IdInUse,
    ];

    /// Returns the name in metrics, logs and the reference.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadInput => "bad-input",
            Self::UnknownModel => "unknown-model",
            Self::NotReady => "not-ready",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::Cancelled => "cancelled",
            Self::Busy => "busy",
            Self::DeviceBusy => "device-busy",
            Self::HubBusy => "hub-busy",
            Self::DeviceFailed => "device-failed",
            Self::HubFailed => "hub-failed",
            Self::HubUnreachable => "hub-unreachable",
            Self::NotAuthorised => "not-authorised",
            Self::Unauthenticated => "unauthenticated",
            Self::TooManyLogins => "too-many-logins",
            Self::Forbidden => "forbidden",
            Self::TooLarge => "too-large",
            Self::TooSlow => "too-slow",
            Self::UnsupportedMedia => "unsupported-media",
            Self::Unsupported => "unsupported",
            Self::UnknownPath => "unknown-path",
            Self::WrongMethod => "wrong-method",
            Self::Internal => "internal",
            Self::Queued => "queued",
            Self::OutboxFull => "outbox-full",
            Self::IdInUse => "id-in-use",
        }
    }

    /// Returns what the caller or the operator can do about an error of this kind, as one sentence without a full stop.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::BadInput => "compare the tensors with GET /v2/models/{model}",
            Self::UnknownModel => {
                "list the models with POST /v2/repository/index, or push one with `cloud-hub model push`"
            }
            Self::NotReady => "wait until the model is ready, or push a version that runs here",
            Self::DeadlineExceeded => "allow more time with deadline_ms, or choose the policy only-device",
            Self::Cancelled => "send the request again and wait for its response",
            Self::Busy => "send the request again in a second, or send fewer at once",
            Self::DeviceBusy => "send fewer requests at once, or choose a policy that may use the hub",
            Self::HubBusy => "try again later, or choose a policy that may answer on the device",
            Self::DeviceFailed => "see the agent's log; `edge-agent doctor` checks the engine",
            Self::HubFailed => "try again; the hub's log holds the cause under this request id",
            Self::HubUnreachable => {
                "choose the policy prefer-hub to fall back on the device; `edge-agent doctor` checks the connection"
            }
            Self::NotAuthorised => "ask the hub's operator: `cloud-hub device show` says why the device is refused",
            Self::Unauthenticated => "send the header Authorization: Bearer TOKEN with the token of an operator",
            Self::TooManyLogins => "wait some seconds and use a valid token",
            Self::Forbidden => "use a name or origin that the configuration allows",
            Self::TooLarge => "send fewer or smaller tensors at once, or raise the limit in the configuration",
            Self::TooSlow => "send the request faster, or raise the limit in the configuration",
            Self::UnsupportedMedia => {
                "send application/json or application/octet-stream, plain or compressed by gzip or deflate"
            }
            Self::Unsupported => "send tensors in the request and use the calls that the reference lists",
            Self::UnknownPath => "use a path that GET /openapi.json lists",
            Self::WrongMethod => "use the HTTP method that GET /openapi.json lists for the path",
            Self::Internal => "report the fault with the log of the server",
            Self::Queued => "ask for the answer later, at the path in the response",
            Self::OutboxFull => "send the request again when the hub is back, or raise outbox.bytes_max in agent.toml",
            Self::IdInUse => "give each request an id of its own, or none",
        }
    }

    /// Returns whether the same request may succeed a little later.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::NotReady | Self::Busy | Self::DeviceBusy | Self::HubBusy | Self::HubUnreachable)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A request that was not answered: the kind of the error and a message for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InferenceError {
    /// Kind of the error.
    pub code: ErrorCode,
    /// Message that names the failure and the remedy; written for the client, without anything that only operators may read.
    pub message: String,
    /// Time after which the server expects to have room again; `None` where it does not know.
    pub retry_after: Option<Duration>,
    /// Reference to the later answer; present if the code is [`ErrorCode::Queued`].
    pub amendment: Option<Amendment>,
}

impl InferenceError {
    /// Creates an error whose message already tells the client what to do.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None, amendment: None }
    }

    /// Creates an error of a fact; the advice of its code is added.
    #[must_use]
    pub fn with_advice(code: ErrorCode, fact: impl fmt::Display) -> Self {
        Self::new(code, format!("{fact}: {}", code.advice()))
    }

    /// Creates the response to a request that waits for the hub.
    #[must_use]
    pub fn queued(amendment: Amendment) -> Self {
        let message = format!("the hub will answer this request later: ask at {}", amendment.path);
        Self { amendment: Some(amendment), ..Self::new(ErrorCode::Queued, message) }
    }

    /// Sets the time after which a new attempt makes sense.
    #[must_use]
    pub fn retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_name_and_advice_of_its_own() {
        let names: std::collections::BTreeSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        let advice: std::collections::BTreeSet<_> = ErrorCode::ALL.iter().map(|code| code.advice()).collect();
        assert_eq!((names.len(), advice.len()), (ErrorCode::ALL.len(), ErrorCode::ALL.len()));
    }
}
