//! The key of an enrolment that is under way, so that a power cut or a lost answer does not cost the join token.
//!
//! `enrolling.json` in the identity folder is written before the hub is asked. The hub binds a token to the first key that
//! uses it and answers that key again; so whoever repeats the enrolment with the same token must use the same key. The
//! file goes when the identity is stored.

use std::path::Path;

use serde::{Deserialize, Serialize};
use store::files::{self, Mode};
use transport::DeviceKey;
use types::Digest;

use super::{Enrolment, FILE_BYTES_MAX, IdentityError};

const PENDING: &str = "enrolling.json";

/// Version of the file's format.
const FORMAT: u32 = 1;

/// Content of `enrolling.json`, which has mode 0600.
#[derive(Serialize, Deserialize)]
struct Pending {
    format: u32,
    /// SHA-256 of the join token's secret, in hexadecimal.
    token: String,
    /// The device's key (PKCS #8).
    key_pem: String,
}

/// Returns the key for an enrolment with this token: the stored one of an earlier try, or a new one that is durable now.
///
/// # Errors
/// When the disk refuses; the token was not used.
pub fn key_for(folder: &Path, token: Digest) -> Result<DeviceKey, IdentityError> {
    if let Some(key) = stored(folder, token) {
        return Ok(key);
    }
    let path = folder.join(PENDING);
    let key = DeviceKey::generate().map_err(super::damaged(&path))?;
    let pending = Pending { format: FORMAT, token: token.to_hex(), key_pem: key.to_pem() };
    let bytes = serde_json::to_vec_pretty(&pending)
        .map_err(|source| IdentityError::HubRecord { path: path.clone(), source })?;
    files::write_atomic(&path, &bytes, Mode::Private)?;
    Ok(key)
}

/// Returns whether this identity is what an enrolment with this token brought, and only its last step was cut off.
#[must_use]
pub fn is_done(folder: &Path, token: Digest, enrolment: &Enrolment) -> bool {
    stored(folder, token).is_some_and(|key| key.digest() == enrolment.identity.key_digest())
}

/// Removes the file once the identity is stored.
///
/// # Errors
/// When the disk refuses.
pub fn forget(folder: &Path) -> Result<(), IdentityError> {
    files::remove_file(&folder.join(PENDING))?;
    Ok(())
}

/// The key of an earlier try with this token. A damaged file, or one of another token, counts as none.
fn stored(folder: &Path, token: Digest) -> Option<DeviceKey> {
    let bytes = files::read_bounded(&folder.join(PENDING), FILE_BYTES_MAX).ok()?;
    let pending: Pending = serde_json::from_slice(&bytes).ok()?;
    let is_ours = pending.format == FORMAT && pending.token == token.to_hex();
    DeviceKey::from_pem(&pending.key_pem).ok().filter(|_key| is_ours)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_same_token_gets_the_same_key_and_another_one_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let (first, other) = (Digest::of(b"first"), Digest::of(b"other"));
        let key = key_for(folder.path(), first).unwrap().digest();
        assert_eq!(key_for(folder.path(), first).unwrap().digest(), key);
        let mode = std::fs::metadata(folder.path().join(PENDING)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_ne!(key_for(folder.path(), other).unwrap().digest(), key);
        forget(folder.path()).unwrap();
        assert!(!folder.path().join(PENDING).exists());
        forget(folder.path()).unwrap();
    }

    #[test]
    fn a_damaged_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let token = Digest::of(b"token");
        for damage in ["", "{}", "not json", "{\"format\":2,\"token\":\"\",\"key_pem\":\"\"}"] {
            std::fs::write(folder.path().join(PENDING), damage).unwrap();
            let key = key_for(folder.path(), token).unwrap().digest();
            assert_eq!(key_for(folder.path(), token).unwrap().digest(), key, "{damage:?}");
        }
    }
}
