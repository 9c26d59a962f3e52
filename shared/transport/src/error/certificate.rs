//! Errors of certificates, keys, signing requests, and of the start of a listener.

use std::fmt;

/// Error: a listener did not start.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is in use, or does not belong to this machine.
    #[error("listen on UDP {addr}")]
    Bind {
        /// Address of the listener.
        addr: std::net::SocketAddr,
        /// Error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The certificates cannot be used.
    #[error("prepare the TLS identity of the hub")]
    Identity(#[source] CertificateError),
}

/// Error: a certificate, key or signing request cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The bytes cannot be parsed.
    #[error("{what} cannot be read: {detail}")]
    Unreadable {
        /// Kind of the object.
        what: &'static str,
        /// Error of the parser.
        detail: String,
    },
    /// The signing request was not signed by its own key.
    #[error("the signing request is not signed by its own key")]
    ForgedRequest,
    /// The kind of the key is not supported.
    #[error("the key is not ECDSA P-256, ECDSA P-384 or Ed25519")]
    KeyKind,
    /// The key does not match the certificate.
    #[error("the key does not match the certificate")]
    KeyMismatch,
    /// The certificate names no device, or not in the form of this project.
    #[error("the certificate names no device: {0}")]
    NoDevice(String),
    /// A name for a server certificate is neither a DNS name nor an IP address.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    BadName(String),
    /// The CA failed to sign.
    #[error("issue a certificate: {0}")]
    Issue(String),
    /// The TLS library refused the identity.
    #[error("the TLS library refuses the certificates: {0}")]
    Tls(String),
}

impl CertificateError {
    pub(crate) fn unreadable(what: &'static str, detail: impl fmt::Display) -> Self {
        Self::Unreadable { what, detail: detail.to_string() }
    }
}
