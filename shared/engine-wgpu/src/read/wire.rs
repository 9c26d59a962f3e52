//! The bytes of a model file, for `rten-onnx` to read its messages from.
//!
//! The readers of that crate trust lengths: they go round forever at a number of more than ten bytes, seek backwards by a length over
//! 2^63, and allocate what a string says it has. A hostile file can hold such in messages that [`engine::precheck`] does not look
//! into. This one ends at the last byte, whatever it is asked for.

use rten_onnx::protobuf::{ErrorKind, OwnedValues, ProtobufError, ReadValue};

/// A number of 64 bits in groups of seven takes at most ten bytes.
const VARINT_BYTES_MAX: usize = 10;

/// The rest of a file, and the number of bytes that were read.
#[derive(Debug)]
pub(super) struct Wire<'a> {
    rest: &'a [u8],
    position: u64,
}

impl<'a> Wire<'a> {
    /// The whole file.
    pub(super) fn of(file: &'a [u8]) -> Self {
        Self { rest: file, position: 0 }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtobufError> {
        let split = self.rest.split_at_checked(length);
        let (taken, rest) = split.ok_or_else(|| ProtobufError::new(ErrorKind::Eof))?;
        self.rest = rest;
        self.position += u64::try_from(length).unwrap_or(u64::MAX);
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtobufError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_wrong| ProtobufError::new(ErrorKind::Eof))
    }
}

impl ReadValue for Wire<'_> {
    type Types = OwnedValues;

    fn read_i32(&mut self) -> Result<i32, ProtobufError> {
        self.array().map(i32::from_le_bytes)
    }

    fn read_i64(&mut self) -> Result<i64, ProtobufError> {
        self.array().map(i64::from_le_bytes)
    }

    fn read_varint(&mut self) -> Result<u64, ProtobufError> {
        let mut number = 0_u64;
        for group in 0..VARINT_BYTES_MAX {
            let [byte] = self.array()?;
            // Of the tenth group one bit is left.
            if group + 1 == VARINT_BYTES_MAX && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << (group * 7);
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(ProtobufError::new(ErrorKind::InvalidVarint))
    }

    fn read_bytes(&mut self, length: usize) -> Result<Vec<u8>, ProtobufError> {
        self.take(length).map(<[u8]>::to_vec)
    }

    fn read_string(&mut self, length: usize) -> Result<String, ProtobufError> {
        String::from_utf8(self.read_bytes(length)?).map_err(|_text| ProtobufError::new(ErrorKind::InvalidUtf8))
    }

    fn skip(&mut self, length: usize) -> Result<(), ProtobufError> {
        self.take(length).map(|_skipped| ())
    }

    fn position(&self) -> u64 {
        self.position
    }
}
