//! Digests of inputs and answers, salted with a key of the device.
//!
//! Without the key, a digest of an input of few possible values (a digit, a yes or no) could be guessed by trying all of them. The
//! key stays on the device: it is not in the folder of the log.

use std::path::Path;

use store::files::{self, FileError, Mode};
use types::chain::PartsHash;
use types::{Digest, NamedTensor};

/// Length of the key in bytes.
const KEY_BYTES: usize = 32;

/// First part of each digest: the version of its form.
const FORMAT: &str = "sanderling input 1";

/// Key of the device.
#[derive(Clone)]
pub struct InputKey([u8; KEY_BYTES]);

impl std::fmt::Debug for InputKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InputKey(..)")
    }
}

impl InputKey {
    /// Reads the key, or creates a random one.
    ///
    /// # Errors
    /// When the file cannot be read or written, other users can read it, or it has another length.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        match files::read_secret(path, KEY_BYTES as u64) {
            Ok(bytes) => match bytes.try_into() {
                Ok(key) => Ok(Self(key)),
                // Cut off by a fault of the disk: digests of before cannot be compared with later ones.
                Err(_other_length) => Self::create(path),
            },
            Err(error) if error.is_not_found() => Self::create(path),
            Err(error) => Err(error),
        }
    }

    /// Returns a key that is kept elsewhere.
    #[must_use]
    pub const fn of(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    fn create(path: &Path) -> Result<Self, FileError> {
        let key: [u8; KEY_BYTES] = rand::random();
        files::write_atomic(path, &key, Mode::Private)?;
        Ok(Self(key))
    }

    /// Returns the digest of tensors: of their names, types, shapes and bytes, in this order.
    #[must_use]
    pub fn digest(&self, tensors: &[NamedTensor]) -> Digest {
        let start = PartsHash::new().part(FORMAT.as_bytes()).part(&self.0);
        let all = tensors.iter().fold(start, |hash, NamedTensor { name, tensor }| {
            let shape: Vec<u8> = tensor.shape().iter().flat_map(|&size| (size as u64).to_le_bytes()).collect();
            hash.part(name.as_bytes()).part(tensor.dtype().as_str().as_bytes()).part(&shape).part(tensor.data())
        });
        all.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::Tensor;

    fn input(name: &str, shape: Vec<usize>, values: &[f32]) -> Vec<NamedTensor> {
        vec![NamedTensor { name: name.to_owned(), tensor: Tensor::from_f32(shape, values).unwrap() }]
    }

    #[test]
    fn a_digest_depends_on_the_key_and_on_every_part_of_the_input() {
        let folder = tempfile::tempdir().unwrap();
        let key = InputKey::open(&folder.path().join("key")).unwrap();
        let again = InputKey::open(&folder.path().join("key")).unwrap();
        let other = InputKey::open(&folder.path().join("other")).unwrap();
        let base = input("x", vec![2], &[1.0, 2.0]);
        assert_eq!(key.digest(&base), again.digest(&base));
        let digests = [
            other.digest(&base),
            key.digest(&input("y", vec![2], &[1.0, 2.0])),
            key.digest(&input("x", vec![1, 2], &[1.0, 2.0])),
            key.digest(&input("x", vec![2], &[1.0, 3.0])),
            key.digest(&[]),
        ];
        assert!(digests.iter().all(|digest| *digest != key.digest(&base)));
    }
}
