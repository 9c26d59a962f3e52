//! Reads the fields of a protocol-buffers message, and only that.
//!
//! Borrowed, without recursion and without allocation; the format is that of
//! <https://protobuf.dev/programming-guides/encoding/>. Groups, which ONNX never used, are refused.

use super::Refusal;

/// Value of one field, by its wire type.
pub(super) enum Value<'a> {
    Varint(u64),
    /// A string, bytes, a nested message or a packed list.
    Bytes(&'a [u8]),
    /// Four or eight bytes: a float, a double. Nothing here needs what is in them.
    Fixed,
}

pub(super) const CUT_SHORT: Refusal = Refusal::Unreadable { what: "it ends in the middle of a field" };
pub(super) const WRONG_KIND: Refusal = Refusal::Unreadable { what: "a field is of the wrong kind" };

impl<'a> Value<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], Refusal> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) | Self::Fixed => Err(WRONG_KIND),
        }
    }

    pub(super) fn varint(self) -> Result<u64, Refusal> {
        match self {
            Self::Varint(number) => Ok(number),
            Self::Bytes(_) | Self::Fixed => Err(WRONG_KIND),
        }
    }
}

/// The fields of a message, in file order.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and value; `None` at the end of the message.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Refusal> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = varint(&mut self.rest)?;
        let (number, wire_type) = (tag >> 3, tag & 7);
        let value = match wire_type {
            0 => Value::Varint(varint(&mut self.rest)?),
            1 => self.fixed(8)?,
            2 => {
                let length = usize::try_from(varint(&mut self.rest)?).map_err(|_over| CUT_SHORT)?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.fixed(4)?,
            _ => return Err(Refusal::Unreadable { what: "a field has an unknown wire type" }),
        };
        if number == 0 {
            return Err(Refusal::Unreadable { what: "a field has the number 0" });
        }
        Ok(Some((number, value)))
    }

    fn fixed(&mut self, length: usize) -> Result<Value<'a>, Refusal> {
        self.take(length).map(|_bytes| Value::Fixed)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Refusal> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(CUT_SHORT)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// Takes one variable-length integer off the front.
pub(super) fn varint(rest: &mut &[u8]) -> Result<u64, Refusal> {
    let mut number = 0_u64;
    // 64 bits in groups of 7 take at most ten bytes.
    for shift in (0..70).step_by(7) {
        let (&byte, tail) = rest.split_first().ok_or(CUT_SHORT)?;
        *rest = tail;
        number |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Refusal::Unreadable { what: "an integer has more than ten bytes" })
}
