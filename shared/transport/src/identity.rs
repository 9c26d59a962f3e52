//! Identity of one side of a connection: its private key and its certificates.

use std::fmt;

use bytes::Bytes;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use types::{DeviceId, Digest};

use crate::certificate::{CertificateFields, chain_from_pem, chain_to_pem, to_bytes};
use crate::error::CertificateError;

/// A private key that never leaves its machine (ECDSA P-256: small, fast on devices, supported everywhere).
pub struct DeviceKey {
    pair: KeyPair,
}

impl DeviceKey {
    /// Generates a new key from the system's randomness.
    ///
    /// # Errors
    /// Fails when the system gives no randomness.
    pub fn generate() -> Result<Self, CertificateError> {
        let pair = KeyPair::generate().map_err(|error| CertificateError::unreadable("new key", error))?;
        Ok(Self { pair })
    }

    /// Parses a key from PEM (PKCS #8).
    ///
    /// # Errors
    /// Fails when the text is no such key.
    pub fn from_pem(pem: &str) -> Result<Self, CertificateError> {
        let pair = KeyPair::from_pem(pem).map_err(|error| CertificateError::unreadable("key file", error))?;
        Ok(Self { pair })
    }

    /// Formats the key as PEM (PKCS #8). Store it in a file of mode 0600.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// Returns the SHA-256 of the public key (SubjectPublicKeyInfo in DER), as the hub records it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.pair.subject_public_key_info())
    }

    /// Returns a signing request (PKCS #10, DER) that proves possession of the key and claims nothing else.
    ///
    /// # Errors
    /// Fails when the key cannot sign.
    pub fn csr_der(&self) -> Result<Bytes, CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.pair);
        let request = request.map_err(|error| CertificateError::unreadable("signing request", error))?;
        Ok(Bytes::copy_from_slice(request.der()))
    }

    /// Combines the key with the certificates that were issued for it.
    ///
    /// # Errors
    /// Fails if the chain is empty, cannot be parsed, or is for another key.
    pub fn identity(&self, chain_der: &[Bytes]) -> Result<Identity, CertificateError> {
        let chain = chain_der.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pair.serialize_der()));
        Identity::new(chain, key, self.digest())
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceKey").field("public", &self.digest()).finish_non_exhaustive()
    }
}

/// A key and its matching certificates, leaf first.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    leaf: CertificateFields,
}

impl Identity {
    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        public: Digest,
    ) -> Result<Self, CertificateError> {
        let first = chain.first().ok_or_else(|| CertificateError::unreadable("certificate chain", "it is empty"))?;
        let leaf = CertificateFields::read(first)?;
        if leaf.key != public {
            return Err(CertificateError::KeyMismatch);
        }
        Ok(Self { chain, key, leaf })
    }

    /// Parses certificates (leaf first) and key from PEM.
    ///
    /// # Errors
    /// Fails if either cannot be parsed, or if the key does not match the certificates.
    pub fn from_pem(chain_pem: &str, key_pem: &str) -> Result<Self, CertificateError> {
        let public = DeviceKey::from_pem(key_pem)?.digest();
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes());
        let key = key.map_err(|error| CertificateError::unreadable("key file", format!("{error:?}")))?;
        Self::new(chain_from_pem(chain_pem)?, key, public)
    }

    /// Returns the certificates as PEM, leaf first.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        chain_to_pem(self.chain.iter().map(|der| &**der))
    }

    /// Returns the certificates in DER, leaf first.
    #[must_use]
    pub fn chain_der(&self) -> Vec<Bytes> {
        to_bytes(&self.chain)
    }

    /// Returns the device that the certificate names.
    ///
    /// # Errors
    /// Returns [`CertificateError::NoDevice`] if it names none, as a hub's own certificate.
    pub fn device(&self) -> Result<DeviceId, CertificateError> {
        self.leaf.device.clone().map_err(CertificateError::NoDevice)
    }

    /// Returns the SHA-256 of the public key.
    #[must_use]
    pub fn key_digest(&self) -> Digest {
        self.leaf.key
    }

    /// Returns the start of the certificate's validity, in seconds since 1970.
    #[must_use]
    pub fn not_before_unix_s(&self) -> i64 {
        self.leaf.not_before_unix_s
    }

    /// Returns the end of the certificate's validity, in seconds since 1970.
    #[must_use]
    pub fn not_after_unix_s(&self) -> i64 {
        self.leaf.not_after_unix_s
    }

    /// Returns the same leaf with other certificates after it, as an impostor would present them.
    #[cfg(test)]
    pub(crate) fn with_issuers(mut self, issuers: &[Bytes]) -> Self {
        self.chain.truncate(1);
        self.chain.extend(issuers.iter().map(|der| CertificateDer::from(der.to_vec())));
        self
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    /// Returns the certificate of this side without its issuer.
    pub(crate) fn own_certificate(&self) -> Vec<CertificateDer<'static>> {
        self.chain.iter().take(1).cloned().collect()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key(), leaf: self.leaf.clone() }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}
