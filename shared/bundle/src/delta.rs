//! Deltas between two versions of a model file, made from their tensors.
//!
//! Made by `model_tools::delta` on the hub, applied here on a device ([`apply()`]). The format knows nothing of ONNX: a delta says
//! at which offsets of the two files arrays of numbers are, and of which type. Each array is coded as the difference to an array
//! of the base file; the bytes between the arrays are compressed with those of the base file as a dictionary.
//!
//! A delta is hostile until its result has the digest that the signed manifest names: [`apply()`] checks the digest of the base
//! before and the digest of the result after, and bounds memory and output by the sizes that the manifest states.
//!
//! # Format, version 1
//!
//! `docs/reference/delta.md` has it too, with the exchange between device and hub.
//!
//! Integers without a width are LEB128 of at most ten bytes; the others are little-endian.
//!
//! ```text
//! delta    = "SNDD" u8:version u32:compressed_bytes u32:header_bytes zstd(header) body
//! header   = [32]base_digest base_bytes [32]new_digest new_bytes
//!            count { gap bytes }                       ranges of the base that make the dictionary, in order
//!            count { literal kind base+1 elements }    arrays of the new file, in order; base+1 = 0: no base
//! body     = for each array: the literal bytes before it (from blocks), then its chunks; at the end the last literal bytes
//! block    = start length raw_bytes bytes zstd         read where literals are needed and the last block is used up;
//!                                                      start and length say which part of the dictionary is the prefix
//! chunk    = u8:form payload                           CHUNK_ELEMENTS elements, the last of an array may have fewer
//! payload  = nothing                                   form 0: same as the base
//!          | the bytes                                 form 1: stored
//!          | bytes zstd                                form 2: compressed
//!          | u8:shift [table] coded                    form 3, 4: difference to the base; 5, 6: values. Odd: with a table,
//!                                                      even: with the last table of this kind and coding
//! table    = count-1 { symbol_gap frequency }          frequencies sum to 4096
//! coded    = words { u16 } bytes extra_bits            the first eight words are the four states, low half first
//! ```
//!
//! An element becomes a whole number (see [`element`]), a number becomes a token and extra bits (see [`token`]), tokens are coded
//! by four interleaved range-ANS coders (see [`entropy`]; J. Duda, arXiv 1311.2540).

mod apply;
pub mod element;
pub mod entropy;
mod fuzz;
pub mod header;
pub mod token;
pub mod wire;

pub use apply::{Expected, apply};
pub use fuzz::fuzz_body;
pub use header::{Header, Segment};

/// First bytes of every delta.
pub const MAGIC: [u8; 4] = *b"SNDD";

/// Version of the format that is written; no other is read.
pub const VERSION: u8 = 1;

/// Elements of one chunk. 65,536 elements of four bytes stay in the second-level cache of small processors, and a table of
/// frequencies, of about 60 bytes, is little beside them.
pub const CHUNK_ELEMENTS: usize = 65_536;

/// Maximum number of arrays, and of ranges of the dictionary. The pre-check of engines admits 50,000 tensors.
pub const ARRAYS_MAX: usize = 65_536;

/// Maximum bytes of the header before compression: 2 MiB, of which an array takes about 12 bytes.
pub const HEADER_BYTES_MAX: u32 = 2 << 20;

/// Maximum bytes of one block of literals before compression. A device holds one at a time.
pub const BLOCK_BYTES_MAX: usize = 2 << 20;

/// Maximum bytes of the dictionary of one block.
pub const PREFIX_BYTES_MAX: usize = 2 << 20;

/// Largest window that zstd may ask for, as a power of two: 4 MiB holds a block and its dictionary.
pub const WINDOW_LOG_MAX: u32 = 22;

/// Form of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Form {
    /// Same bytes as the base.
    Same = 0,
    /// Stored bytes.
    Stored = 1,
    /// Bytes compressed by zstd.
    Compressed = 2,
    /// Differences to the base, with a table.
    Difference = 3,
    /// Differences to the base, with the last table of differences of this kind.
    DifferenceAgain = 4,
    /// Values, with a table.
    Value = 5,
    /// Values, with the last table of values of this kind.
    ValueAgain = 6,
}

impl Form {
    /// Returns the form with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Same,
            1 => Self::Stored,
            2 => Self::Compressed,
            3 => Self::Difference,
            4 => Self::DifferenceAgain,
            5 => Self::Value,
            6 => Self::ValueAgain,
            _ => return None,
        })
    }
}

/// Error of reading or applying a delta.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// The bytes are no delta, or a damaged one.
    #[error("the delta is malformed: {0}")]
    Malformed(&'static str),
    /// The delta is of a later format.
    #[error("the delta has format {found}, this program reads format {VERSION}: fetch the whole file")]
    Format {
        /// Number in the delta.
        found: u8,
    },
    /// The base is not the file that the delta was made from.
    #[error("the delta applies to file {expected}, the base file is {found}: fetch the whole file")]
    WrongBase {
        /// Digest in the delta.
        expected: types::Digest,
        /// Digest of the base.
        found: types::Digest,
    },
    /// The delta makes another file than was asked for.
    #[error("the delta makes file {found}, file {expected} is needed: fetch the whole file")]
    WrongResult {
        /// Digest that the manifest names.
        expected: types::Digest,
        /// Digest of the result, or the one that the delta announces.
        found: types::Digest,
    },
    /// Reading or writing failed.
    #[error("apply a delta")]
    Io(#[from] std::io::Error),
}
