//! Header of a delta: digests and sizes of both files, and where arrays are in them.

use std::io::Read;

use types::Digest;

use super::element::Kind;
use super::{ARRAYS_MAX, DeltaError, HEADER_BYTES_MAX, MAGIC, VERSION, WINDOW_LOG_MAX, wire};

/// Compression level of the header: it is small, and read once by each device.
const LEVEL: i32 = 19;

/// Array of the new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Bytes between the end of the array before and the begin of this one.
    pub literal: u64,
    /// Type of the elements.
    pub kind: Kind,
    /// Offset in the base file of the array to which differences are coded; `None` if there is none.
    pub base: Option<u64>,
    /// Number of elements.
    pub elements: u64,
}

/// Part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Offset of its first byte.
    pub start: u64,
    /// Number of bytes.
    pub bytes: u64,
}

/// Contents of the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Digest of the base file.
    pub base_digest: Digest,
    /// Bytes of the base file.
    pub base_bytes: u64,
    /// Digest of the new file.
    pub new_digest: Digest,
    /// Bytes of the new file.
    pub new_bytes: u64,
    /// Parts of the base file that make up the dictionary of literals, in order and without overlap.
    pub dictionary: Vec<Range>,
    /// Arrays of the new file, in order.
    pub segments: Vec<Segment>,
}

impl Header {
    /// Reads magic, version and header.
    ///
    /// # Errors
    /// The bytes are no header of this format, or one that contradicts itself.
    pub fn read(input: &mut impl Read) -> Result<Self, DeltaError> {
        let mut magic = [0; 4];
        wire::exact(input, &mut magic)?;
        if magic != MAGIC {
            return Err(DeltaError::Malformed("it does not begin with SNDD"));
        }
        match wire::byte(input)? {
            VERSION => {}
            found => return Err(DeltaError::Format { found }),
        }
        let compressed_bytes = length(input)?;
        let header_bytes = length(input)?;
        let compressed = wire::bytes(input, compressed_bytes)?;
        let raw = decompress(&compressed, &[], header_bytes)?;
        let mut raw = raw.as_slice();
        let header = Self::parse(&mut raw)?;
        if raw.is_empty() { Ok(header) } else { Err(DeltaError::Malformed("its header has bytes left over")) }
    }

    fn parse(input: &mut &[u8]) -> Result<Self, DeltaError> {
        let base_digest = digest(input)?;
        let base_bytes = wire::varint(input)?;
        let new_digest = digest(input)?;
        let new_bytes = wire::varint(input)?;
        let mut dictionary = Vec::new();
        let mut end = 0_u64;
        for _ in 0..wire::varint_to(input, ARRAYS_MAX, "its dictionary has more than 65,536 ranges")? {
            let start = end.checked_add(wire::varint(input)?).ok_or(OUTSIDE)?;
            let bytes = wire::varint(input)?;
            end = start.checked_add(bytes).filter(|end| *end <= base_bytes).ok_or(OUTSIDE)?;
            dictionary.push(Range { start, bytes });
        }
        let mut segments = Vec::new();
        let mut end = 0_u64;
        for _ in 0..wire::varint_to(input, ARRAYS_MAX, "it has more than 65,536 arrays")? {
            let literal = wire::varint(input)?;
            let kind =
                Kind::from_number(wire::byte(input)?).ok_or(DeltaError::Malformed("an array has an unknown type"))?;
            let base = wire::varint(input)?.checked_sub(1);
            let elements = wire::varint(input)?;
            let bytes = kind.bytes_of(elements).ok_or(OUTSIDE)?;
            if base.is_some_and(|base| base.checked_add(bytes).is_none_or(|end| end > base_bytes)) {
                return Err(OUTSIDE);
            }
            end = end.checked_add(literal).and_then(|end| end.checked_add(bytes)).ok_or(OUTSIDE)?;
            segments.push(Segment { literal, kind, base, elements });
        }
        if end > new_bytes {
            return Err(OUTSIDE);
        }
        Ok(Self { base_digest, base_bytes, new_digest, new_bytes, dictionary, segments })
    }

    /// Appends magic, version and header.
    ///
    /// # Errors
    /// The header is over [`HEADER_BYTES_MAX`] or [`ARRAYS_MAX`], or zstd fails.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), DeltaError> {
        if self.segments.len().max(self.dictionary.len()) > ARRAYS_MAX {
            return Err(DeltaError::Malformed("it has more than 65,536 arrays"));
        }
        let mut raw = Vec::new();
        raw.extend_from_slice(self.base_digest.as_bytes());
        wire::put_varint(&mut raw, self.base_bytes);
        raw.extend_from_slice(self.new_digest.as_bytes());
        wire::put_varint(&mut raw, self.new_bytes);
        wire::put_varint(&mut raw, self.dictionary.len() as u64);
        let mut end = 0;
        for range in &self.dictionary {
            wire::put_varint(&mut raw, range.start - end);
            wire::put_varint(&mut raw, range.bytes);
            end = range.start + range.bytes;
        }
        wire::put_varint(&mut raw, self.segments.len() as u64);
        for segment in &self.segments {
            wire::put_varint(&mut raw, segment.literal);
            raw.push(segment.kind as u8);
            wire::put_varint(&mut raw, segment.base.map_or(0, |base| base + 1));
            wire::put_varint(&mut raw, segment.elements);
        }
        let compressed = zstd::bulk::compress(&raw, LEVEL)?;
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        for bytes in [compressed.len(), raw.len()] {
            let bytes = u32::try_from(bytes).ok().filter(|bytes| *bytes <= HEADER_BYTES_MAX);
            out.extend_from_slice(&bytes.ok_or(DeltaError::Malformed("its header is over 2 MiB"))?.to_le_bytes());
        }
        out.extend_from_slice(&compressed);
        Ok(())
    }
}

const OUTSIDE: DeltaError = DeltaError::Malformed("an array or range is outside of its file");

fn length(input: &mut impl Read) -> Result<usize, DeltaError> {
    let mut four = [0; 4];
    wire::exact(input, &mut four)?;
    let bytes = u32::from_le_bytes(four);
    if bytes > HEADER_BYTES_MAX {
        return Err(DeltaError::Malformed("its header is over 2 MiB"));
    }
    usize::try_from(bytes).map_err(|_wide| DeltaError::Malformed("its header is over 2 MiB"))
}

fn digest(input: &mut impl Read) -> Result<Digest, DeltaError> {
    let mut bytes = [0; 32];
    wire::exact(input, &mut bytes)?;
    Ok(Digest::from_bytes(bytes))
}

/// Decompresses exactly `length` bytes with `prefix` as the dictionary.
pub(super) fn decompress(compressed: &[u8], prefix: &[u8], length: usize) -> Result<Vec<u8>, DeltaError> {
    let broken = |_error| DeltaError::Malformed("compressed bytes are damaged");
    let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(compressed, prefix).map_err(broken)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(broken)?;
    let mut decoder = decoder.single_frame();
    let mut out = Vec::with_capacity(length.min(64 * 1024));
    let limit = u64::try_from(length).map_err(|_wide| wire::CUT_SHORT)?;
    decoder.by_ref().take(limit.saturating_add(1)).read_to_end(&mut out).map_err(broken)?;
    if out.len() == length { Ok(out) } else { Err(DeltaError::Malformed("compressed bytes have another length")) }
}
