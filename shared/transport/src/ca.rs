//! The hub's certificate authority: one self-signed CA, certificates of devices and of the hub itself.
//!
//! Fed by enrolment and renewal with signing requests. Of a request it takes the public key, once the request has
//! proven possession of it, and nothing else: identity, names, uses and lifetime come from the caller.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use protocol::v1::CSR_BYTES_MAX;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use types::{DeviceId, Digest};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificate::{DEVICE_URI, Facts, chain_from_pem, chain_to_pem};
use crate::error::CertificateError;
use crate::identity::{DeviceKey, Identity};

/// Time by which a device's certificate begins before it is issued, so that a clock that is a little behind does not
/// matter to other software that looks at it.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// Time by which the hub's own certificate begins before it is issued, but never before the CA.
///
/// A start in the past protects nobody, and a device or operator whose clock is behind must get through after a restart
/// of the hub. A year, because some systems refuse server certificates that are valid for more than 825 days in all.
const SERVER_BACKDATE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Lifetime of a CA certificate: longer than the hardware of most fleets.
pub const CA_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);

/// Time before its end from which on a CA certificate is issued anew, for the same key, when the hub starts.
///
/// Five years: every hub is restarted within that time.
pub const CA_RENEWAL_BEFORE: Duration = Duration::from_secs(5 * 365 * 24 * 60 * 60);

/// How far back a CA begins: devices without a clock battery start in the past, and a CA tells nothing by its age.
const CA_BACKDATE: Duration = Duration::from_secs(24 * 60 * 60);

/// Bytes of a serial number: RFC 5280 allows 20, and 16 random ones never meet again.
const SERIAL_BYTES: usize = 16;

/// From when and for how long a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The issuer's clock. A device's certificate begins [`CLOCK_SKEW`] before it, the hub's own up to a year before it.
    pub now: SystemTime,
    /// How long it is valid after `now`.
    pub lifetime: Duration,
}

impl Validity {
    /// Valid from now on.
    #[must_use]
    pub fn from_now(lifetime: Duration) -> Self {
        Self { now: SystemTime::now(), lifetime }
    }

    fn apply(self, params: &mut CertificateParams, backdate: Duration) -> Result<(), CertificateError> {
        let outside = || CertificateError::Issue("the lifetime does not fit a certificate".to_owned());
        let start = self.now.checked_sub(backdate).ok_or_else(outside)?;
        let end = self.now.checked_add(self.lifetime.min(CA_LIFETIME)).ok_or_else(outside)?;
        params.not_before = start.into();
        params.not_after = end.into();
        Ok(())
    }
}

/// A certificate that was issued, with what the hub keeps of it in the device's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// Certificates in DER: the device's own, then the CA.
    pub chain_der: Vec<Bytes>,
    /// SHA-256 of the device's public key.
    pub key: Digest,
    /// When it ends to be valid, in seconds since 1970.
    pub not_after_unix_s: i64,
}

/// The authority: its certificate and its key.
///
/// Sanderling's own programs trust the CA's name and key and never look at its dates, so nothing stops when it is over.
/// Other TLS clients (curl, browsers) do look, so it is renewed in time ([`Ca::renewed`]).
pub struct Ca {
    certificate: CertificateDer<'static>,
    facts: Facts,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// Makes a new authority. `name` is what people see in certificates, like `Sanderling hub.example.org`.
    ///
    /// # Errors
    /// When the system gives no randomness or the name cannot stand in a certificate.
    pub fn create(name: &str) -> Result<Self, CertificateError> {
        Self::self_signed(name, KeyPair::generate().map_err(issue)?, SystemTime::now())
    }

