//! Compresses the bytes between arrays, in blocks, with those of the base as a dictionary.

use std::io::Write as _;
use std::ops::Range;

use bundle::delta::{BLOCK_BYTES_MAX, DeltaError, PREFIX_BYTES_MAX, WINDOW_LOG_MAX, wire};

/// Level of zstd. Graphs are small beside weights; a file that is all literals is compressed once for a whole fleet.
const LEVEL: i32 = 19;

/// Writer of literals: a block is written when the first byte of it is needed.
pub(super) struct Literals {
    /// Bytes of the base between its arrays.
    dictionary: Vec<u8>,
    /// Literal parts of the new file that are in no block yet.
    rest: std::collections::VecDeque<Range<usize>>,
    /// Literal bytes of the new file in all.
    total: usize,
    /// Literal bytes in blocks so far.
    written: usize,
    /// Bytes of the last block that were not needed yet.
    present: usize,
}

impl Literals {
    /// Begins with the parts of the base that make the dictionary, and the parts of the new file that are literals.
    pub(super) fn new(base: &[u8], dictionary: &[Range<usize>], rest: Vec<Range<usize>>) -> Self {
        let dictionary: Vec<u8> =
            dictionary.iter().flat_map(|range| base.get(range.clone()).unwrap_or_default()).copied().collect();
        let total = rest.iter().map(Range::len).sum();
        Self { dictionary, rest: rest.into(), total, written: 0, present: 0 }
    }

    /// Appends the blocks for the next `count` literal bytes.
    pub(super) fn need(&mut self, new: &[u8], mut count: usize, out: &mut Vec<u8>) -> Result<(), DeltaError> {
        while count > 0 {
            if self.present == 0 {
                self.block(new, out)?;
            }
            let taken = count.min(self.present);
            if taken == 0 {
                return Err(DeltaError::Malformed("its literals are counted wrongly"));
            }
            count -= taken;
            self.present -= taken;
        }
        Ok(())
    }

    fn block(&mut self, new: &[u8], out: &mut Vec<u8>) -> Result<(), DeltaError> {
        let mut raw: Vec<u8> = Vec::new();
        while let Some(range) = self.rest.pop_front() {
            let taken = range.len().min(BLOCK_BYTES_MAX - raw.len());
            raw.extend_from_slice(new.get(range.start..range.start + taken).unwrap_or_default());
            if taken < range.len() {
                self.rest.push_front(range.start + taken..range.end);
                break;
            }
        }
        // The part of the dictionary around the same place, so that inserted bytes do not push everything out of it.
        let length = self.dictionary.len().min(PREFIX_BYTES_MAX);
        let scaled = self.written as u128 * self.dictionary.len() as u128 / (self.total as u128).max(1);
        let middle = usize::try_from(scaled).unwrap_or(0).min(self.dictionary.len() - length);
        let start = if self.dictionary.len() > PREFIX_BYTES_MAX { middle } else { 0 };
        let prefix = self.dictionary.get(start..start + length).unwrap_or_default();
        let compressed = compress(&raw, prefix)?;
        wire::put_varint(out, start as u64);
        wire::put_varint(out, length as u64);
        wire::put_varint(out, raw.len() as u64);
        wire::put_varint(out, compressed.len() as u64);
        out.extend_from_slice(&compressed);
        self.written += raw.len();
        self.present = raw.len();
        Ok(())
    }
}

fn compress(raw: &[u8], prefix: &[u8]) -> Result<Vec<u8>, DeltaError> {
    let mut encoder = zstd::stream::write::Encoder::with_ref_prefix(Vec::new(), LEVEL, prefix)?;
    encoder.window_log(WINDOW_LOG_MAX)?;
    encoder.include_contentsize(false)?;
    encoder.write_all(raw)?;
    Ok(encoder.finish()?)
}
