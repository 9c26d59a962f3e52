//! Applies a delta to a base file, a chunk at a time.

use std::io::{Read, Seek, SeekFrom, Write};

use sha2::{Digest as _, Sha256};
use types::Digest;

use super::element::{self, KINDS, Kind};
use super::entropy::{Bits, Decoder, STATE_WORDS, STATES, Table};
use super::header::{Range, Segment, decompress};
use super::{BLOCK_BYTES_MAX, CHUNK_ELEMENTS, DeltaError, Form, Header, PREFIX_BYTES_MAX, token, wire};

/// Bytes that are read at once while hashing the base.
const READ_BYTES: usize = 64 * 1024;

/// File that a delta must make, as the signed manifest describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Digest of the file.
    pub digest: Digest,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Applies a delta.
///
/// Reads `base` once for its digest and then where arrays are; writes `out` from its begin to its end. Holds the header with its
/// arrays (6 MiB at most), one block of literals with its dictionary and the window of zstd (12 MiB) or one chunk of an array (2 MiB),
/// whatever the size of the files. Remove what was written before an error.
///
/// # Errors
/// The delta is malformed, of another format, for another base or another result; or reading or writing fails.
pub fn apply(
    base: &mut (impl Read + Seek),
    delta: &mut impl Read,
    out: &mut impl Write,
    expected: &Expected,
) -> Result<(), DeltaError> {
    let header = Header::read(delta)?;
    if header.new_digest != expected.digest || header.new_bytes != expected.bytes {
        return Err(DeltaError::WrongResult { expected: expected.digest, found: header.new_digest });
    }
    let found = digest_of(base, header.base_bytes)?;
    if found != header.base_digest {
        return Err(DeltaError::WrongBase { expected: header.base_digest, found });
    }
    let mut hash = Sha256::new();
    let mut run = Applier {
        base,
        delta,
        dictionary: &header.dictionary,
        block: Vec::new().into_iter(),
        tables: [const { None }; 2 * KINDS],
        codes: Vec::new(),
    };
    let mut write = |bytes: &[u8]| -> Result<(), DeltaError> {
        hash.update(bytes);
        out.write_all(bytes)?;
        Ok(())
    };
    let mut left = header.new_bytes;
    for segment in &header.segments {
        run.literals(segment.literal, &mut write)?;
        run.array(segment, &mut write)?;
        // `Header::read` has checked that all arrays fit into the file.
        left = left.saturating_sub(segment.literal + segment.kind.bytes_of(segment.elements).unwrap_or(0));
    }
    run.literals(left, &mut write)?;
    if run.delta.read(&mut [0])? != 0 {
        return Err(DeltaError::Malformed("it goes on after the end of the new file"));
    }
    let found = Digest::from_bytes(hash.finalize().into());
    if found == expected.digest { Ok(()) } else { Err(DeltaError::WrongResult { expected: expected.digest, found }) }
}

