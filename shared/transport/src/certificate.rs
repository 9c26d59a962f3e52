//! Parsing of certificates: the identity of a peer, its validity and its key.

use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use types::{DeviceId, Digest};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::error::CertificateError;

/// Prefix of a device's id in the subject alternative name of its certificate.
pub(crate) const DEVICE_URI: &str = "sanderling://device/";

/// Fields of a certificate that this crate uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateFields {
    /// SHA-256 of the public key (SubjectPublicKeyInfo in DER).
    pub(crate) key: Digest,
    /// Start of validity in seconds since 1970.
    pub(crate) not_before_unix_s: i64,
    /// End of validity in seconds since 1970.
    pub(crate) not_after_unix_s: i64,
    /// Device that the certificate names, if it names exactly one in the form of this project.
    pub(crate) device: Result<DeviceId, String>,
}

impl CertificateFields {
    /// Parses a certificate in DER. Does not check the signature.
    pub(crate) fn read(der: &[u8]) -> Result<Self, CertificateError> {
        let unreadable = |detail: String| CertificateError::unreadable("certificate", detail);
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| unreadable(error.to_string()))?;
        if !rest.is_empty() {
            return Err(unreadable("bytes follow it".to_owned()));
        }
        Ok(Self {
            key: Digest::of(certificate.public_key().raw),
            not_before_unix_s: certificate.validity().not_before.timestamp(),
            not_after_unix_s: certificate.validity().not_after.timestamp(),
            device: device(&certificate),
        })
    }
}

/// Returns the single device that a certificate names.
fn device(certificate: &X509Certificate<'_>) -> Result<DeviceId, String> {
    let names = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let mut ids = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(DEVICE_URI),
        _ => None,
    });
    match (ids.next(), ids.next()) {
        (Some(id), None) => id.parse().map_err(|error: types::InvalidId| error.to_string()),
        (None, _) => Err(format!("it has no name {DEVICE_URI}<id>")),
        (Some(_), Some(_)) => Err("it names more than one".to_owned()),
    }
}

/// Parses all certificates of a PEM text, in order; at least one.
pub(crate) fn chain_from_pem(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let chain = read.map_err(|error| CertificateError::unreadable("certificate file", format!("{error:?}")))?;
    if chain.is_empty() {
        return Err(CertificateError::unreadable("certificate file", "it contains no certificate"));
    }
    chain.iter().try_for_each(|der| CertificateFields::read(der).map(drop))?;
    Ok(chain)
}

/// Formats certificates as PEM, in order.
pub(crate) fn chain_to_pem<'a>(chain: impl IntoIterator<Item = &'a [u8]>) -> String {
    chain.into_iter().map(|der| pem("CERTIFICATE", der)).collect()
}

/// Formats bytes as PEM: base64 in lines of 64 characters (RFC 7468).
fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<String> =
        text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Converts certificates to the form used in messages.
pub(crate) fn to_bytes(chain: &[CertificateDer<'_>]) -> Vec<Bytes> {
    chain.iter().map(|der| Bytes::copy_from_slice(der)).collect()
}
