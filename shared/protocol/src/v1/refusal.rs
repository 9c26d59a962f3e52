//! Why something asked for is not done: a code for the machine, a sentence for the person.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::text;

/// Why a request is refused, as the machine understands it. Append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RefusalCode {
    /// The hub serves no such model or version.
    UnknownModel,
    /// The input does not fit the model, or the request is not lawful.
    BadInput,
    /// Something is over a limit.
    TooLarge,
    /// A queue is full; the same request may succeed later.
    Busy,
    /// The time the request had is over.
    DeadlineExceeded,
    /// The asker withdrew the request.
    Cancelled,
    /// This device may not do that.
    NotAuthorised,
    /// The operator has revoked this device.
    Revoked,
    /// The hub knows no such join token.
    TokenUnknown,
    /// The join token was already used.
    TokenUsed,
    /// The join token is too old.
    TokenExpired,
    /// This side does not know that request or feature.
    Unsupported,
    /// There is no such file or record.
    NotFound,
    /// This side failed; the cause is in its log.
    Internal,
    /// This side is stopping.
    ShuttingDown,
}

impl RefusalCode {
    /// Every code, for documentation and metrics.
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

    /// The name in logs and metrics.
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

    /// Whether the same request may succeed when it is made again later.
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

/// A refusal as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Refusal {
    /// Why, for the machine.
    pub code: RefusalCode,
    /// Why, for the person; one clause, at most [`super::TEXT_BYTES_MAX`] bytes. Names no path and no address.
    pub message: String,
    /// When to ask again, in milliseconds from now, where that is known.
    pub retry_after_ms: Option<u32>,
}

impl Refusal {
    /// A refusal with a message (cut to what may travel) and no time to retry.
    #[must_use]
    pub fn new(code: RefusalCode, message: impl AsRef<str>) -> Self {
        Self { code, message: super::shorten(message.as_ref()), retry_after_ms: None }
    }

    /// Whether the same request may succeed when it is made again later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.code.is_retryable()
    }

    pub(super) fn check(&self) -> Result<(), String> {
        text("message", &self.message)
    }
}
