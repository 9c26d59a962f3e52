//! Files of a bundle: their names, sizes and digests, of the whole file and by chunk.
//!
//! Used by the packer, which describes existing files ([`describe`]), and by manifests, which declare the files
//! ([`FileRef`]). Every byte that must be trusted is hashed here.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use types::Digest;
use types::limits::FILE_BYTES_MAX;

/// Size of one chunk of a file in bytes; only the last one may be shorter.
///
/// 1 MiB: the amount of a download that a device on a bad link can lose, against 71 bytes of manifest for each chunk.
pub const CHUNK_BYTES: u64 = 1024 * 1024;

/// Maximum length of a file name in bytes; most file systems allow 255, and names get a suffix during the download.
pub const FILE_NAME_BYTES_MAX: usize = 128;

/// Size of the buffer in bytes for hashing.
const READ_BYTES: usize = 64 * 1024;

/// Name of the manifest inside a bundle's folder; no other file may have it.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Error: a text is not a valid file name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "file name {0:?} is not valid: use 1 to 128 of A-Z, a-z, 0-9, '-', '_' and '.', starting with a letter or \
     digit, and not \"manifest.json\""
)]
pub struct InvalidFileName(String);

/// Name of a file in the folder of a bundle: one safe path component.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileName(String);

impl FileName {
    /// Returns the text, as it is written in the manifest.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FileName {
    type Err = InvalidFileName;
    fn from_str(text: &str) -> Result<Self, InvalidFileName> {
        let first = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
        let all = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if first && all && text.len() <= FILE_NAME_BYTES_MAX && !text.eq_ignore_ascii_case(MANIFEST_FILE) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidFileName(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for FileName {
    type Error = InvalidFileName;
    fn try_from(text: String) -> Result<Self, InvalidFileName> {
        text.parse()
    }
}

impl From<FileName> for String {
    fn from(name: FileName) -> Self {
        name.0
    }
}

impl AsRef<Path> for FileName {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Declaration of a file of a bundle, down to the byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// Name in the bundle's folder.
    pub name: FileName,
    /// Size in bytes.
    pub size: u64,
    /// Digest of the whole file.
    pub digest: Digest,
    /// Digest of each chunk of [`CHUNK_BYTES`], in order.
    pub chunks: Vec<Digest>,
}

impl FileRef {
    /// Returns offset and length of a chunk, or `None` past the end.
    #[must_use]
    pub fn chunk_range(&self, index: usize) -> Option<(u64, u64)> {
        let offset = u64::try_from(index).ok()?.checked_mul(CHUNK_BYTES)?;
        let left = self.size.checked_sub(offset).filter(|&left| left > 0)?;
        Some((offset, left.min(CHUNK_BYTES)))
    }

    /// Returns the fault of the reference itself, if there is one.
    pub(crate) fn mistake(&self) -> Option<String> {
        if self.size == 0 || self.size > FILE_BYTES_MAX {
            return Some(format!("size {} is not within 1 to {FILE_BYTES_MAX} bytes", self.size));
        }
        let expected = self.size.div_ceil(CHUNK_BYTES);
        if u64::try_from(self.chunks.len()).ok() != Some(expected) {
            return Some(format!("{} bytes take {expected} chunks, {} are listed", self.size, self.chunks.len()));
        }
        if let [only] = self.chunks.as_slice()
            && *only != self.digest
        {
            return Some("the digest of its only chunk differs from that of the file".to_owned());
        }
        None
    }
}

/// Hashes a stream as a whole and by chunk.
#[derive(Clone)]
pub(crate) struct ChunkHasher {
    whole: Sha256,
    chunk: Sha256,
    chunks: Vec<Digest>,
    size: u64,
}

impl ChunkHasher {
    pub(crate) fn new() -> Self {
        Self { whole: Sha256::new(), chunk: Sha256::new(), chunks: Vec::new(), size: 0 }
    }

    /// Adds the next bytes of the stream.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = CHUNK_BYTES - self.size % CHUNK_BYTES;
            let take = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
            let (now, later) = bytes.split_at(take);
            self.whole.update(now);
            self.chunk.update(now);
            self.size += u64::try_from(take).unwrap_or(u64::MAX);
            if self.size.is_multiple_of(CHUNK_BYTES) {
                self.chunks.push(Digest::from_bytes(self.chunk.finalize_reset().into()));
            }
            bytes = later;
        }
    }

    /// Returns size, digest and chunk digests of all added bytes.
    pub(crate) fn finish(mut self) -> (u64, Digest, Vec<Digest>) {
        if !self.size.is_multiple_of(CHUNK_BYTES) {
            self.chunks.push(Digest::from_bytes(self.chunk.finalize().into()));
        }
        (self.size, Digest::from_bytes(self.whole.finalize().into()), self.chunks)
    }
}

/// Describes the content of a reader, up to `bytes_max`.
///
/// # Errors
/// Fails if reading fails; [`io::ErrorKind::FileTooLarge`] if there is more than `bytes_max`.
pub fn describe(name: FileName, reader: impl Read, bytes_max: u64) -> io::Result<FileRef> {
    let mut hasher = ChunkHasher::new();
    read_all(reader, bytes_max, |bytes| hasher.update(bytes))?;
    let (size, digest, chunks) = hasher.finish();
    Ok(FileRef { name, size, digest, chunks })
}

/// Returns the digest of the content of a reader, up to `bytes_max`; at half the cost of [`describe`].
///
/// # Errors
/// As [`describe`].
pub fn digest(reader: impl Read, bytes_max: u64) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    read_all(reader, bytes_max, |bytes| hasher.update(bytes))?;
    Ok(Digest::from_bytes(hasher.finalize().into()))
}

