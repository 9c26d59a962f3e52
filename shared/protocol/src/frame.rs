//! The frame around a message, and the bounded codec within it.
//!
//! `u32` length of the message (little-endian) | `u16` kind, whose high byte is the version of the wire | the message in
//! bincode. The length is checked against the limit of the one kind that may stand there before anything is
//! allocated, and the message must use every byte of it.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes before the message: length and kind.
pub const FRAME_HEADER_BYTES: usize = 6;

/// A message that may stand on a stream, and its limits.
pub trait Message: Serialize + DeserializeOwned + Send + Sync {
    /// Number of this kind of message; the high byte is the version of the wire.
    const KIND: u16;
    /// Name for errors and logs.
    const NAME: &'static str;
    /// Most bytes its encoded form may take, without the frame header and without the body.
    const BYTES_MAX: usize;

    /// Length in bytes of the raw body that follows the message on the stream.
    fn body_length(&self) -> u64 {
        0
    }

    /// Checks what the types cannot say: counts, lengths and ranges. Runs on every decoded message.
    ///
    /// # Errors
    /// One clause that names the field and the limit.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Decodes under this kind's own limit; gives the message and the bytes it used. Call [`decode`] instead.
    ///
    /// # Errors
    /// The codec's own words.
    #[doc(hidden)]
    fn decode_bounded(bytes: &[u8]) -> Result<(Self, usize), String>;
}

/// Implements the codec part of [`Message`], where the limit must be a constant of a concrete type.
macro_rules! bounded_codec {
    () => {
        fn decode_bounded(bytes: &[u8]) -> Result<(Self, usize), String> {
            let codec = bincode::config::standard().with_limit::<{ Self::BYTES_MAX }>();
            bincode::serde::decode_from_slice(bytes, codec).map_err(|error| error.to_string())
        }
    };
}
pub(crate) use bounded_codec;

/// Why a message cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// It would not be taken on the other side.
    #[error("{message} of {bytes} bytes is over its limit of {max}")]
    TooLarge {
        /// Name of the message.
        message: &'static str,
        /// Bytes it takes.
        bytes: usize,
        /// Bytes it may take.
        max: usize,
    },
    /// A field is over its limit.
    #[error("{message} cannot be sent: {problem}")]
    Invalid {
        /// Name of the message.
        message: &'static str,
        /// The field and the limit.
        problem: String,
    },
    /// The codec could not write it.
    #[error("encode {message}: {detail}")]
    Codec {
        /// Name of the message.
        message: &'static str,
        /// The codec's words.
        detail: String,
    },
}

/// Why bytes are not the message that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The announced length is over the limit; nothing was allocated for it.
    #[error("a frame of {length} bytes is over the limit of {max} of {message}")]
    TooLarge {
        /// Name of the expected message.
        message: &'static str,
        /// Announced length in bytes.
        length: u64,
        /// Limit in bytes.
        max: usize,
    },
    /// Another message stands where this one must.
    #[error("a frame of kind {given:#06x} stands where {message} ({expected:#06x}) is expected")]
    WrongKind {
        /// Name of the expected message.
        message: &'static str,
        /// Its kind.
        expected: u16,
        /// The kind that was given.
        given: u16,
    },
    /// The bytes are no message of this kind.
    #[error("{message} cannot be read: {detail}")]
    Malformed {
        /// Name of the expected message.
        message: &'static str,
        /// What is wrong with the bytes.
        detail: String,
    },
    /// The message ends before its frame does.
    #[error("{message} leaves {left} bytes of its frame unused")]
    Trailing {
        /// Name of the expected message.
        message: &'static str,
        /// Bytes left over.
        left: usize,
    },
}

impl DecodeError {
    /// Whether the peer may simply be of another version, rather than broken.
    #[must_use]
    pub fn is_version_mismatch(&self) -> bool {
        match self {
            Self::WrongKind { expected, given, .. } => expected >> 8 != given >> 8,
            Self::TooLarge { .. } | Self::Malformed { .. } | Self::Trailing { .. } => false,
        }
    }
}

/// What stands before each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Length of the message in bytes, as announced and not yet believed.
    pub length: u32,
    /// Kind of the message.
    pub kind: u16,
}

impl FrameHeader {
    /// Reads a header. Every six bytes are one; [`FrameHeader::expect`] decides whether it is lawful here.
    #[must_use]
    pub fn parse(bytes: [u8; FRAME_HEADER_BYTES]) -> Self {
        let [a, b, c, d, e, f] = bytes;
        Self { length: u32::from_le_bytes([a, b, c, d]), kind: u16::from_le_bytes([e, f]) }
    }

    /// Writes a header.
    #[must_use]
    pub fn to_bytes(self) -> [u8; FRAME_HEADER_BYTES] {
        let [a, b, c, d] = self.length.to_le_bytes();
        let [e, f] = self.kind.to_le_bytes();
        [a, b, c, d, e, f]
    }

    /// Checks that an `M` of lawful size follows, and gives the bytes to read for it.
    ///
    /// # Errors
    /// [`DecodeError::WrongKind`] and [`DecodeError::TooLarge`].
    pub fn expect<M: Message>(self) -> Result<usize, DecodeError> {
        if self.kind != M::KIND {
            return Err(DecodeError::WrongKind { message: M::NAME, expected: M::KIND, given: self.kind });
        }
        let length = usize::try_from(self.length).ok().filter(|&length| length <= M::BYTES_MAX);
        length.ok_or(DecodeError::TooLarge { message: M::NAME, length: self.length.into(), max: M::BYTES_MAX })
    }
}

/// Writes a message with its frame header.
///
/// # Errors
/// When the message or one of its fields is over its limit: what the other side would refuse is not sent.
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

/// Reads the message of a frame: `kind` from its header, `bytes` exactly what follows the header.
///
/// # Errors
/// When the bytes are not one whole, lawful message of this kind.
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
