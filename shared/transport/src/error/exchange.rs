//! Why one exchange did not go to its end.

use std::time::Duration;

use protocol::{DecodeError, EncodeError};

use super::CloseReason;

/// Why an exchange did not go to its end.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExchangeError {
    /// The connection ended.
    #[error("the connection was lost during the exchange")]
    ConnectionLost(#[source] CloseReason),
    /// The peer withdrew: it reset its stream or stopped ours.
    #[error("the peer cancelled the exchange: {0}")]
    Cancelled(crate::exchange::ResetCode),
    /// The peer ended its stream before everything announced had come.
    #[error("the exchange ended early: {missing} bytes are missing")]
    Truncated {
        /// Bytes that were still expected.
        missing: u64,
    },
    /// The peer sent something else than expected.
    #[error("receive a message")]
    Decode(#[source] DecodeError),
    /// The message cannot be sent as it is.
    #[error("send a message")]
    Encode(#[source] EncodeError),
    /// The body handed in is not as long as the message says.
    #[error("the body has {given} bytes, its message announces {announced}")]
    BodyLength {
        /// What the message says.
        announced: u64,
        /// What was handed in.
        given: u64,
    },
    /// The announced body is larger than the caller takes.
    #[error("a body of {length} bytes is over the limit of {max}")]
    BodyTooLarge {
        /// Announced bytes.
        length: u64,
        /// The caller's limit.
        max: u64,
    },
    /// The peer began and did not go on.
    #[error("the peer sent nothing for {} s in the middle of {what}", after.as_secs_f32())]
    Stalled {
        /// A message or a body.
        what: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The peer stopped reading what it is sent.
    #[error("the peer took nothing of what it was sent for {} s", after.as_secs_f32())]
    Unread {
        /// How long was waited.
        after: Duration,
    },
    /// The stream was already finished or reset on this side.
    #[error("the exchange is already over on this side")]
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

    /// Whether the connection itself is gone.
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        matches!(self, Self::ConnectionLost(_))
    }
}
