//! Verification of the hub by a device: by the CA that the device stores or, before enrolment, by the CA's fingerprint
//! in the join token.
//!
//! The device's clock may be behind: without a battery it starts in 1970, or at the last known time. Therefore the
//! hub's certificate is verified at the later of this clock and the start of the certificate: a certificate of the
//! right CA that starts in the future is no attack. The start of the device's own certificate is not used as a lower
//! bound for the time: a hub that once issued certificates with a clock that was years ahead would lock its devices
//! out.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use types::Digest;

use crate::certificate::CertificateFields;
use crate::client::Trust;
use crate::tls::Observed;

/// Verifies a hub's certificate chain with webpki against the one trusted CA, and records the fault.
pub(crate) struct HubVerifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    seen: Observed,
    /// Number of full handshakes verified so far; resumed ones are not verified here.
    verified: u64,
}

impl HubVerifier {
    pub(crate) fn new(trust: Trust, provider: Arc<CryptoProvider>) -> Self {
        Self { trust, provider, state: Mutex::default() }
    }

    /// Takes the recorded result since the last call.
    pub(crate) fn take_seen(&self) -> Observed {
        std::mem::take(&mut self.state().seen)
    }

    /// Returns the number of full handshakes verified so far.
    pub(crate) fn verified(&self) -> u64 {
        self.state().verified
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Two plain values: a panic cannot leave them half written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the trust anchor: the stored CA, or the certificate of the chain whose SHA-256 is the pinned one.
    fn anchor(&self, intermediates: &[CertificateDer<'_>]) -> Option<CertificateDer<'static>> {
        match &self.trust {
            Trust::CaDer(der) => Some(CertificateDer::from(der.to_vec())),
            Trust::CaFingerprint(pin) => {
                let pinned = intermediates.iter().find(|certificate| Digest::of(certificate) == *pin)?;
                Some(pinned.clone().into_owned())
            }
        }
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let unknown = || Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let fields = CertificateFields::read(end_entity);
        let fields = fields.map_err(|_unreadable| Error::InvalidCertificate(rustls::CertificateError::BadEncoding))?;
        let begins = u64::try_from(fields.not_before_unix_s).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().max(begins)));
        let anchor = self.anchor(intermediates).ok_or_else(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(anchor)?;
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        webpki.verify_server_cert(end_entity, intermediates, server_name, &[], now)
    }
}

/// Maps an error of webpki to the fault to report.
fn observe(error: &Error) -> Observed {
    use rustls::CertificateError as E;
    let Error::InvalidCertificate(error) = error else { return Observed::Unfit };
    // rustls's enum is non-exhaustive, so this match cannot name every arm.
    match error {
        E::Expired | E::ExpiredContext { .. } => Observed::Expired,
        E::NotValidForName | E::NotValidForNameContext { .. } => Observed::WrongName,
        // A CA of the same name with another key appears as a bad signature.
        E::UnknownIssuer | E::BadSignature => Observed::WrongCa,
        _ => Observed::Unfit,
    }
}

impl ServerCertVerifier for HubVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let result = self.verify(end_entity, intermediates, server_name, now);
        let mut state = self.state();
        state.verified += 1;
        if let Err(error) = &result {
            state.seen = observe(error);
        }
        result
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for HubVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubVerifier").field("trust", &self.trust).finish_non_exhaustive()
    }
}
