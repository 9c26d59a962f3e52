//! The frame around a message, and the bounded codec inside it.
//!
//! `u32` length of the message (little-endian) | `u16` kind, whose high byte is the version of the wire | the message
//! in bincode. The length is checked against the limit of the expected kind before anything is allocated, and the
//! message must use every byte.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Size of a frame header in bytes: length and kind.
pub const FRAME_HEADER_BYTES: usize = 6;

/// A message of one kind, with its limits.
pub trait Message: Serialize + DeserializeOwned + Send + Sync {
    /// Number of this kind of message; the high byte is the version of the wire.
    const KIND: u16;
    /// Name of the kind in errors and logs.
    const NAME: &'static str;
    /// Maximum size of the encoded message in bytes, without frame header and body.
    const BYTES_MAX: usize;

    /// Returns the length in bytes of the raw body that follows the message on the stream.
    fn body_length(&self) -> u64 {
        0
    }

    /// Checks what the types do not express: counts, lengths and ranges. Called for every decoded message.
    ///
    /// # Errors
    /// Returns one clause that names the field and the limit.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Decodes with the size limit of this kind; returns the message and the number of bytes used. Call [`decode`]
    /// instead.
    ///
    /// # Errors
    /// Returns the error text of the codec.
    #[doc(hidden)]
    fn decode_bounded(bytes: &[u8]) -> Result<(Self, usize), String>;
}

/// Implements the codec part of [`Message`], whose limit must be a constant of a concrete type.
macro_rules! bounded_codec {
    () => {
        fn decode_bounded(bytes: &[u8]) -> Result<(Self, usize), String> {
            let codec = bincode::config::standard().with_limit::<{ Self::BYTES_MAX }>();
            bincode::serde::decode_from_slice(bytes, codec).map_err(|error| error.to_string())
        }
    };
}
pub(crate) use bounded_codec;

/// Error: a message cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The encoded message exceeds the limit of its kind, so the peer would refuse it.
    #[error("{message} of {bytes} bytes exceeds its limit of {max}")]
    TooLarge {
        /// Name of the message.
        message: &'static str,
        /// Size of the encoded message in bytes.
        bytes: usize,
        /// Maximum size in bytes.
        max: usize,
    },
    /// A field exceeds its limit.
    #[error("{message} cannot be sent: {problem}")]
    Invalid {
        /// Name of the message.
        message: &'static str,
        /// The field and its limit.
        problem: String,
    },
    /// The codec failed to encode the message.
    #[error("encode {message}: {detail}")]
    Codec {
        /// Name of the message.
        message: &'static str,
        /// Error text of the codec.
        detail: String,
    },
}

/// Error: bytes are not the expected message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The announced length exceeds the limit; nothing was allocated for it.
    #[error("a frame of {length} bytes exceeds the limit of {max} of {message}")]
    TooLarge {
        /// Name of the expected message.
        message: &'static str,
        /// Announced length in bytes.
        length: u64,
        /// Maximum length in bytes.
        max: usize,
    },
    /// The frame contains a message of another kind.
    #[error("received a frame of kind {given:#06x}, expected {message} ({expected:#06x})")]
    WrongKind {
        /// Name of the expected message.
        message: &'static str,
        /// Kind of the expected message.
        expected: u16,
        /// Kind in the frame header.
        given: u16,
    },
    /// The bytes do not decode as a message of this kind.
    #[error("{message} cannot be read: {detail}")]
    Malformed {
        /// Name of the expected message.
        message: &'static str,
        /// Description of the fault.
        detail: String,
    },
    /// The message ends before its frame.
    #[error("{message} leaves {left} bytes of its frame unused")]
    Trailing {
        /// Name of the expected message.
        message: &'static str,
        /// Number of unused bytes.
        left: usize,
    },
}

impl DecodeError {
    /// Whether the peer may be of another version, rather than faulty.
    #[must_use]
    pub fn is_version_mismatch(&self) -> bool {
        match self {
            Self::WrongKind { expected, given, .. } => expected >> 8 != given >> 8,
            Self::TooLarge { .. } | Self::Malformed { .. } | Self::Trailing { .. } => false,
        }
    }
}

/// Header of a frame: length and kind of the message that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Announced length of the message in bytes; not yet checked.
    pub length: u32,
    /// Kind of the message.
    pub kind: u16,
}

impl FrameHeader {
    /// Parses a header. Any six bytes are a header; [`FrameHeader::expect`] checks it.
    #[must_use]
    pub fn parse(bytes: [u8; FRAME_HEADER_BYTES]) -> Self {
        let [a, b, c, d, e, f] = bytes;
        Self { length: u32::from_le_bytes([a, b, c, d]), kind: u16::from_le_bytes([e, f]) }
    }

    /// Encodes the header.
    #[must_use]
    pub fn to_bytes(self) -> [u8; FRAME_HEADER_BYTES] {
        let [a, b, c, d] = self.length.to_le_bytes();
        let [e, f] = self.kind.to_le_bytes();
        [a, b, c, d, e, f]
    }

    /// Checks that the header announces an `M` within its size limit, and returns the number of bytes to read.
    ///
    /// # Errors
    /// Returns [`DecodeError::WrongKind`] or [`DecodeError::TooLarge`].
    pub fn expect<M: Message>(self) -> Result<usize, DecodeError> {
        if self.kind != M::KIND {
            return Err(DecodeError::WrongKind { message: M::NAME, expected: M::KIND, given: self.kind });
        }
        let length = usize::try_from(self.length).ok().filter(|&length| length <= M::BYTES_MAX);
        length.ok_or(DecodeError::TooLarge { message: M::NAME, length: self.length.into(), max: M::BYTES_MAX })
    }
}

/// Encodes a message with its frame header.
///
/// # Errors
/// Fails if the message or one of its fields exceeds its limit, because the peer would refuse it.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, EncodeError> {
    message.check().map_err(|problem| EncodeError::Invalid { message: M::NAME, problem })?;
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    let codec = |error: bincode::error::EncodeError| EncodeError::Codec { message: M::NAME, detail: error.to_string() };
    let encoded = bincode::serde::encode_to_vec(message, bincode::config::standard()).map_err(codec)?;
    let too_large = || EncodeError::TooLarge { message: M::NAME, bytes: encoded.len(), max: M::BYTES_MAX };
    if encoded.len() > M::BYTES_MAX {
        return Err(too_large());
    }
    let length = u32::try_from(encoded.len()).map_err(|_over| too_large())?;
    frame.copy_from_slice(&FrameHeader { length, kind: M::KIND }.to_bytes());
    frame.extend_from_slice(&encoded);
    Ok(frame)
}

/// Decodes the message of a frame: `kind` from its header, `bytes` exactly the bytes after the header.
///
/// # Errors
/// Fails if the bytes are not one complete, valid message of this kind.
pub fn decode<M: Message>(kind: u16, bytes: &[u8]) -> Result<M, DecodeError> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    FrameHeader { length, kind }.expect::<M>()?;
    let malformed = |detail| DecodeError::Malformed { message: M::NAME, detail };
    let (message, used) = M::decode_bounded(bytes).map_err(malformed)?;
    if used != bytes.len() {
        return Err(DecodeError::Trailing { message: M::NAME, left: bytes.len().saturating_sub(used) });
    }
    message.check().map_err(malformed)?;
    Ok(message)
}
