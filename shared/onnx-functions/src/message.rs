//! Reads and writes the fields of protocol-buffers messages.
//!
//! Borrowed and without recursion; the format is that of <https://protobuf.dev/programming-guides/encoding/>. Groups, which ONNX
//! never used, are refused.

/// The bytes are not a readable message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the file is no readable ONNX model: {0}")]
pub struct Malformed(pub(crate) &'static str);

const CUT_SHORT: Malformed = Malformed("it ends in the middle of a field");

/// Maximum bytes of a variable-length integer: 64 bits in groups of 7.
const VARINT_BYTES_MAX: u32 = 10;

/// Value of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    /// A string, bytes, a nested message or a packed list.
    Bytes(&'a [u8]),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
}

impl<'a> Value<'a> {
    pub(crate) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) | Self::Fixed64(_) | Self::Fixed32(_) => Err(Malformed("a field is of the wrong kind")),
        }
    }

    pub(crate) fn varint(self) -> Result<u64, Malformed> {
        match self {
            Self::Varint(number) => Ok(number),
            Self::Bytes(_) | Self::Fixed64(_) | Self::Fixed32(_) => Err(Malformed("a field is of the wrong kind")),
        }
    }
}

/// Iterates over the fields of a message in file order.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// Returns number and value of the next field; `None` at the end of the message.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.fixed()?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_over| CUT_SHORT)?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Fixed32(self.fixed()?),
            _ => return Err(Malformed("a field has an unknown wire type")),
        };
        match tag >> 3 {
            0 => Err(Malformed("a field has the number 0")),
            number => Ok(Some((number, value))),
        }
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0_u64;
        for group in 0..VARINT_BYTES_MAX {
            let [byte] = self.fixed()?;
            number |= u64::from(byte & 0x7f).checked_shl(group * 7).unwrap_or(0);
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed("an integer has more than ten bytes"))
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_length| CUT_SHORT)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(CUT_SHORT)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// Protocol buffer message under construction.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn value(&mut self, number: u64, value: &Value<'_>) {
        match value {
            Value::Varint(varint) => {
                self.varint(number << 3);
                self.varint(*varint);
            }
            Value::Fixed64(bytes) => {
                self.varint((number << 3) | 1);
                self.0.extend_from_slice(bytes);
            }
            Value::Bytes(bytes) => self.bytes(number, bytes),
            Value::Fixed32(bytes) => {
                self.varint((number << 3) | 5);
                self.0.extend_from_slice(bytes);
            }
        }
    }

    pub(crate) fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.varint((number << 3) | 2);
        self.varint(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.0.extend_from_slice(bytes);
    }

    fn varint(&mut self, mut number: u64) {
        loop {
            let [low, ..] = number.to_le_bytes();
            number >>= 7;
            if number == 0 {
                self.0.push(low & 0x7f);
                return;
            }
            self.0.push(low | 0x80);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Returns bytes of a name as text for an error message, at most 80 characters.
pub(crate) fn text(bytes: &[u8]) -> String {
    /// Characters of a name that an error shows.
    const SHOWN_MAX: usize = 80;
    String::from_utf8_lossy(bytes).chars().take(SHOWN_MAX).collect()
}
