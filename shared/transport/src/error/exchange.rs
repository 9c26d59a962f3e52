//! Errors of one exchange.

use std::time::Duration;

use protocol::{DecodeError, EncodeError};

use super::CloseReason;

/// Error: an exchange was not completed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExchangeError {
    /// The connection ended.
    #[error("the connection was lost during the exchange")]
    ConnectionLost(#[source] CloseReason),
    /// The peer cancelled: it reset its stream or stopped ours.
    #[error("the peer cancelled the exchange: {0}")]
    Cancelled(crate::exchange::ResetCode),
    /// The peer ended its stream before all announced bytes arrived.
    #[error("the exchange ended early: {missing} bytes are missing")]
    Truncated {
        /// Number of bytes that are missing.
        missing: u64,
    },
    /// The peer sent an unexpected or invalid message.
    #[error("receive a message")]
    Decode(#[source] DecodeError),
    /// The message cannot be encoded within its limits.
    #[error("send a message")]
    Encode(#[source] EncodeError),
    /// The length of the given body differs from the message.
    #[error("the body has {given} bytes, its message announces {announced}")]
    BodyLength {
        /// Length in the message, in bytes.
        announced: u64,
        /// Length given, in bytes.
        given: u64,
    },
    /// The announced body exceeds the caller's limit.
    #[error("a body of {length} bytes exceeds the limit of {max}")]
    BodyTooLarge {
        /// Announced length in bytes.
        length: u64,
        /// Caller's limit in bytes.
        max: u64,
    },
    /// The peer stopped in the middle of a message or body.
    #[error("the peer sent nothing for {} s in the middle of {what}", after.as_secs_f32())]
    Stalled {
        /// Either `message` or `body`.
        what: &'static str,
        /// Duration of the wait.
        after: Duration,
    },
    /// The peer stopped reading what it is sent.
    #[error("the peer read nothing for {} s", after.as_secs_f32())]
    Unread {
        /// Duration of the wait.
        after: Duration,
    },
    /// The stream was already finished or reset on this side.
    #[error("the exchange is already finished on this side")]
    Over,
}

impl ExchangeError {
    /// Whether the same exchange may succeed on this or another connection.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::ConnectionLost(reason) => reason.is_retryable(),
            Self::Truncated { .. } | Self::Stalled { .. } | Self::Unread { .. } => true,
            Self::Cancelled(code) => code.is_retryable(),
            Self::Decode(_) | Self::Encode(_) | Self::BodyLength { .. } | Self::BodyTooLarge { .. } | Self::Over => {
                false
            }
        }
    }

    /// Whether the connection itself has ended.
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        matches!(self, Self::ConnectionLost(_))
    }
}
