//! Makes deltas between two versions of a model file; `bundle::delta` applies them and documents the format.
//!
//! Fed with the bytes of both files. Arrays are found in ONNX files ([`arrays`]), paired with those of the base by name or by content
//! ([`pairs`]) and coded chunk by chunk ([`chunk`]); the bytes between them are compressed with those of the base ([`literals`]).
//! Files of another format, and those with more arrays than a delta can have, are one literal. [`make`] returns the smallest of three candidates: with arrays, as a patch, and compressed
//! without the base.

mod arrays;
mod chunk;
mod literals;
mod pairs;

use std::ops::Range;

use bundle::delta::{ARRAYS_MAX, DeltaError, Header, Segment, header};
use types::Digest;

use chunk::Encoder;
use literals::Literals;

/// Size of arrays at the highest level of zstd, at least, in per cent of their size at the fastest one; for weights it is over 95.
/// Bytes between arrays are compressed at the highest level in any case.
const BEST_OF_FAST_PERCENT: usize = 80;

/// Fastest level of zstd, at which a file is tried before it is compressed at the highest: that takes a second for each megabyte.
const FAST_LEVEL: i32 = 1;

/// What a delta was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Differences between arrays.
    Arrays,
    /// The whole file with the base as a dictionary.
    Patch,
    /// The whole file without the base.
    Compressed,
}

/// Delta and how it was made.
#[derive(Debug, Clone)]
pub struct Delta {
    /// Bytes of the delta.
    pub bytes: Vec<u8>,
    /// Candidate that was smallest.
    pub form: Form,
}

/// Files below this size are made in all three forms: it costs no time, and headers and tables count.
const SMALL_BYTES: usize = 1 << 20;

/// Makes the smallest delta from `base` to `new`.
///
/// # Errors
/// Compression fails for want of memory.
pub fn make(base: &[u8], new: &[u8]) -> Result<Delta, DeltaError> {
    let mut best = Delta { bytes: by_arrays(base, new)?, form: Form::Arrays };
    if new.len() > SMALL_BYTES {
        let fast = zstd::bulk::compress(new, FAST_LEVEL)?.len();
        if best.bytes.len() * 100 < fast * BEST_OF_FAST_PERCENT {
            return Ok(best);
        }
    }
    for (form, dictionary) in [(Form::Patch, 0..base.len()), (Form::Compressed, 0..0)] {
        let bytes = whole(base, new, dictionary)?;
        if bytes.len() < best.bytes.len() {
            best = Delta { bytes, form };
        }
    }
    Ok(best)
}

fn header(base: &[u8], new: &[u8], dictionary: &[Range<usize>], segments: Vec<Segment>) -> Header {
    Header {
        base_digest: Digest::of(base),
        base_bytes: base.len() as u64,
        new_digest: Digest::of(new),
        new_bytes: new.len() as u64,
        dictionary: dictionary
            .iter()
            .map(|range| header::Range { start: range.start as u64, bytes: range.len() as u64 })
            .collect(),
        segments,
    }
}

/// Makes a delta without arrays.
fn whole(base: &[u8], new: &[u8], dictionary: Range<usize>) -> Result<Vec<u8>, DeltaError> {
    let mut out = Vec::new();
    let dictionary = between(base.len(), [0..dictionary.start, dictionary.end..base.len()].into_iter());
    header(base, new, &dictionary, Vec::new()).write(&mut out)?;
    let mut literals = Literals::new(base, &dictionary, between(new.len(), std::iter::empty()));
    literals.need(new, new.len(), &mut out)?;
    Ok(out)
}

/// Makes a delta of the arrays and the bytes between them.
fn by_arrays(base: &[u8], new: &[u8]) -> Result<Vec<u8>, DeltaError> {
    let find = |file| arrays::find(file).filter(|found| found.len() < ARRAYS_MAX).unwrap_or_default();
    let (olds, news) = (find(base), find(new));
    let pairs = pairs::pair(base, &olds, new, &news);

    let segments = pairs.iter().scan(0, |end, pair| {
        let literal = pair.new.start - *end;
        *end = pair.new.end;
        let elements = (pair.new.len() as u64 * 8) / u64::from(pair.kind.bits());
        Some(Segment { literal: literal as u64, kind: pair.kind, base: pair.base.map(|start| start as u64), elements })
    });
    let segments: Vec<Segment> = segments.collect();
    let dictionary = between(base.len(), olds.iter().map(|array| array.range.clone()));
    let mut out = Vec::new();
    header(base, new, &dictionary, segments).write(&mut out)?;

    let rest = between(new.len(), pairs.iter().map(|pair| pair.new.clone()));
    let mut literals = Literals::new(base, &dictionary, rest);
    let mut encoder = Encoder::default();
    let mut end = 0;
    for pair in &pairs {
        literals.need(new, pair.new.start - end, &mut out)?;
        end = pair.new.end;
        let new = new.get(pair.new.clone()).unwrap_or_default();
        let base = pair.base.and_then(|start| base.get(start..start + new.len()));
        encoder.array(pair.kind, base, new, &mut out)?;
    }
    literals.need(new, new.len() - end, &mut out)?;
    Ok(out)
}

/// Returns the ranges of a file of this length between ordered ranges, without empty ones.
fn between(length: usize, ranges: impl Iterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let mut gaps = Vec::new();
    let mut end = 0;
    for range in ranges.chain(std::iter::once(length..length)) {
        if range.start > end {
            gaps.push(end..range.start);
        }
        end = range.end;
    }
    gaps
}