/// Returns the digest of the first `bytes` bytes of a file.
fn digest_of(base: &mut (impl Read + Seek), bytes: u64) -> Result<Digest, DeltaError> {
    base.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    // One byte more: a longer file is another file.
    let mut limited = base.take(bytes.saturating_add(1));
    loop {
        match limited.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_bytes(hash.finalize().into())),
            Ok(read) => hash.update(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// State between two segments.
struct Applier<'a, B, D> {
    base: &'a mut B,
    delta: &'a mut D,
    dictionary: &'a [Range],
    /// Rest of the present block of literals.
    block: std::vec::IntoIter<u8>,
    /// Last table of differences and of values, for each kind.
    tables: [Option<Table>; 2 * KINDS],
    /// Codes of the present chunk.
    codes: Vec<u64>,
}

impl<B: Read + Seek, D: Read> Applier<'_, B, D> {
    fn literals(
        &mut self,
        mut count: u64,
        write: &mut impl FnMut(&[u8]) -> Result<(), DeltaError>,
    ) -> Result<(), DeltaError> {
        while count > 0 {
            if self.block.as_slice().is_empty() {
                self.block = self.next_block()?.into_iter();
            }
            let present = self.block.as_slice();
            let taken = usize::try_from(count).unwrap_or(usize::MAX).min(present.len());
            write(present.get(..taken).unwrap_or_default())?;
            count -= taken as u64;
            self.block.nth(taken - 1);
        }
        Ok(())
    }

    fn next_block(&mut self) -> Result<Vec<u8>, DeltaError> {
        let start = wire::varint(self.delta)?;
        let length = wire::varint_to(self.delta, PREFIX_BYTES_MAX, "a dictionary is over 2 MiB")?;
        let raw_bytes = wire::varint_to(self.delta, BLOCK_BYTES_MAX, "a block is over 2 MiB")?;
        if raw_bytes == 0 {
            return Err(DeltaError::Malformed("a block is empty"));
        }
        let bytes = wire::varint_to(self.delta, 2 * BLOCK_BYTES_MAX, "a compressed block is over 4 MiB")?;
        let compressed = wire::bytes(self.delta, bytes)?;
        let prefix = self.prefix(start, length)?;
        decompress(&compressed, &prefix, raw_bytes)
    }

    /// Reads a part of the dictionary from the base file.
    fn prefix(&mut self, mut skip: u64, length: usize) -> Result<Vec<u8>, DeltaError> {
        let mut prefix = Vec::new();
        for range in self.dictionary {
            let missing = (length - prefix.len()) as u64;
            if missing == 0 {
                break;
            }
            let from = skip.min(range.bytes);
            skip -= from;
            let taken = (range.bytes - from).min(missing);
            self.base.seek(SeekFrom::Start(range.start + from))?;
            let taken = usize::try_from(taken).map_err(|_wide| wire::CUT_SHORT)?;
            prefix.extend(wire::bytes(self.base, taken)?);
        }
        if prefix.len() == length { Ok(prefix) } else { Err(DeltaError::Malformed("a dictionary is cut short")) }
    }

    fn array(
        &mut self,
        segment: &Segment,
        write: &mut impl FnMut(&[u8]) -> Result<(), DeltaError>,
    ) -> Result<(), DeltaError> {
        let mut left = segment.elements;
        let mut offset = segment.base;
        while left > 0 {
            let elements = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_ELEMENTS);
            let bytes = segment.kind.bytes_of(elements as u64).and_then(|bytes| usize::try_from(bytes).ok());
            let bytes = bytes.ok_or(DeltaError::Malformed("an array ends inside a byte"))?;
            let base = match offset {
                Some(offset) => {
                    self.base.seek(SeekFrom::Start(offset))?;
                    Some(wire::bytes(self.base, bytes)?)
                }
                None => None,
            };
            write(&self.chunk(segment.kind, elements, bytes, base)?)?;
            left -= elements as u64;
            offset = offset.map(|offset| offset + bytes as u64);
        }
        Ok(())
    }

    fn chunk(
        &mut self,
        kind: Kind,
        elements: usize,
        bytes: usize,
        base: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, DeltaError> {
        let form =
            Form::from_number(wire::byte(self.delta)?).ok_or(DeltaError::Malformed("a chunk has an unknown form"))?;
        let no_base = DeltaError::Malformed("a chunk needs a base that its array does not have");
        match form {
            Form::Same => base.ok_or(no_base),
            Form::Stored => wire::bytes(self.delta, bytes),
            Form::Compressed => {
                let length = wire::varint_to(self.delta, bytes, "a compressed chunk is larger than its bytes")?;
                decompress(&wire::bytes(self.delta, length)?, &[], bytes)
            }
            Form::Difference | Form::DifferenceAgain => {
                let base = base.ok_or(no_base)?;
                let shift = self.codes(kind, elements, form == Form::Difference, false)?;
                let mut codes = self.codes.iter();
                let mut out = Vec::with_capacity(bytes);
                let mut new = Vec::with_capacity(elements);
                kind.read(&base, |element| {
                    let difference = element::unzigzag(codes.next().copied().unwrap_or(0));
                    new.push(kind.add(element, difference << shift));
                });
                kind.write(new.into_iter(), &mut out);
                Ok(out)
            }
            Form::Value | Form::ValueAgain => {
                let shift = self.codes(kind, elements, form == Form::Value, true)?;
                let mut out = Vec::with_capacity(bytes);
                let values = self.codes.iter().map(|code| match kind.is_float() {
                    true => element::float_element(kind, *code, shift),
                    false => (element::unzigzag(*code) << shift).cast_unsigned(),
                });
                kind.write(values, &mut out);
                Ok(out)
            }
        }
    }

    /// Decodes the codes of a chunk into `self.codes`; returns how many low bits are left off.
    fn codes(&mut self, kind: Kind, elements: usize, has_table: bool, is_value: bool) -> Result<u32, DeltaError> {
        let shift = u32::from(wire::byte(self.delta)?);
        if shift >= kind.bits() {
            return Err(DeltaError::Malformed("a chunk leaves off all bits"));
        }
        let slot = 2 * (kind as usize) + usize::from(is_value);
        let table = self.tables.get_mut(slot).ok_or(DeltaError::Malformed("an array has an unknown type"))?;
        if has_table {
            *table = Some(Table::read(self.delta)?);
        }
        let table = table.as_ref().ok_or(DeltaError::Malformed("a chunk needs a table before the first one"))?;
        let words = wire::varint_to(self.delta, STATE_WORDS + elements, "a chunk has more words than elements")?;
        let words = wire::bytes(self.delta, 2 * words)?;
        let extra = wire::varint_to(self.delta, 8 * elements, "a chunk has more extra bits than elements")?;
        let mut extra = wire::bytes(self.delta, extra)?;
        extra.extend_from_slice(&Bits::PADDING);

        let mut decoder = Decoder::new(table, &words)?;
        let mut bits = Bits::new(&extra);
        self.codes.clear();
        self.codes.reserve(elements);
        let mut failure = None;
        let float_bits = (is_value && kind.is_float()).then(|| token::float_extra_bits(kind.bits() - shift));
        let mut left = elements;
        while left > 0 {
            let count = left.min(STATES);
            decoder.four(count, |symbol| {
                let (number, count) = match float_bits {
                    Some(bits) => (u64::from(symbol) << bits, bits),
                    None => token::join(symbol),
                };
                match bits.take(count) {
                    Ok(extra) => self.codes.push(number | extra),
                    Err(error) => failure = Some(error),
                }
            })?;
            left -= count;
        }
        if let Some(error) = failure {
            return Err(error);
        }
        decoder.finish()?;
        bits.finish()?;
        Ok(shift)
    }
}
