//! Files of the outbox: framed, and encrypted where the input is personal.
//!
//! The encryption is AES-256-GCM-SIV of aws-lc-rs with a random nonce; it stays safe if a nonce ever repeats. Number and purpose
//! of a file are authenticated with it, so that no file can take the place of another one. The key is a file of the state
//! folder: it protects the content of copies of the outbox and of the disk without that file, not against whoever reads the
//! whole state folder.

use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use store::files::{self, FileError, Mode};

/// Length of the key in bytes.
pub(super) const KEY_BYTES: usize = 32;

/// First bytes of each file: the version of its form.
const MAGIC: &[u8; 8] = b"SNDOUTB1";

/// Byte after the first ones of a file that is not encrypted.
const PLAIN: u8 = 0;

/// Byte after the first ones of an encrypted file; nonce and ciphertext with tag follow.
const SEALED: u8 = 1;

/// Maximum number of bytes that a file has beyond its content.
pub(super) const OVERHEAD_BYTES: u64 = 8 + 1 + NONCE_LEN as u64 + 16;

/// Purpose of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Inputs of a request.
    Request,
    /// Answer of the hub.
    Answer,
}

impl Purpose {
    /// Returns the suffix of the names of such files.
    #[must_use]
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Answer => "answer",
        }
    }
}

/// Error: a file of the outbox has no readable content.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The file cannot be read.
    #[error("read a file of the outbox")]
    File(#[from] FileError),
    /// The file has another form.
    #[error("a file of the outbox is damaged, or written by a later version")]
    Form,
    /// The key does not fit, or the file was changed.
    #[error("a file of the outbox cannot be decrypted: it was changed, or outbox.key was replaced")]
    Sealed,
}

/// Key of the outbox.
pub(super) struct OutboxKey {
    aead: RandomizedNonceKey,
    bytes: [u8; KEY_BYTES],
}

impl std::fmt::Debug for OutboxKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OutboxKey(..)")
    }
}

impl OutboxKey {
    /// Reads the key, or creates a random one in a file of mode 0600.
    ///
    /// # Errors
    /// When the file cannot be read or written, other users can read it, or it has another length.
    pub(super) fn open(path: &Path) -> Result<Self, SealError> {
        let bytes = match files::read_secret(path, KEY_BYTES as u64) {
            Ok(bytes) => bytes.try_into().map_err(|_other_length| SealError::Form)?,
            Err(error) if error.is_not_found() => {
                let bytes: [u8; KEY_BYTES] = rand::random();
                files::write_atomic(path, &bytes, Mode::Private)?;
                bytes
            }
            Err(error) => return Err(error.into()),
        };
        let aead = RandomizedNonceKey::new(&AES_256_GCM_SIV, &bytes).map_err(|_unspecified| SealError::Sealed)?;
        Ok(Self { aead, bytes })
    }

    /// Returns the bytes of the key, for digests that only this device can compute.
    #[must_use]
    pub(super) const fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.bytes
    }

    /// Returns the bytes of a file with this content.
    ///
    /// # Errors
    /// [`SealError::Sealed`] when the system gives no randomness.
    pub(super) fn frame(
        &self,
        number: u64,
        purpose: Purpose,
        mut content: Vec<u8>,
        is_sealed: bool,
    ) -> Result<Vec<u8>, SealError> {
        let mut file = MAGIC.to_vec();
        if is_sealed {
            let context = context(number, purpose);
            let nonce = self.aead.seal_in_place_append_tag(Aad::from(context), &mut content);
            let nonce = nonce.map_err(|_unspecified| SealError::Sealed)?;
            file.push(SEALED);
            file.extend_from_slice(nonce.as_ref());
        } else {
            file.push(PLAIN);
        }
        file.append(&mut content);
        Ok(file)
    }

    /// Returns the content of a file.
    ///
    /// # Errors
    /// [`SealError::Form`] and [`SealError::Sealed`].
    pub(super) fn unframe(&self, number: u64, purpose: Purpose, file: &[u8]) -> Result<Vec<u8>, SealError> {
        let (kind, rest) = file.strip_prefix(MAGIC).and_then(<[u8]>::split_first).ok_or(SealError::Form)?;
        match *kind {
            PLAIN => Ok(rest.to_vec()),
            SEALED => {
                let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Form)?;
                let nonce = Nonce::assume_unique_for_key(*nonce);
                let mut content = sealed.to_vec();
                let context = Aad::from(context(number, purpose));
                let opened = self.aead.open_in_place(nonce, context, &mut content);
                let length = opened.map_err(|_unspecified| SealError::Sealed)?.len();
                content.truncate(length);
                Ok(content)
            }
            _later => Err(SealError::Form),
        }
    }
}

/// Returns what is authenticated with a file.
fn context(number: u64, purpose: Purpose) -> Vec<u8> {
    format!("sanderling outbox {number} {}", purpose.suffix()).into_bytes()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_sealed_file_shows_nothing_and_belongs_to_its_key_number_and_purpose() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.key");
        let key = OutboxKey::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let content = b"a very personal content".to_vec();
        let file = key.frame(7, Purpose::Request, content.clone(), true).unwrap();
        assert!(!file.windows(8).any(|part| part == b"personal"));
        assert!(file.len() as u64 <= content.len() as u64 + OVERHEAD_BYTES);
        assert_ne!(file, key.frame(7, Purpose::Request, content.clone(), true).unwrap(), "nonces differ");
        let again = OutboxKey::open(&path).unwrap();
        assert_eq!(again.unframe(7, Purpose::Request, &file).unwrap(), content);
        assert!(matches!(again.unframe(8, Purpose::Request, &file), Err(SealError::Sealed)));
        assert!(matches!(again.unframe(7, Purpose::Answer, &file), Err(SealError::Sealed)));
        let other = OutboxKey::open(&folder.path().join("other")).unwrap();
        assert!(matches!(other.unframe(7, Purpose::Request, &file), Err(SealError::Sealed)));
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(key.unframe(7, Purpose::Request, &changed).is_err() || changed[8] == PLAIN, "byte {at}");
            assert!(key.unframe(7, Purpose::Request, &file[..at]).is_err());
        }
    }

    #[test]
    fn a_plain_file_reads_back_and_a_key_of_another_length_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.key");
        let key = OutboxKey::open(&path).unwrap();
        let file = key.frame(1, Purpose::Answer, b"public".to_vec(), false).unwrap();
        assert_eq!(key.unframe(1, Purpose::Answer, &file).unwrap(), b"public");
        files::write_atomic(&path, b"short", Mode::Private).unwrap();
        assert!(matches!(OutboxKey::open(&path), Err(SealError::Form)));
    }
}
