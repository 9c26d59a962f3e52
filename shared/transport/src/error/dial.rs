//! Why a device has no connection to its hub, with advice for the person who looks.

use std::time::Duration;

use super::{CertificateError, CloseCode, CloseReason, HandshakeFailure};
use crate::tls::Observed;

/// Why no connection to the hub came to be. Display says what happened, [`DialError::advice`] what to do.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// A host name has no address, or is none.
    #[error("look up hub address {address:?}")]
    Lookup {
        /// As configured.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No address was given.
    #[error("no hub address is configured")]
    NoAddress,
    /// No socket could be opened.
    #[error("open a UDP socket")]
    Socket(#[source] std::io::Error),
    /// QUIC refused to start towards that address or name.
    #[error("dial hub {address}: {problem}")]
    Start {
        /// The address.
        address: String,
        /// Why.
        problem: String,
    },
    /// Nothing answered in time.
    #[error("hub {address} did not answer within {} s", within.as_secs_f32())]
    NoAnswer {
        /// The address that was tried.
        address: String,
        /// How long was waited.
        within: Duration,
    },
    /// The hub's certificate does not come from the CA that this device trusts.
    #[error("hub {address} has a certificate from another CA than this device trusts")]
    WrongCa {
        /// The address.
        address: String,
    },
    /// The hub's certificate is for another name.
    #[error("the certificate of hub {address} is not for the name {name:?}")]
    WrongName {
        /// The address.
        address: String,
        /// The name that was expected.
        name: String,
    },
    /// The hub's certificate is not one for a hub.
    #[error("hub {address} has a certificate that is not one of a hub")]
    UnfitCertificate {
        /// The address.
        address: String,
    },
    /// The hub's certificate has expired, by this device's clock.
    #[error("the certificate of hub {address} has expired by this device's clock")]
    HubCertificateExpired {
        /// The address.
        address: String,
    },
    /// The hub finds that this device's certificate expired too long ago to be renewed.
    #[error("hub {address} finds that this device's certificate expired too long ago to be renewed")]
    OwnCertificateExpired {
        /// The address.
        address: String,
    },
    /// The hub does not take this device.
    #[error("hub {address} refused this device")]
    NotAuthorised {
        /// The address.
        address: String,
        /// What the hub said.
        #[source]
        source: CloseReason,
    },
    /// The two sides share no protocol version.
    #[error("hub {address} speaks another version of the protocol")]
    Version {
        /// The address.
        address: String,
    },
    /// Anything else that ended the connection before it was one.
    #[error("connect to hub {address}")]
    Failed {
        /// The address.
        address: String,
        /// Why.
        #[source]
        source: CloseReason,
    },
    /// Certificates and keys of this side cannot be used.
    #[error("prepare the TLS identity of this device")]
    Identity(#[source] CertificateError),
}

/// Coarse kind of a [`DialError`], for exit codes and back-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DialErrorKind {
    /// Nothing answered, or there is nothing to ask.
    Unreachable,
    /// It answered, but is not the hub this device belongs to.
    WrongCa,
    /// A certificate is outside its time; often a wrong clock.
    CertificateTime,
    /// The hub does not take this device.
    NotAuthorised,
    /// The versions do not fit.
    Version,
    /// The hub is full or stopping.
    Busy,
    /// This side's own files or sockets.
    Local,
    /// Anything else.
    Other,
}

impl DialError {
    /// The coarse kind.
    #[must_use]
    pub fn kind(&self) -> DialErrorKind {
        match self {
            Self::Lookup { .. } | Self::NoAddress | Self::NoAnswer { .. } | Self::Start { .. } => {
                DialErrorKind::Unreachable
            }
            Self::Socket(_) | Self::Identity(_) => DialErrorKind::Local,
            Self::WrongCa { .. } | Self::WrongName { .. } | Self::UnfitCertificate { .. } => DialErrorKind::WrongCa,
            Self::HubCertificateExpired { .. } | Self::OwnCertificateExpired { .. } => DialErrorKind::CertificateTime,
            Self::NotAuthorised { .. } => DialErrorKind::NotAuthorised,
            Self::Version { .. } => DialErrorKind::Version,
            Self::Failed { source, .. } => match source.code() {
                Some(CloseCode::Busy | CloseCode::ShuttingDown) => DialErrorKind::Busy,
                Some(_) | None => DialErrorKind::Other,
            },
        }
    }

    /// Whether the same dial may succeed later without anyone doing something.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.kind() {
            // A clock may be set later by NTP, and a hub's certificate is renewed at its next start.
            DialErrorKind::Unreachable
            | DialErrorKind::Busy
            | DialErrorKind::Other
            | DialErrorKind::Local
            | DialErrorKind::CertificateTime => true,
            DialErrorKind::WrongCa | DialErrorKind::NotAuthorised | DialErrorKind::Version => false,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Lookup { .. } => "check the hub's host name and this device's DNS",
            Self::NoAddress => "name the hub as host:port, or enrol again with a join token",
            Self::Socket(_) => "check that this machine has a network and free file descriptors",
            Self::Start { .. } => "check the hub's address and name",
            Self::NoAnswer { .. } => {
                "check that the hub runs and that UDP to its port passes every firewall on the way (try `cloud-hub status`)"
            }
            Self::WrongCa { .. } => {
                "this is another hub than the one this device was enrolled with, or the hub was set up anew: \
                 check the address, or enrol again with a new join token"
            }
            Self::WrongName { .. } => "the hub was set up under another name: enrol again with a new join token",
            Self::UnfitCertificate { .. } => "something else than a hub answers there: check the address",
            Self::HubCertificateExpired { .. } => {
                "check this device's clock; if it is right, restart the hub, which issues itself a new certificate"
            }
            Self::OwnCertificateExpired { .. } => {
                "check the clocks of device and hub; if they are right, enrol this device again with a new join token"
            }
            Self::NotAuthorised { .. } => {
                "ask the hub's operator whether this device was revoked (`cloud-hub device list`); enrol again if so"
            }
            Self::Version { .. } => "update the older of agent and hub: they must share a major version",
            Self::Failed { .. } => "look into the hub's log; the connection is tried again",
            Self::Identity(_) => "enrol this device again: its certificate or key file is damaged",
        }
    }

    /// Puts a finished handshake's failure into words, with what the verifier saw on this side.
    pub(crate) fn from_close(address: &str, name: &str, within: Duration, seen: Observed, reason: CloseReason) -> Self {
        let address = address.to_owned();
        // What the verifier saw may belong to another attempt of the same dial; only a failed handshake asks for it.
        match (reason, seen) {
            (CloseReason::Handshake(_), Observed::WrongCa) => Self::WrongCa { address },
            (CloseReason::Handshake(_), Observed::WrongName) => Self::WrongName { address, name: name.to_owned() },
            (CloseReason::Handshake(_), Observed::Expired) => Self::HubCertificateExpired { address },
            (CloseReason::Handshake(_), Observed::Unfit) => Self::UnfitCertificate { address },
            (CloseReason::Handshake(HandshakeFailure::CertificateTime), Observed::Nothing) => {
                Self::OwnCertificateExpired { address }
            }
            (CloseReason::Handshake(HandshakeFailure::Version), Observed::Nothing) => Self::Version { address },
            (
                source @ CloseReason::Handshake(HandshakeFailure::UnknownCa | HandshakeFailure::Certificate),
                Observed::Nothing,
            ) => Self::NotAuthorised { address, source },
            (CloseReason::Silent, _) => Self::NoAnswer { address, within },
            (source, _) => match source.code() {
                Some(CloseCode::NotAuthorised | CloseCode::Revoked) => Self::NotAuthorised { address, source },
                Some(CloseCode::CertificateExpired) => Self::OwnCertificateExpired { address },
                Some(_) | None => Self::Failed { address, source },
            },
        }
    }

    /// How much an error tells, where several addresses failed: a refusal tells more than silence.
    pub(crate) fn weight(&self) -> u8 {
        match self.kind() {
            DialErrorKind::Local | DialErrorKind::Unreachable => 0,
            DialErrorKind::Other | DialErrorKind::Busy => 1,
            DialErrorKind::WrongCa
            | DialErrorKind::CertificateTime
            | DialErrorKind::NotAuthorised
            | DialErrorKind::Version => 2,
        }
    }
}
