//! Certificate authority of the hub: one self-signed CA that issues the certificates of devices and of the hub itself.
//!
//! Enrolment and renewal submit signing requests. The CA uses only the public key of a request, after the request has
//! proven possession of the private key; identity, names, uses and lifetime come from the caller.

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

use crate::certificate::{CertificateFields, DEVICE_URI, chain_from_pem, chain_to_pem};
use crate::error::CertificateError;
use crate::identity::{DeviceKey, Identity};

/// Time between the start of a device's certificate and its issue, so that other software with a slightly slow clock
/// accepts the certificate.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// Maximum time between the start of the hub's own certificate and its issue; it never starts before the CA.
///
/// A late start would protect nothing, and a device or operator with a slow clock must be able to connect after a
/// restart of the hub. A year, because some systems refuse server certificates that are valid for more than 825 days in
/// all.
const SERVER_BACKDATE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Lifetime of a CA certificate: longer than the hardware of most fleets.
pub const CA_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);

/// Remaining validity below which the CA certificate is reissued with the same key when the hub starts.
///
/// Five years: every hub is restarted within that time.
pub const CA_RENEWAL_BEFORE: Duration = Duration::from_secs(5 * 365 * 24 * 60 * 60);

/// Time between the start of the CA certificate and its creation, because devices without a clock battery start in the
/// past.
const CA_BACKDATE: Duration = Duration::from_secs(24 * 60 * 60);

/// Length of a serial number in bytes: RFC 5280 allows 20, and 16 random bytes do not repeat.
const SERIAL_BYTES: usize = 16;

/// Start and lifetime of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Issuer's clock. A device's certificate starts [`CLOCK_SKEW`] before it, the hub's own up to a year before it.
    pub now: SystemTime,
    /// Validity after `now`.
    pub lifetime: Duration,
}

impl Validity {
    /// Returns a validity that starts now, by the system clock.
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

/// An issued certificate, with the data that the hub stores in the device's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// Certificates in DER: the device's own, then the CA.
    pub chain_der: Vec<Bytes>,
    /// SHA-256 digest of the device's public key.
    pub key: Digest,
    /// End of validity, in seconds since 1970.
    pub not_after_unix_s: i64,
}

/// The authority: its certificate and its key.
///
/// Sanderling's own programs trust the CA's name and key and ignore its dates, so nothing stops when it expires. Other
/// TLS clients (curl, browsers) check the dates, so the certificate is renewed in time ([`Ca::renewed`]).
pub struct Ca {
    certificate: CertificateDer<'static>,
    fields: CertificateFields,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// Creates an authority. `name` is displayed in certificates, like `Sanderling hub.example.org`.
    ///
    /// # Errors
    /// Fails if the system provides no randomness or the name is not valid in a certificate.
    pub fn create(name: &str) -> Result<Self, CertificateError> {
        Self::self_signed(name, KeyPair::generate().map_err(issue)?, SystemTime::now())
    }

