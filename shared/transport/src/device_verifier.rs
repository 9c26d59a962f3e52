//! Verification of a device's certificate in the handshake: issued by our CA, for this use, and not expired for too
//! long.
//!
//! A device that was offline longer than its certificate's validity, or whose hub was, must be able to renew it.
//! Therefore a certificate is accepted for [`DeviceVerifier::grace`] after its end, and also before its start, because
//! the clock of this hub may have gone back, or was ahead when the certificate was issued. The hub decides from the
//! device's record what such a connection may do, for every connection.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::certificate::CertificateFields;

/// Verifies client certificates with webpki, at a time at which the certificate is valid if the grace allows it.
#[derive(Debug)]
pub(crate) struct DeviceVerifier {
    webpki: Arc<dyn ClientCertVerifier>,
    /// Time after its end for which a certificate is accepted.
    grace: Duration,
}

impl DeviceVerifier {
    pub(crate) fn new(webpki: Arc<dyn ClientCertVerifier>, grace: Duration) -> Self {
        Self { webpki, grace }
    }

    /// Returns the time at which to verify a certificate: the nearest to `now` at which it is valid, or `now` itself if
    /// the certificate expired longer ago than the grace.
    fn time_of(&self, fields: &CertificateFields, now: UnixTime) -> UnixTime {
        let second = |second: i64| u64::try_from(second).unwrap_or(0);
        let (from, until) = (second(fields.not_before_unix_s), second(fields.not_after_unix_s));
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
        let fields = CertificateFields::read(end_entity);
        let fields = fields.map_err(|_unreadable| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        self.webpki.verify_client_cert(end_entity, intermediates, self.time_of(&fields, now))
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
