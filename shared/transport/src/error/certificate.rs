//! What is wrong with certificates, keys and requests, and why a listener did not start.

use std::fmt;

/// Why a listener did not start.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken, or not ours.
    #[error("listen on UDP {addr}")]
    Bind {
        /// The address.
        addr: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The certificates cannot be used.
    #[error("prepare the TLS identity of the hub")]
    Identity(#[source] CertificateError),
}

/// Why a certificate, key or request is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The bytes are not what they should be.
    #[error("{what} cannot be read: {detail}")]
    Unreadable {
        /// Which thing.
        what: &'static str,
        /// Why.
        detail: String,
    },
    /// A signing request was not signed by the key in it.
    #[error("the signing request is not signed by its own key")]
    ForgedRequest,
    /// The key is of a kind that is not taken.
    #[error("the key is not ECDSA P-256, ECDSA P-384 or Ed25519")]
    KeyKind,
    /// Key and certificate do not belong together.
    #[error("the key does not belong to the certificate")]
    KeyMismatch,
    /// The certificate names no device, or names it in a way that is not ours.
    #[error("the certificate names no device: {0}")]
    NoDevice(String),
    /// A name for a server certificate is neither DNS name nor address.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    BadName(String),
    /// The CA could not sign.
    #[error("issue a certificate: {0}")]
    Issue(String),
    /// TLS does not take the identity.
    #[error("TLS refuses the certificates: {0}")]
    Tls(String),
}

impl CertificateError {
    pub(crate) fn unreadable(what: &'static str, detail: impl fmt::Display) -> Self {
        Self::Unreadable { what, detail: detail.to_string() }
    }
}