    fn self_signed(name: &str, pair: KeyPair, now: SystemTime) -> Result<Self, CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        // It may issue no further authority.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        Validity { now, lifetime: CA_LIFETIME }.apply(&mut params, CA_BACKDATE)?;
        let certificate = params.self_signed(&pair).map_err(issue)?.der().clone();
        let fields = CertificateFields::read(&certificate)?;
        Ok(Self { certificate, fields, issuer: Issuer::new(params, pair) })
    }

    /// Reissues the CA's own certificate for the same name and key, valid from `now` for [`CA_LIFETIME`].
    ///
    /// Certificates that the old one issued remain valid, and devices that store the old one accept certificates that
    /// the new one issues.
    ///
    /// # Errors
    /// Fails if the certificate cannot be read back or the system provides no randomness.
    pub fn renewed(&self, now: SystemTime) -> Result<Self, CertificateError> {
        let pair = KeyPair::from_pem(&self.key_pem());
        let pair = pair.map_err(|error| CertificateError::unreadable("CA key", error))?;
        let unreadable = |error: String| CertificateError::unreadable("CA certificate", error);
        let (_rest, old) =
            X509Certificate::from_der(&self.certificate).map_err(|error| unreadable(error.to_string()))?;
        let name = old.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        Self::self_signed(name.ok_or_else(|| unreadable("it has no name".to_owned()))?, pair, now)
    }

    /// Returns whether the CA's certificate should be reissued at `now` ([`CA_RENEWAL_BEFORE`]).
    #[must_use]
    pub fn is_renewal_due(&self, now: SystemTime) -> bool {
        now.checked_add(CA_RENEWAL_BEFORE).is_none_or(|then| then > second(self.fields.not_after_unix_s))
    }

    /// Returns the start of the CA's validity. The hub was created a day later, so an earlier clock is wrong.
    #[must_use]
    pub fn begins(&self) -> SystemTime {
        second(self.fields.not_before_unix_s)
    }

    /// Loads an authority from the PEM of its certificate and its key.
    ///
    /// # Errors
    /// Fails if either cannot be parsed, or if the key does not match the certificate.
    pub fn load(cert_pem: &str, key_pem: &str) -> Result<Self, CertificateError> {
        let chain = chain_from_pem(cert_pem)?;
        let certificate = chain.into_iter().next();
        let certificate = certificate.ok_or_else(|| CertificateError::unreadable("CA file", "it is empty"))?;
        let pair = KeyPair::from_pem(key_pem).map_err(|error| CertificateError::unreadable("CA key file", error))?;
        let fields = CertificateFields::read(&certificate)?;
        if fields.key != Digest::of(&pair.subject_public_key_info()) {
            return Err(CertificateError::KeyMismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, pair);
        let issuer = issuer.map_err(|error| CertificateError::unreadable("CA file", error))?;
        Ok(Self { certificate, fields, issuer })
    }

    /// Returns the CA's certificate as PEM.
    #[must_use]
    pub fn cert_pem(&self) -> String {
        chain_to_pem([&*self.certificate])
    }

    /// Returns the CA's certificate in DER.
    #[must_use]
    pub fn cert_der(&self) -> Bytes {
        Bytes::copy_from_slice(&self.certificate)
    }

    /// Returns the CA's private key as PEM. Store it in a file of mode 0600 on the hub only.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Returns the SHA-256 of the CA's certificate in DER, as in join tokens.
    #[must_use]
    pub fn fingerprint(&self) -> Digest {
        Digest::of(&self.certificate)
    }

    /// Issues a device's certificate for the public key in `csr_der`. All other content of the request is ignored.
    ///
    /// # Errors
    /// Fails if the request cannot be parsed, is not signed by its own key, or has a key of an unsupported kind.
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
        let fields = CertificateFields::read(&leaf)?;
        // The key was rebuilt from its parts: the certified key must equal the requested one, byte for byte.
        if fields.key != spki {
            return Err(CertificateError::KeyKind);
        }
        let chain_der = vec![Bytes::copy_from_slice(&leaf), self.cert_der()];
        Ok(Issued { chain_der, key: fields.key, not_after_unix_s: fields.not_after_unix_s })
    }

    /// Issues a certificate with a new key for the hub itself, for DNS names and IP addresses.
    ///
    /// # Errors
    /// Fails if a name is neither, or if the system provides no randomness.
    pub fn issue_server(&self, names: &[String], validity: Validity) -> Result<Identity, CertificateError> {
        let key = DeviceKey::generate()?;
        let (request, _spki) = read_request(&key.csr_der()?)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(names.first().map_or("sanderling hub", String::as_str));
        params.subject_alt_names = names.iter().map(|name| server_name(name)).collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let since_ca = validity.now.duration_since(self.begins()).unwrap_or_default();
        let leaf = self.sign(params, &request.public_key, validity, SERVER_BACKDATE.min(since_ca))?;
        // The chain includes the CA, so that a device that only knows its fingerprint can find it.
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

/// Returns a positive random serial number.
fn serial() -> Result<SerialNumber, CertificateError> {
    let mut bytes = [0; SERIAL_BYTES];
    OsRng.try_fill_bytes(&mut bytes).map_err(|error| CertificateError::Issue(error.to_string()))?;
    // A leading one bit would make it negative in DER, a leading zero byte would make it shorter.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Checks the signature of a request; returns the request and the SHA-256 of its public key.
fn read_request(csr_der: &[u8]) -> Result<(CertificateSigningRequestParams, Digest), CertificateError> {
    let unreadable = |detail: String| CertificateError::unreadable("signing request", detail);
    if csr_der.len() > CSR_BYTES_MAX {
        return Err(unreadable(format!("it has {} bytes, at most {CSR_BYTES_MAX} are allowed", csr_der.len())));
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
