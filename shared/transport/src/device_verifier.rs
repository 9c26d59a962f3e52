//! The hub's check of a device's certificate in the handshake: issued by our CA, for this use, not over for too long.
//!
//! A device that was away longer than its certificate, or whose hub was, must be able to renew it. So a certificate is
//! let through for [`DeviceVerifier::grace`] after its end, and also before its start: then the clock of this hub went
//! back, or was ahead when it issued the certificate. What such a connection may do is decided by the hub from the
//! device's record, for every connection.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::certificate::Facts;

/// Verifies client certificates with webpki, at a time at which the certificate is valid if the grace allows that.
#[derive(Debug)]
pub(crate) struct DeviceVerifier {
    webpki: Arc<dyn ClientCertVerifier>,
    /// How long after its end a certificate is let through.
    grace: Duration,
}

impl DeviceVerifier {
    pub(crate) fn new(webpki: Arc<dyn ClientCertVerifier>, grace: Duration) -> Self {
        Self { webpki, grace }
    }

    /// Returns the time to verify a certificate at: the nearest to `now` at which it is valid, or `now` itself when the
    /// certificate is over for longer than the grace.
    fn time_of(&self, facts: &Facts, now: UnixTime) -> UnixTime {
        let second = |second: i64| u64::try_from(second).unwrap_or(0);
        let (from, until) = (second(facts.not_before_unix_s), second(facts.not_after_unix_s));
        let in_grace = now.as_secs() <= until.saturating_add(self.grace.as_secs());
        match now.as_secs() {
            now_s if now_s < from => UnixTime::since_unix_epoch(Duration::from_secs(from)),
            now_s if now_s > until && in_grace => UnixTime::since_unix_epoch(Duration::from_secs(until)),
            _ => now,
        }
    }
}

impl ClientCertVerifier for DeviceVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.webpki.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let facts = Facts::read(end_entity);
        let facts = facts.map_err(|_unreadable| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        self.webpki.verify_client_cert(end_entity, intermediates, self.time_of(&facts, now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}
