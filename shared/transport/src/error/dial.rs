//! Errors of dialling a hub, with advice for the user.

use std::time::Duration;

use super::{CertificateError, CloseCode, CloseReason, HandshakeFailure};
use crate::tls::Observed;

/// Error: no connection to the hub was established. Display describes the failure, [`DialError::advice`] the remedy.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// A host name cannot be resolved.
    #[error("look up hub address {address:?}")]
    Lookup {
        /// Address as configured.
        address: String,
        /// Error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The list of addresses is empty.
    #[error("no hub address is configured")]
    NoAddress,
    /// No socket could be opened.
    #[error("open a UDP socket")]
    Socket(#[source] std::io::Error),
    /// QUIC refused to start a connection to this address or name.
    #[error("dial hub {address}: {problem}")]
    Start {
        /// Address of the hub.
        address: String,
        /// Error of QUIC.
        problem: String,
    },
    /// No response arrived in time.
    #[error("hub {address} did not respond within {} s", within.as_secs_f32())]
    NoAnswer {
        /// Address of the hub.
        address: String,
        /// Duration of the wait.
        within: Duration,
    },
    /// The hub's certificate was not issued by the CA that this device trusts.
    #[error("hub {address} has a certificate of a CA that this device does not trust")]
    WrongCa {
        /// Address of the hub.
        address: String,
    },
    /// The hub's certificate is for another name.
    #[error("the certificate of hub {address} is not for the name {name:?}")]
    WrongName {
        /// Address of the hub.
        address: String,
        /// Expected name.
        name: String,
    },
    /// The hub's certificate is not permitted for a hub.
    #[error("hub {address} has a certificate that is not valid for a hub")]
    UnfitCertificate {
        /// Address of the hub.
        address: String,
    },
    /// The hub's certificate has expired, by this device's clock.
    #[error("the certificate of hub {address} has expired by this device's clock")]
    HubCertificateExpired {
        /// Address of the hub.
        address: String,
    },
    /// The hub refused this device's certificate because it expired too long ago to be renewed.
    #[error("hub {address} refused this device's certificate: it expired too long ago to be renewed")]
    OwnCertificateExpired {
        /// Address of the hub.
        address: String,
    },
    /// The hub does not accept this device.
    #[error("hub {address} refused this device")]
    NotAuthorised {
        /// Address of the hub.
        address: String,
        /// Reason that the hub sent.
        #[source]
        source: CloseReason,
    },
    /// The two sides share no protocol version.
    #[error("hub {address} uses another version of the protocol")]
    Version {
        /// Address of the hub.
        address: String,
    },
    /// The connection attempt ended for another reason.
    #[error("connect to hub {address}")]
    Failed {
        /// Address of the hub.
        address: String,
        /// Reason for the end.
        #[source]
        source: CloseReason,
    },
    /// The certificate or key of this side cannot be used.
    #[error("prepare the TLS identity of this device")]
    Identity(#[source] CertificateError),
}

/// Coarse kind of a [`DialError`], for exit codes and back-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DialErrorKind {
    /// No hub responded, or no address is known.
    Unreachable,
    /// A server responded, but not the hub that this device belongs to.
    WrongCa,
    /// A certificate is outside its validity; often because of a wrong clock.
    CertificateTime,
    /// The hub does not accept this device.
    NotAuthorised,
    /// The two sides share no version.
    Version,
    /// The hub is at its limit or shutting down.
    Busy,
    /// A file or socket of this side failed.
    Local,
    /// Any other error.
    Other,
}

impl DialError {
    /// Returns the coarse kind.
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

    /// Whether the same dial may succeed later without any action.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.kind() {
            // NTP may set a clock later, and a hub's certificate is renewed at its next start.
            DialErrorKind::Unreachable
            | DialErrorKind::Busy
            | DialErrorKind::Other
            | DialErrorKind::Local
            | DialErrorKind::CertificateTime => true,
            DialErrorKind::WrongCa | DialErrorKind::NotAuthorised | DialErrorKind::Version => false,
        }
    }

    /// Returns advice for the user.
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
                "this hub is not the one that this device enrolled with, or the hub was set up again: check the address, or enrol again with a new join token"
            }
            Self::WrongName { .. } => "the hub was set up under another name: enrol again with a new join token",
            Self::UnfitCertificate { .. } => "the server at this address is not a hub: check the address",
            Self::HubCertificateExpired { .. } => {
                "check this device's clock; if it is right, restart the hub, which then issues a new certificate for itself"
            }
            Self::OwnCertificateExpired { .. } => {
                "check the clocks of device and hub; if they are right, enrol this device again with a new join token"
            }
            Self::NotAuthorised { .. } => {
                "ask the hub's operator whether this device was revoked (`cloud-hub device list`); enrol again if so"
            }
            Self::Version { .. } => "update the older of agent and hub: they must share a major version",
            Self::Failed { .. } => "check the hub's log; the device retries automatically",
            Self::Identity(_) => "enrol this device again: its certificate or key file is damaged",
        }
    }

    /// Converts the end of a failed handshake to an error, using the result of this side's verifier.
    pub(crate) fn from_close(address: &str, name: &str, within: Duration, seen: Observed, reason: CloseReason) -> Self {
        let address = address.to_owned();
        // The result of the verifier may belong to another attempt of the same dial; it is used only for a failed
        // handshake.
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

    /// Returns the information value of an error, to choose one where several addresses failed: a refusal ranks above a
    /// timeout.
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