fn read_all(reader: impl Read, bytes_max: u64, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut reader = reader.take(bytes_max.saturating_add(1));
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(source) if source.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(source),
        };
        take(buffer.get(..count).unwrap_or_default());
    }
    if reader.limit() == 0 {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {bytes_max} bytes")));
    }
    Ok(())
}

/// Opens a regular file; refuses a link, a folder or a device.
///
/// # Errors
/// Fails if it cannot be opened, or is not a regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    if !std::fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    File::open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_that_could_leave_the_folder_is_refused() {
        for name in ["", ".", "..", "a/b", "../a", "/a", ".a", "-a", "a b", "a\0", "manifest.json", "Manifest.JSON"] {
            assert!(name.parse::<FileName>().is_err(), "{name:?} was taken");
        }
        assert!("edge_v1-int8.onnx".parse::<FileName>().is_ok());
    }

    #[test]
    fn chunks_are_cut_at_the_same_places_however_the_bytes_arrive() {
        let bytes: Vec<u8> = (0..2_500_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        let name: FileName = "a".parse().unwrap();
        let whole = describe(name.clone(), bytes.as_slice(), u64::MAX).unwrap();
        assert_eq!(whole.chunks.len(), 3);
        assert_eq!(whole.digest, Digest::of(&bytes));
        assert_eq!(whole.chunks[2], Digest::of(&bytes[2 * 1024 * 1024..]));
        assert_eq!(whole.mistake(), None);
        let mut hasher = ChunkHasher::new();
        bytes.chunks(777).for_each(|part| hasher.update(part));
        assert_eq!(hasher.finish(), (whole.size, whole.digest, whole.chunks.clone()));
        assert_eq!(whole.chunk_range(2), Some((2 * CHUNK_BYTES, 2_500_000 - 2 * CHUNK_BYTES)));
        assert_eq!(whole.chunk_range(3), None);
    }

    #[test]
    fn an_endless_reader_stops_at_the_limit() {
        let endless = describe("a".parse().unwrap(), io::repeat(7), 100_000);
        assert_eq!(endless.unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
