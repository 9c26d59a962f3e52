//! Reasons for the end of connections: the code and text of the side that closed, or the error of QUIC or TLS.

use std::fmt;

/// Code for closing a connection, chosen by the side that closes it. The numbers are part of the wire format; append
/// only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// The exchange of messages is complete.
    Done,
    /// The closing side is shutting down; connect again later.
    ShuttingDown,
    /// The peer is not permitted: it has no certificate where one is required, or its certificate names no device.
    NotAuthorised,
    /// The operator has revoked this device.
    Revoked,
    /// The peer's certificate is not valid now.
    CertificateExpired,
    /// The same device has opened a newer connection, so this one is closed.
    Replaced,
    /// The peer violated the protocol.
    ProtocolViolation,
    /// The closing side is at its limit; connect again later.
    Busy,
    /// A code that a newer peer sent.
    Other(u32),
}

impl CloseCode {
    /// Returns the number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Done => 0,
            Self::ShuttingDown => 1,
            Self::NotAuthorised => 2,
            Self::Revoked => 3,
            Self::CertificateExpired => 4,
            Self::Replaced => 5,
            Self::ProtocolViolation => 6,
            Self::Busy => 7,
            Self::Other(number) => number,
        }
    }

    /// Returns the code for a number on the wire.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        let known = [
            Self::Done,
            Self::ShuttingDown,
            Self::NotAuthorised,
            Self::Revoked,
            Self::CertificateExpired,
            Self::Replaced,
            Self::ProtocolViolation,
            Self::Busy,
        ];
        let found = known.into_iter().find(|code| u64::from(code.number()) == number);
        found.unwrap_or_else(|| Self::Other(u32::try_from(number).unwrap_or(u32::MAX)))
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::ShuttingDown => f.write_str("shutting down"),
            Self::NotAuthorised => f.write_str("not authorised"),
            Self::Revoked => f.write_str("revoked"),
            Self::CertificateExpired => f.write_str("certificate expired"),
            Self::Replaced => f.write_str("replaced by a newer connection"),
            Self::ProtocolViolation => f.write_str("protocol violation"),
            Self::Busy => f.write_str("busy"),
            Self::Other(number) => write!(f, "code {number}"),
        }
    }
}

/// Reason for the end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The peer closed the connection, with a reason.
    #[error("the peer closed the connection: {code} {reason:?}")]
    ByPeer {
        /// Code for programs.
        code: CloseCode,
        /// Text for people, as the peer wrote it; at most [`CLOSE_REASON_BYTES_MAX`] bytes.
        reason: String,
    },
    /// This side closed the connection.
    #[error("this side closed the connection")]
    Here,
    /// The peer sent nothing for the idle timeout.
    #[error("the peer sent nothing for the idle timeout")]
    Silent,
    /// The peer lost the state of this connection, for example in a restart.
    #[error("the peer no longer knows this connection")]
    Forgotten,
    /// One side refused the other's certificate or parameters in the handshake.
    #[error("the handshake failed: {0}")]
    Handshake(HandshakeFailure),
    /// One side violated QUIC, or the sides share no QUIC version.
    #[error("QUIC failed: {0}")]
    Quic(String),
}

/// Maximum length of the stored reason of a peer's close, in bytes.
pub const CLOSE_REASON_BYTES_MAX: usize = 256;

impl CloseReason {
    /// Whether the peer may accept this device again without any action of an operator.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::ByPeer { code, .. } => match code {
                CloseCode::Done | CloseCode::ShuttingDown | CloseCode::Busy | CloseCode::Other(_) => true,
                CloseCode::NotAuthorised
                | CloseCode::Revoked
                | CloseCode::CertificateExpired
                | CloseCode::Replaced
                | CloseCode::ProtocolViolation => false,
            },
            Self::Here => false,
            Self::Silent | Self::Forgotten | Self::Quic(_) => true,
            Self::Handshake(_) => false,
        }
    }

    /// Returns the code, if the peer sent one.
    #[must_use]
    pub fn code(&self) -> Option<CloseCode> {
        match self {
            Self::ByPeer { code, .. } => Some(*code),
            Self::Here | Self::Silent | Self::Forgotten | Self::Handshake(_) | Self::Quic(_) => None,
        }
    }
}

/// Meaning of a TLS alert, reduced to the cases that need different advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HandshakeFailure {
    /// A certificate is not valid now, by the clock of the side that refused it.
    #[error("a certificate is expired or not yet valid")]
    CertificateTime,
    /// A certificate was not issued by the CA that the side trusts.
    #[error("a certificate was issued by an unknown CA")]
    UnknownCa,
    /// A certificate is missing or not permitted for its use.
    #[error("a certificate was refused")]
    Certificate,
    /// The sides share no ALPN name or TLS version.
    #[error("no common protocol version")]
    Version,
    /// Any other alert, by number.
    #[error("TLS alert {0}")]
    Alert(u8),
}

impl HandshakeFailure {
    /// Returns the failure for an alert number of RFC 8446, section 6.
    fn from_alert(alert: u8) -> Self {
        match alert {
            45 => Self::CertificateTime,
            48 => Self::UnknownCa,
            42 | 43 | 44 | 46 | 49 | 116 => Self::Certificate,
            70 | 120 => Self::Version,
            other => Self::Alert(other),
        }
    }

    /// Returns the failure for a QUIC error code; TLS alerts are the codes 0x100 to 0x1ff (RFC 9001, section 4.8).
    fn from_quic(code: u64) -> Option<Self> {
        let alert = code.checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok())?;
        Some(Self::from_alert(alert))
    }
}

impl From<quinn::ConnectionError> for CloseReason {
    fn from(error: quinn::ConnectionError) -> Self {
        use quinn::ConnectionError as E;
        let quic = |code: u64, text: String| {
            HandshakeFailure::from_quic(code).map_or_else(|| Self::Quic(text), Self::Handshake)
        };
        match error {
            E::ApplicationClosed(close) => {
                let reason = &close.reason[..close.reason.len().min(CLOSE_REASON_BYTES_MAX)];
                let reason = String::from_utf8_lossy(reason).into_owned();
                Self::ByPeer { code: CloseCode::from_number(close.error_code.into_inner()), reason }
            }
            E::ConnectionClosed(close) if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED => {
                Self::ByPeer { code: CloseCode::Busy, reason: "no room for another connection".to_owned() }
            }
            E::ConnectionClosed(close) => quic(close.error_code.into(), close.to_string()),
            E::TransportError(error) => quic(error.code.into(), error.to_string()),
            E::VersionMismatch => Self::Handshake(HandshakeFailure::Version),
            E::TimedOut => Self::Silent,
            E::Reset => Self::Forgotten,
            E::LocallyClosed => Self::Here,
            E::CidsExhausted => Self::Quic(error.to_string()),
        }
    }
}
