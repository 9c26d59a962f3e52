//! Ed25519 keys: made here, kept in files that only their owner can read.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::str::FromStr;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bundle::trust::ED25519_HEX_CHARS;
use serde_json::{Value, json};

use super::{SignError, canonical};

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// Longest key file in bytes; an ed25519 key takes 119.
const KEY_FILE_BYTES_MAX: u64 = 4096;

/// Owner alone.
const KEY_MODE: u32 = 0o600;

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

    /// Reads a key file (PKCS#8 PEM, as [`KeyPair::save`] and `openssl genpkey -algorithm ED25519` write it).
    ///
    /// # Errors
    /// When it cannot be read, when others can read it too, or when it holds no such key.
    pub fn load(path: &Path) -> Result<Self, SignError> {
        let fail = |source| SignError::KeyFile { action: "read", path: path.to_owned(), source };
        let file = File::open(path).map_err(fail)?;
        let mode = file.metadata().map_err(fail)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SignError::KeyExposed { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text).map_err(fail)?;
        Self::from_pem(&text).ok_or_else(|| SignError::NotAKey(path.to_owned()))
    }

    /// Writes a new key file that only its owner can read (mode 0600), durable when this returns.
    ///
    /// # Errors
    /// When the file exists already (a key is never overwritten), or when the disk refuses.
    pub fn save(&self, path: &Path) -> Result<(), SignError> {
        let fail = |source| SignError::KeyFile { action: "write", path: path.to_owned(), source };
        let pem = self.to_pem()?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(KEY_MODE).open(path).map_err(fail)?;
        file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)?;
        sync_parent(path).map_err(fail)
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
    fn to_pem(&self) -> Result<String, SignError> {
        let document = self.inner.to_pkcs8v1().map_err(|_unspecified| SignError::Crypto("encoding"))?;
        Ok(format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", STANDARD.encode(document.as_ref())))
    }

    fn from_pem(text: &str) -> Option<Self> {
        let body = text.trim().strip_prefix(PEM_BEGIN)?.strip_suffix(PEM_END)?;
        let body: String = body.split_whitespace().collect();
        Self::of(Ed25519KeyPair::from_pkcs8(&STANDARD.decode(body).ok()?).ok()?)
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_key_is_its_owners_alone_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let key = KeyPair::generate().unwrap();
        key.save(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(key.save(&path), Err(SignError::KeyFile { .. })));
        let read = KeyPair::load(&path).unwrap();
        assert_eq!(read.public(), key.public());
        assert_eq!(read.sign(b"x").unwrap(), key.sign(b"x").unwrap());
        assert!(!format!("{read:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        KeyPair::generate().unwrap().save(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(KeyPair::load(&path), Err(SignError::KeyExposed { mode: 0o640, .. })));
    }

    #[test]
    fn a_file_that_is_no_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (at, text) in ["", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"].iter().enumerate()
        {
            let path = folder.path().join(at.to_string());
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(KeyPair::load(&path), Err(SignError::NotAKey(_))));
        }
    }

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
