//! Decompression of request bodies, bounded by what a plain body may have.
//!
//! Used by [`crate::http`] once a whole body has arrived. A small body that would become a large one is refused at the limit:
//! memory is taken in steps, as the bytes appear.

use std::io::{self, Read};

use bytes::{Bytes, BytesMut};
use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use types::InferenceError;

use crate::budget::Full;
use crate::limits::Limits;
use crate::refusal;

/// Bytes that are decompressed and counted at a time.
const STEP_BYTES: usize = 64 * 1024;

/// Encoding of a body that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// The format of RFC 1952.
    Gzip,
    /// RFC 1950, or RFC 1951 without its frame, which some clients send under the same name.
    Deflate,
}

impl Encoding {
    /// Reads the header `Content-Encoding`; `None` for a plain body.
    ///
    /// # Errors
    /// For every other encoding, and for several of them one after the other.
    pub fn parse(text: Option<&str>) -> Result<Option<Self>, InferenceError> {
        let Some(text) = text.map(str::trim) else { return Ok(None) };
        let is = |name: &str| text.eq_ignore_ascii_case(name);
        if text.is_empty() || is("identity") {
            Ok(None)
        } else if is("gzip") || is("x-gzip") {
            Ok(Some(Self::Gzip))
        } else if is("deflate") {
            Ok(Some(Self::Deflate))
        } else {
            Err(refusal::unsupported_encoding(text))
        }
    }
}

/// Decompresses a whole body; `grow` asks for memory before it is used.
///
/// # Errors
/// When the bytes are not of that encoding, are over the limit of a body, or there is no memory for them.
pub(crate) fn decompress(
    encoding: Encoding,
    body: &[u8],
    limits: &Limits,
    grow: impl Fn(usize) -> Result<(), Full>,
) -> Result<Bytes, InferenceError> {
    let mut decoder: Box<dyn Read + '_> = match encoding {
        Encoding::Gzip => Box::new(MultiGzDecoder::new(body)),
        Encoding::Deflate if has_zlib_frame(body) => Box::new(ZlibDecoder::new(body)),
        Encoding::Deflate => Box::new(DeflateDecoder::new(body)),
    };
    let mut plain = BytesMut::new();
    let mut step = vec![0; STEP_BYTES];
    loop {
        let read = match decoder.read(&mut step) {
            Ok(0) => return Ok(plain.freeze()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let name = match encoding {
                    Encoding::Gzip => "gzip",
                    Encoding::Deflate => "deflate",
                };
                return Err(refusal::bad_request(format!("the body is not valid {name}: {error}")));
            }
        };
        if plain.len().saturating_add(read) > limits.body_bytes_max {
            return Err(refusal::too_large(limits));
        }
        grow(read).map_err(|full| full.refusal(limits))?;
        plain.extend_from_slice(step.get(..read).unwrap_or_default());
    }
}

/// Returns whether a body begins with the two bytes of RFC 1950.
fn has_zlib_frame(body: &[u8]) -> bool {
    match body {
        [method, flags, ..] => method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use types::ErrorCode;

    use super::*;

    fn limits() -> Limits {
        Limits { body_bytes_max: 1024 * 1024, ..Limits::of_section(None) }
    }

    fn packed(encoding: &str, plain: &[u8]) -> Vec<u8> {
        match encoding {
            "gzip" => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            "zlib" => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            _ => {
                let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
        }
    }

    #[test]
    fn every_accepted_encoding_gives_the_plain_body() {
        let plain: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        for (name, encoding) in [("gzip", Encoding::Gzip), ("zlib", Encoding::Deflate), ("deflate", Encoding::Deflate)]
        {
            let read = decompress(encoding, &packed(name, &plain), &limits(), |_bytes| Ok(())).unwrap();
            assert_eq!(read, plain, "{name}");
        }
    }

    #[test]
    fn a_bomb_is_refused_at_the_limit_of_a_body_and_takes_no_more_memory() {
        let bomb = packed("gzip", &vec![0; 64 * 1024 * 1024]);
        assert!(bomb.len() < 400_000);
        let taken = Cell::new(0);
        let grow = |bytes: usize| {
            taken.set(taken.get() + bytes);
            Ok(())
        };
        let error = decompress(Encoding::Gzip, &bomb, &limits(), grow).unwrap_err();
        assert_eq!(error.code, ErrorCode::TooLarge);
        assert!(taken.get() <= limits().body_bytes_max);
        let error = decompress(Encoding::Gzip, &bomb, &limits(), |_bytes| Err(Full::Now)).unwrap_err();
        assert_eq!(error.code, ErrorCode::Busy);
    }

    #[test]
    fn bytes_of_another_encoding_are_refused() {
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let error = decompress(encoding, b"{\"inputs\":[]}", &limits(), |_bytes| Ok(())).unwrap_err();
            assert_eq!(error.code, ErrorCode::BadInput);
        }
        let cut = packed("gzip", &[7; 10_000]);
        assert!(decompress(Encoding::Gzip, &cut[..cut.len() - 9], &limits(), |_bytes| Ok(())).is_err());
        assert!(Encoding::parse(Some("br")).is_err() && Encoding::parse(Some("gzip, gzip")).is_err());
        assert_eq!(Encoding::parse(Some("GZIP")).unwrap(), Some(Encoding::Gzip));
        assert_eq!(Encoding::parse(Some("identity")).unwrap(), None);
    }
}
