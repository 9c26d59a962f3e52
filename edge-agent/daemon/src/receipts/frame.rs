//! Bytes of a file of the log: a header, then one frame for each record.
//!
//! ```text
//! file   = "SNDR" u8:version(1) u64:first_number u64:created_unix_ms [32]previous_hash frame*
//! frame  = u32:payload_bytes u64:number [32]previous_hash payload [32]hash
//! ```
//!
//! Integers are little-endian. `previous_hash` of the header is that of the last record before the file. The hash of a record is
//! [`types::chain::PartsHash`] over the format's name, the number as text, the hash before and the payload.

use std::io::{self, Read};

use types::Digest;
use types::chain::{Link, PartsHash, Stated};

/// Name of the format: the first part of each hash.
pub const FORMAT: &str = "sanderling receipts 1";

/// First bytes of a file.
const MAGIC: [u8; 4] = *b"SNDR";

/// Version of the format.
const VERSION: u8 = 1;

/// Length of the header of a file in bytes.
pub const HEADER_BYTES: usize = 4 + 1 + 8 + 8 + 32;

/// Length of a frame in bytes, less its payload.
pub const FRAME_BYTES: usize = 4 + 8 + 32 + 32;

/// Maximum length of a payload in bytes. A record has about 900; names and ids have limits of their own.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Header of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Last record before the file.
    pub before: Link,
    /// Time of creation in milliseconds since 1970.
    pub created_unix_ms: u64,
}

impl Header {
    /// Returns the bytes of the header.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.before.next_number().to_le_bytes());
        bytes.extend_from_slice(&self.created_unix_ms.to_le_bytes());
        bytes.extend_from_slice(self.before.hash.as_bytes());
        bytes
    }

    /// Reads the header of a file.
    ///
    /// # Errors
    /// [`FrameError::Torn`] if the file is shorter, [`FrameError::NotALog`] if it is another file or of a later version.
    pub fn read(from: &mut impl Read) -> Result<Self, FrameError> {
        let magic: [u8; 4] = array(from)?;
        let [version] = array(from)?;
        if magic != MAGIC || version != VERSION {
            return Err(FrameError::NotALog);
        }
        let first = u64::from_le_bytes(array(from)?);
        let created_unix_ms = u64::from_le_bytes(array(from)?);
        let hash = Digest::from_bytes(array(from)?);
        let number = first.checked_sub(1).ok_or(FrameError::NotALog)?;
        Ok(Self { before: Link { number, hash }, created_unix_ms })
    }
}

/// Record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Number and hashes as the file states them.
    pub stated: Stated,
    /// Hash of the content.
    pub computed: Digest,
    /// The record as JSON.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Returns the length of the frame in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::try_from(FRAME_BYTES.saturating_add(self.payload.len())).unwrap_or(u64::MAX)
    }

    /// Reads the next frame; `None` at the end of the file.
    ///
    /// # Errors
    /// [`FrameError::Torn`] if the file ends within it, or it announces more than [`PAYLOAD_BYTES_MAX`].
    pub fn read(from: &mut impl Read) -> Result<Option<Self>, FrameError> {
        let mut length = [0_u8; 4];
        match read_up_to(from, &mut length).map_err(FrameError::Io)? {
            0 => return Ok(None),
            4 => {}
            _ => return Err(FrameError::Torn),
        }
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length == 0 || length > PAYLOAD_BYTES_MAX {
            return Err(FrameError::Torn);
        }
        let number = u64::from_le_bytes(array(from)?);
        let previous = Digest::from_bytes(array(from)?);
        let mut payload = vec![0; length];
        if read_up_to(from, &mut payload).map_err(FrameError::Io)? < length {
            return Err(FrameError::Torn);
        }
        let hash = Digest::from_bytes(array(from)?);
        let computed = hash_of(number, &previous, &payload);
        Ok(Some(Self { stated: Stated { number, previous, hash }, computed, payload }))
    }
}

/// Error of a file of the log.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The file ends within a header or frame, or the bytes there are none.
    #[error("the file ends within a record")]
    Torn,
    /// The file does not begin like one of this format.
    #[error("it is no log of receipts of a version that this program reads")]
    NotALog,
    /// The file cannot be read.
    #[error("read the file")]
    Io(#[source] io::Error),
}

/// Appends the frame of the record after `place`; returns the new place.
#[must_use]
pub fn append(place: Link, payload: &[u8], to: &mut Vec<u8>) -> Link {
    let number = place.next_number();
    let hash = hash_of(number, &place.hash, payload);
    to.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    to.extend_from_slice(&number.to_le_bytes());
    to.extend_from_slice(place.hash.as_bytes());
    to.extend_from_slice(payload);
    to.extend_from_slice(hash.as_bytes());
    Link { number, hash }
}

fn hash_of(number: u64, previous: &Digest, payload: &[u8]) -> Digest {
    let parts = PartsHash::new().part(FORMAT.as_bytes()).part(number.to_string().as_bytes());
    parts.part(previous.as_bytes()).part(payload).finish()
}

/// Reads until the buffer is full or the file ends; returns the number of bytes.
fn read_up_to(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(read) => filled = filled.saturating_add(read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn array<const N: usize>(from: &mut impl Read) -> Result<[u8; N], FrameError> {
    let mut bytes = [0; N];
    match read_up_to(from, &mut bytes).map_err(FrameError::Io)? {
        read if read == N => Ok(bytes),
        _ => Err(FrameError::Torn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_bytes_of_a_file_never_change() {
        let header = Header { before: Link::start(FORMAT), created_unix_ms: 1_800_000_000_000 };
        let mut bytes = header.to_bytes();
        let link = append(header.before, b"{}", &mut bytes);
        let golden = include_str!("golden/v1.hex").split_whitespace().collect::<String>();
        assert_eq!(hex(&bytes), golden);
        let mut from = bytes.as_slice();
        assert_eq!(Header::read(&mut from).unwrap(), header);
        let frame = Frame::read(&mut from).unwrap().unwrap();
        assert_eq!((frame.stated.number, frame.stated.hash, frame.computed), (1, link.hash, link.hash));
        assert_eq!(frame.payload, b"{}");
        assert!(Frame::read(&mut from).unwrap().is_none());
    }

    #[test]
    fn every_cut_within_a_frame_is_torn_and_never_a_record() {
        let mut bytes = Vec::new();
        let _link = append(Link::start(FORMAT), br#"{"a":1}"#, &mut bytes);
        for length in 1..bytes.len() {
            let read = Frame::read(&mut &bytes[..length]);
            assert!(matches!(read, Err(FrameError::Torn)), "{length} bytes: {read:?}");
        }
        // What a file system shows after a power cut where it had no time to write.
        assert!(matches!(Frame::read(&mut &[0_u8; 200][..]), Err(FrameError::Torn)));
        assert!(matches!(Frame::read(&mut &[0xff_u8; 200][..]), Err(FrameError::Torn)));
    }
}
