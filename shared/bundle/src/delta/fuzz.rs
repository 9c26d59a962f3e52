//! Hostile bodies for [`apply()`]: digests and the compressed header would keep random bytes from the decoders.

use std::io::Cursor;

use types::Digest;

use super::element::Kind;
use super::header::{Header, Range, Segment};
use super::{Expected, apply};

/// Bytes of the base file.
const BASE_BYTES: u16 = 4096;

/// Elements of each array: enough for two chunks of forms with their own tables in a few hundred bytes of input.
const ELEMENTS: u64 = 256;

/// Applies any bytes as the body behind a good header with one array of each type.
///
/// # Errors
/// The apply wrote more than the new file has.
pub fn fuzz_body(body: &[u8]) -> Result<(), String> {
    let base: Vec<u8> = (0..BASE_BYTES).flat_map(u16::to_le_bytes).take(usize::from(BASE_BYTES)).collect();
    let kinds = (0_u8..).map_while(Kind::from_number);
    let segments: Vec<Segment> =
        kinds.map(|kind| Segment { literal: 8, kind, base: Some(16), elements: ELEMENTS }).collect();
    let bytes = segments.iter().filter_map(|segment| Some(segment.literal + segment.kind.bytes_of(segment.elements)?));
    let expected = Expected { digest: Digest::of(b"another file"), bytes: bytes.sum() };
    let header = Header {
        base_digest: Digest::of(&base),
        base_bytes: u64::from(BASE_BYTES),
        new_digest: expected.digest,
        new_bytes: expected.bytes,
        dictionary: vec![Range { start: 0, bytes: 16 }],
        segments,
    };
    let mut delta = Vec::new();
    header.write(&mut delta).map_err(|error| error.to_string())?;
    delta.extend_from_slice(body);
    let mut out = Vec::new();
    // No body makes a file of that digest: an error is right, a panic and a long output are not.
    let outcome = apply(&mut Cursor::new(base), &mut delta.as_slice(), &mut out, &expected);
    if u64::try_from(out.len()).is_ok_and(|written| written <= expected.bytes) && outcome.is_err() {
        Ok(())
    } else {
        Err(format!("{} bytes were written of {}, result {outcome:?}", out.len(), expected.bytes))
    }
}
