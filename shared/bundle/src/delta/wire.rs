//! Bytes and integers of a delta, read with limits and written.

use std::io::{self, Read};

use super::DeltaError;

/// Maximum bytes of a variable-length integer: 64 bits in groups of seven.
const VARINT_BYTES_MAX: u32 = 10;

/// Bytes that are reserved before any of them arrived, so that a false length costs no memory.
const RESERVED_BYTES_MAX: usize = 64 * 1024;

/// Error for a delta that ends too early.
pub(super) const CUT_SHORT: DeltaError = DeltaError::Malformed("it ends in the middle");

/// Appends an integer as LEB128.
pub fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Reads an integer in LEB128.
///
/// # Errors
/// The input ends, or the integer has more than 64 bits.
pub fn varint(input: &mut impl Read) -> Result<u64, DeltaError> {
    let mut number = 0_u64;
    for group in 0..VARINT_BYTES_MAX {
        let byte = byte(input)?;
        let bits = u64::from(byte & 0x7f);
        if group == VARINT_BYTES_MAX - 1 && bits > 1 {
            break;
        }
        number |= bits << (group * 7);
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(DeltaError::Malformed("an integer has more than 64 bits"))
}

/// Reads an integer in LEB128 that may be `max` at most.
///
/// # Errors
/// As [`varint`], or the integer is larger.
pub fn varint_to(input: &mut impl Read, max: usize, what: &'static str) -> Result<usize, DeltaError> {
    usize::try_from(varint(input)?).ok().filter(|number| *number <= max).ok_or(DeltaError::Malformed(what))
}

/// Reads one byte.
///
/// # Errors
/// The input ends.
pub fn byte(input: &mut impl Read) -> Result<u8, DeltaError> {
    let mut one = [0];
    exact(input, &mut one)?;
    let [byte] = one;
    Ok(byte)
}

/// Fills a buffer.
///
/// # Errors
/// The input ends before.
pub fn exact(input: &mut impl Read, out: &mut [u8]) -> Result<(), DeltaError> {
    input.read_exact(out).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => CUT_SHORT,
        _ => DeltaError::Io(error),
    })
}

/// Reads this many bytes; the caller has checked the length against a limit.
///
/// # Errors
/// The input ends before.
pub fn bytes(input: &mut impl Read, length: usize) -> Result<Vec<u8>, DeltaError> {
    let mut out = Vec::with_capacity(length.min(RESERVED_BYTES_MAX));
    let limit = u64::try_from(length).map_err(|_wide| CUT_SHORT)?;
    input.take(limit).read_to_end(&mut out)?;
    if out.len() == length { Ok(out) } else { Err(CUT_SHORT) }
}
