//! Ed25519 keys in memory; [`super::key_file`] keeps them in files.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use bundle::trust::ED25519_HEX_CHARS;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{SignError, canonical};

/// The half of a key that everybody may know.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key as TUF metadata writes it.
    pub(super) fn to_json(self) -> Value {
        json!({"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": self.to_string()}})
    }

    /// The id TUF metadata names it by: SHA-256 of its canonical JSON.
    ///
    /// # Errors
    /// Never in practice; canonical JSON refuses floats and there are none.
    pub fn key_id(self) -> Result<String, SignError> {
        Ok(types::Digest::of(&canonical::to_bytes(&self.to_json())?).to_hex())
    }

    /// Returns whether the signature is one of this key over these bytes.
    #[must_use]
    pub fn verifies(self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(bytes, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = SignError;
    fn from_str(text: &str) -> Result<Self, SignError> {
        let wrong = || SignError::NotAPublicKey(text.chars().take(80).collect());
        let lower = text.len() == ED25519_HEX_CHARS && !text.bytes().any(|byte| byte.is_ascii_uppercase());
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok().filter(|()| lower).ok_or_else(wrong)?;
        Ok(Self(bytes))
    }
}

/// A key that signs.
pub struct KeyPair {
    inner: Ed25519KeyPair,
    public: PublicKey,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({})", self.public)
    }
}

impl KeyPair {
    /// Makes a new key from the randomness of the operating system.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate() -> Result<Self, SignError> {
        let inner = Ed25519KeyPair::generate().map_err(|_unspecified| SignError::Crypto("generating"))?;
        Self::of(inner).ok_or(SignError::Crypto("generating"))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs bytes; 64 bytes come out.
    ///
    /// # Errors
    /// When the library fails.
    pub fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = self.inner.try_sign(bytes).map_err(|_unspecified| SignError::Crypto("signing"))?;
        Ok(signature.as_ref().to_vec())
    }

    fn of(inner: Ed25519KeyPair) -> Option<Self> {
        let public = PublicKey(inner.public_key().as_ref().try_into().ok()?);
        Some(Self { inner, public })
    }

    /// Version 1 of PKCS#8, which the `openssl` command reads too.
    pub(super) fn to_der(&self) -> Result<Zeroizing<Vec<u8>>, SignError> {
        let document = self.inner.to_pkcs8v1().map_err(|_unspecified| SignError::Crypto("encoding"))?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    pub(super) fn from_der(der: &[u8]) -> Option<Self> {
        Self::of(Ed25519KeyPair::from_pkcs8(der).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_reads_back_what_it_prints() {
        let key = KeyPair::generate().unwrap().public();
        assert_eq!(key.to_string().parse::<PublicKey>().unwrap(), key);
        assert!(
            key.to_string().to_uppercase().parse::<PublicKey>().is_err()
                || !key.to_string().contains(char::is_alphabetic)
        );
        assert!("ab".parse::<PublicKey>().is_err());
    }
}
