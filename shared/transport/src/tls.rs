//! TLS settings: the crypto provider, the two QUIC configurations, and the settings of the HTTPS admin API.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::connection::Alpn;
use crate::device_verifier::DeviceVerifier;
use crate::error::CertificateError;
use crate::identity::Identity;
use crate::pinning::HubVerifier;

/// Result of the verifier of the hub's certificate in the last handshake; TLS alerts alone do not distinguish these
/// cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Observed {
    /// The certificate is valid.
    #[default]
    Nothing,
    /// The certificate was issued by another CA.
    WrongCa,
    /// The certificate is for another name.
    WrongName,
    /// The certificate has expired.
    Expired,
    /// The certificate cannot be parsed, or is not permitted for this use.
    Unfit,
}

/// Maximum number of servers whose sessions a client remembers: an agent has one hub, under few names.
const SESSIONS_REMEMBERED: usize = 8;

/// Returns the crypto provider of the whole project: aws-lc-rs, with the hybrid X25519MLKEM768 as the preferred key
/// exchange.
///
/// Passed explicitly to every TLS configuration, also to `ureq`; the process-wide default is never used.
#[must_use]
pub fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn tls(error: impl std::fmt::Display) -> CertificateError {
    CertificateError::Tls(error.to_string())
}

/// Returns the hub's QUIC configuration: it requests a client certificate of `ca_der`, which may be absent (enrolment).
/// A certificate that expired less than `grace` ago is accepted.
pub(crate) fn quic_server(
    provider: Arc<CryptoProvider>,
    identity: &Identity,
    ca_der: &[u8],
    grace: Duration,
) -> Result<QuicServerConfig, CertificateError> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca_der.to_vec())).map_err(tls)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(tls)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(Arc::new(DeviceVerifier::new(verifier, grace)))
        .with_single_cert(identity.chain(), identity.key())
        .map_err(tls)?;
    config.alpn_protocols = vec![Alpn::Device.name().to_vec(), Alpn::Enrol.name().to_vec()];
    // Encrypted tickets: the hub stores nothing per device, because the ticket contains the peer's certificates.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(tls)?;
    // A device has one connection, and each resumption brings it the next ticket.
    config.send_tls13_tickets = 1;
    // Early data can be replayed; no request here is worth that risk.
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config).map_err(tls)
}

/// Returns the device's QUIC configuration.
pub(crate) fn quic_client(
    provider: Arc<CryptoProvider>,
    verifier: Arc<HubVerifier>,
    identity: Option<&Identity>,
    alpn: Alpn,
) -> Result<QuicClientConfig, CertificateError> {
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        // The hub has the CA, and keeps what it is sent as long as the connection lives.
        Some(identity) => builder.with_client_auth_cert(identity.own_certificate(), identity.key()).map_err(tls)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.name().to_vec()];
    config.resumption = Resumption::in_memory_sessions(SESSIONS_REMEMBERED);
    config.enable_early_data = false;
    QuicClientConfig::try_from(config).map_err(tls)
}

/// Returns the TLS configuration of the HTTPS admin API: 1.3 only, HTTP/2 and HTTP/1.1, no client certificates
/// (operators have tokens).
///
/// # Errors
/// Fails when the identity's certificate and key cannot be used.
pub fn admin_server_config(identity: &Identity) -> Result<Arc<ServerConfig>, CertificateError> {
    let mut config = ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .with_no_client_auth()
        .with_single_cert(identity.chain(), identity.key())
        .map_err(tls)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Returns the CA certificates (DER) in a PEM text, for a client of the admin API that trusts only them.
///
/// With ureq: `TlsConfig::builder().root_certs(RootCerts::new_with_certs(..))` of `Certificate::from_der` of each, and
/// `.unversioned_rustls_crypto_provider(crypto_provider())`.
///
/// # Errors
/// Fails if the text contains no certificate, or an invalid one.
pub fn admin_client_roots(ca_pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    crate::certificate::chain_from_pem(ca_pem)
}

/// Formats one certificate (DER) as PEM, for a file that people and other programs read.
///
/// # Errors
/// Fails if the bytes are not a certificate.
pub fn certificate_pem(der: &[u8]) -> Result<String, CertificateError> {
    crate::certificate::CertificateFields::read(der)?;
    Ok(crate::certificate::chain_to_pem([der]))
}

/// Parses the first certificate of a PEM text as DER.
///
/// # Errors
/// Fails when there is none.
pub fn certificate_der(pem: &str) -> Result<bytes::Bytes, CertificateError> {
    let chain = crate::certificate::chain_from_pem(pem)?;
    let first = chain.first().ok_or_else(|| CertificateError::unreadable("certificate file", "it is empty"))?;
    Ok(bytes::Bytes::copy_from_slice(first))
}