    fn self_signed(name: &str, pair: KeyPair, now: SystemTime) -> Result<Self, CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        // No authority below this one.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        Validity { now, lifetime: CA_LIFETIME }.apply(&mut params, CA_BACKDATE)?;
        let certificate = params.self_signed(&pair).map_err(issue)?.der().clone();
        let facts = Facts::read(&certificate)?;
        Ok(Self { certificate, facts, issuer: Issuer::new(params, pair) })
    }

    /// Issues the CA's own certificate anew, for the same name and key, valid from `now` on for [`CA_LIFETIME`].
    ///
    /// Certificates that the old one issued stay good, and devices that keep the old one accept what the new one issues.
    ///
    /// # Errors
    /// When the certificate cannot be read back or the system gives no randomness.
    pub fn renewed(&self, now: SystemTime) -> Result<Self, CertificateError> {
        let pair = KeyPair::from_pem(&self.key_pem());
        let pair = pair.map_err(|error| CertificateError::unreadable("CA key", error))?;
        let unreadable = |error: String| CertificateError::unreadable("CA certificate", error);
        let (_rest, old) =
            X509Certificate::from_der(&self.certificate).map_err(|error| unreadable(error.to_string()))?;
        let name = old.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        Self::self_signed(name.ok_or_else(|| unreadable("it has no name".to_owned()))?, pair, now)
    }

    /// Returns whether the CA's certificate should be issued anew at `now` ([`CA_RENEWAL_BEFORE`]).
    #[must_use]
    pub fn is_renewal_due(&self, now: SystemTime) -> bool {
        now.checked_add(CA_RENEWAL_BEFORE).is_none_or(|then| then > second(self.facts.not_after_unix_s))
    }

    /// Returns the start of the CA's validity. The hub was made a day after it, so its clock is wrong when it is earlier.
    #[must_use]
    pub fn begins(&self) -> SystemTime {
        second(self.facts.not_before_unix_s)
    }

    /// Reads an authority from the PEM of its certificate and its key.
    ///
    /// # Errors
    /// When either is unreadable, or they do not belong together.
    pub fn load(cert_pem: &str, key_pem: &str) -> Result<Self, CertificateError> {
        let chain = chain_from_pem(cert_pem)?;
        let certificate = chain.into_iter().next();
        let certificate = certificate.ok_or_else(|| CertificateError::unreadable("CA file", "it is empty"))?;
        let pair = KeyPair::from_pem(key_pem).map_err(|error| CertificateError::unreadable("CA key file", error))?;
        let facts = Facts::read(&certificate)?;
        if facts.key != Digest::of(&pair.subject_public_key_info()) {
            return Err(CertificateError::KeyMismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, pair);
        let issuer = issuer.map_err(|error| CertificateError::unreadable("CA file", error))?;
        Ok(Self { certificate, facts, issuer })
    }

    /// The CA's certificate as PEM.
    #[must_use]
    pub fn cert_pem(&self) -> String {
        chain_to_pem([&*self.certificate])
    }

    /// The CA's certificate in DER.
    #[must_use]
    pub fn cert_der(&self) -> Bytes {
        Bytes::copy_from_slice(&self.certificate)
    }

    /// The CA's private key as PEM. Keep it in a file of mode 0600 on the hub alone.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// SHA-256 of the CA's certificate in DER, as join tokens carry it.
    #[must_use]
    pub fn fingerprint(&self) -> Digest {
        Digest::of(&self.certificate)
    }

    /// Issues a device's certificate for the public key in `csr_der`. Whatever else the request claims is ignored.
    ///
    /// # Errors
    /// When the request is unreadable, not signed by its own key, or its key is of a kind that is not taken.
    pub fn issue_device(
        &self,
        csr_der: &[u8],
        device: &DeviceId,
        validity: Validity,
    ) -> Result<Issued, CertificateError> {
        let (request, spki) = read_request(csr_der)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(device.as_str());
        let uri = format!("{DEVICE_URI}{device}");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(issue)?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = self.sign(params, &request.public_key, validity, CLOCK_SKEW)?;
        let facts = Facts::read(&leaf)?;
        // The key was rebuilt from its parts: what is certified must be, byte for byte, what asked.
        if facts.key != spki {
            return Err(CertificateError::KeyKind);
        }
        let chain_der = vec![Bytes::copy_from_slice(&leaf), self.cert_der()];
        Ok(Issued { chain_der, key: facts.key, not_after_unix_s: facts.not_after_unix_s })
    }

    /// Issues a certificate for the hub itself, with a new key, for DNS names and IP addresses.
    ///
    /// # Errors
    /// When a name is neither, or the system gives no randomness.
    pub fn issue_server(&self, names: &[String], validity: Validity) -> Result<Identity, CertificateError> {
        let key = DeviceKey::generate()?;
        let (request, _spki) = read_request(&key.csr_der()?)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(names.first().map_or("sanderling hub", String::as_str));
        params.subject_alt_names = names.iter().map(|name| server_name(name)).collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let since_ca = validity.now.duration_since(self.begins()).unwrap_or_default();
        let leaf = self.sign(params, &request.public_key, validity, SERVER_BACKDATE.min(since_ca))?;
        // The CA goes along, so that a device that only knows its fingerprint can find it in the chain.
        key.identity(&[Bytes::copy_from_slice(&leaf), self.cert_der()])
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
        validity: Validity,
        backdate: Duration,
    ) -> Result<CertificateDer<'static>, CertificateError> {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(serial()?);
        params.use_authority_key_identifier_extension = true;
        validity.apply(&mut params, backdate)?;
        Ok(params.signed_by(key, &self.issuer).map_err(issue)?.der().clone())
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

fn second(unix_s: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(unix_s).unwrap_or(0))
}

fn issue(error: rcgen::Error) -> CertificateError {
    CertificateError::Issue(error.to_string())
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn server_name(name: &str) -> Result<SanType, CertificateError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let bad = || CertificateError::BadName(name.chars().take(80).collect());
    let dns = rustls::pki_types::DnsName::try_from(name).map_err(|_not_dns| bad())?;
    Ok(SanType::DnsName(dns.as_ref().to_owned().try_into().map_err(|_not_ascii| bad())?))
}

/// A positive random serial number.
fn serial() -> Result<SerialNumber, CertificateError> {
    let mut bytes = [0; SERIAL_BYTES];
    OsRng.try_fill_bytes(&mut bytes).map_err(|error| CertificateError::Issue(error.to_string()))?;
    // A leading one bit would make it negative in DER, a leading zero byte shorter.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Checks a request's own signature; gives it and the SHA-256 of its public key.
fn read_request(csr_der: &[u8]) -> Result<(CertificateSigningRequestParams, Digest), CertificateError> {
    let unreadable = |detail: String| CertificateError::unreadable("signing request", detail);
    if csr_der.len() > CSR_BYTES_MAX {
        return Err(unreadable(format!("it has {} bytes, at most {CSR_BYTES_MAX} are taken", csr_der.len())));
    }
    let (rest, parsed) = X509CertificationRequest::from_der(csr_der).map_err(|error| unreadable(error.to_string()))?;
    if !rest.is_empty() {
        return Err(unreadable("bytes follow it".to_owned()));
    }
    let spki = Digest::of(parsed.certification_request_info.subject_pki.raw);
    let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr_der));
    let request = request.map_err(|error| match error {
        rcgen::Error::InvalidCertificationRequestSignature => CertificateError::ForgedRequest,
        other => unreadable(other.to_string()),
    })?;
    let taken = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
    let lawful = taken.into_iter().any(|kind| request.public_key.algorithm() == kind);
    if lawful { Ok((request, spki)) } else { Err(CertificateError::KeyKind) }
}
