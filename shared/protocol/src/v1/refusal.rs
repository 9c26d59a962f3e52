//! Refusals of requests: a code for programs and a sentence for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::text;

/// Code of the reason for a refusal. Append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RefusalCode {
    /// The hub does not serve this model or version.
    UnknownModel,
    /// The input does not match the model, or the request is invalid.
    BadInput,
    /// A size exceeds its limit.
    TooLarge,
    /// A queue is full; the same request may succeed later.
    Busy,
    /// The deadline of the request has passed.
    DeadlineExceeded,
    /// The caller cancelled the request.
    Cancelled,
    /// The device is not permitted to make this request.
    NotAuthorised,
    /// The operator has revoked this device.
    Revoked,
    /// The hub does not know this join token.
    TokenUnknown,
    /// The join token was already used.
    TokenUsed,
    /// The join token has expired.
    TokenExpired,
    /// The receiver does not know this request or feature.
    Unsupported,
    /// The file or record does not exist.
    NotFound,
    /// The receiver failed; the cause is in its log.
    Internal,
    /// The receiver is shutting down.
    ShuttingDown,
}

impl RefusalCode {
    /// All codes, for documentation and metrics.
    pub const ALL: [Self; 15] = [
        Self::UnknownModel,
        Self::BadInput,
        Self::TooLarge,
        Self::Busy,
        Self::DeadlineExceeded,
        Self::Cancelled,
        Self::NotAuthorised,
        Self::Revoked,
        Self::TokenUnknown,
        Self::TokenUsed,
        Self::TokenExpired,
        Self::Unsupported,
        Self::NotFound,
        Self::Internal,
        Self::ShuttingDown,
    ];

    /// Returns the name used in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownModel => "unknown-model",
            Self::BadInput => "bad-input",
            Self::TooLarge => "too-large",
            Self::Busy => "busy",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::Cancelled => "cancelled",
            Self::NotAuthorised => "not-authorised",
            Self::Revoked => "revoked",
            Self::TokenUnknown => "token-unknown",
            Self::TokenUsed => "token-used",
            Self::TokenExpired => "token-expired",
            Self::Unsupported => "unsupported",
            Self::NotFound => "not-found",
            Self::Internal => "internal",
            Self::ShuttingDown => "shutting-down",
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::Busy | Self::Internal | Self::ShuttingDown => true,
            Self::UnknownModel
            | Self::BadInput
            | Self::TooLarge
            | Self::DeadlineExceeded
            | Self::Cancelled
            | Self::NotAuthorised
            | Self::Revoked
            | Self::TokenUnknown
            | Self::TokenUsed
            | Self::TokenExpired
            | Self::Unsupported
            | Self::NotFound => false,
        }
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal in a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Refusal {
    /// Code for programs.
    pub code: RefusalCode,
    /// Sentence for people: one clause, at most [`super::TEXT_BYTES_MAX`] bytes. Contains no path and no address.
    pub message: String,
    /// Time after which to retry, in milliseconds from now; `None` if it is not known.
    pub retry_after_ms: Option<u32>,
}

impl Refusal {
    /// Creates a refusal with a message (truncated to the limit) and without a time to retry.
    #[must_use]
    pub fn new(code: RefusalCode, message: impl AsRef<str>) -> Self {
        Self { code, message: super::shorten(message.as_ref()), retry_after_ms: None }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.code.is_retryable()
    }

    pub(super) fn check(&self) -> Result<(), String> {
        text("message", &self.message)
    }
}
