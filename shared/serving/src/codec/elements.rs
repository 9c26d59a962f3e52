//! Tensor elements between JSON and raw little-endian bytes.
//!
//! Fed by the request parser with the text of one `data` field, and by the answer writer with one tensor. Streams
//! in both directions: a list of a million numbers never becomes a million JSON values in memory.

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde::ser::{Error as _, SerializeSeq, Serializer};
use serde_json::value::RawValue;
use types::limits::{RANK_MAX, TENSOR_BYTES_MAX};
use types::{DType, Tensor};

use super::{CodecError, Room, shorten};

/// Elements that are charged to the caller's memory at a time, in bytes.
const ROOM_STEP_BYTES: usize = 64 * 1024;

/// Reads a flat or nested list of elements into the bytes of a tensor.
///
/// # Errors
/// Where an element is not of the datatype, lists are nested deeper than a tensor has dimensions, there are more bytes
/// than a tensor may have, or the caller has no memory for them.
pub(super) fn read(name: &str, dtype: DType, text: &RawValue, room: Room<'_>) -> Result<Vec<u8>, CodecError> {
    // Each element takes at least two characters, itself and a comma, so that this never reserves on a promise.
    let expected = (text.get().len() / 2).saturating_mul(dtype.size().unwrap_or(1)).min(TENSOR_BYTES_MAX);
    let mut sink = Sink { bytes: Vec::with_capacity(expected), charged: 0, room, full: false };
    let mut json = serde_json::Deserializer::from_str(text.get());
    let read = Elements { dtype, sink: &mut sink, depth: 0 }.deserialize(&mut json).and_then(|()| json.end());
    match read {
        Ok(()) => Ok(sink.bytes),
        Err(_refused) if sink.full => Err(CodecError::NoRoom),
        Err(source) => Err(CodecError::Elements { name: shorten(name), dtype, source: source.into() }),
    }
}

/// The bytes of a tensor while its elements are read.
struct Sink<'a> {
    bytes: Vec<u8>,
    /// Bytes that the caller gave room for.
    charged: usize,
    room: Room<'a>,
    /// True once the caller has refused memory.
    full: bool,
}

impl Sink<'_> {
    fn push<E: serde::de::Error>(&mut self, bytes: &[u8]) -> Result<(), E> {
        let wanted = self.bytes.len().saturating_add(bytes.len());
        if wanted > TENSOR_BYTES_MAX {
            return Err(E::custom(format_args!("more than {TENSOR_BYTES_MAX} bytes of elements")));
        }
        if wanted > self.charged {
            let step = ROOM_STEP_BYTES.max(wanted - self.charged);
            if !(self.room)(step) {
                self.full = true;
                return Err(E::custom("no memory is left"));
            }
            self.charged += step;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

/// One level of the (nested) list.
struct Elements<'a, 'r> {
    dtype: DType,
    sink: &'a mut Sink<'r>,
    depth: usize,
}

impl Elements<'_, '_> {
    fn push<E: serde::de::Error>(self, bytes: &[u8]) -> Result<(), E> {
        self.sink.push(bytes)
    }

    fn out_of_range<E: serde::de::Error>(&self, value: impl std::fmt::Display) -> E {
        E::custom(format_args!("{value} does not fit {}", self.dtype))
    }

    fn push_integer<E: serde::de::Error>(self, value: i128) -> Result<(), E> {
        macro_rules! fit {
            ($int:ty) => {
                match <$int>::try_from(value) {
                    Ok(value) => self.push(&value.to_le_bytes()),
                    Err(_) => Err(self.out_of_range(value)),
                }
            };
        }
        match self.dtype {
            DType::U8 => fit!(u8),
            DType::U16 => fit!(u16),
            DType::U32 => fit!(u32),
            DType::U64 => fit!(u64),
            DType::I8 => fit!(i8),
            DType::I16 => fit!(i16),
            DType::I32 => fit!(i32),
            DType::I64 => fit!(i64),
            DType::Bool if value == 0 || value == 1 => self.push(&[u8::from(value == 1)]),
            DType::Bool => Err(self.out_of_range(value)),
            #[expect(clippy::cast_precision_loss, reason = "a JSON number given for a float rounds to the nearest")]
            DType::F32 => self.push(&(value as f32).to_le_bytes()),
            #[expect(clippy::cast_precision_loss, reason = "a JSON number given for a float rounds to the nearest")]
            DType::F64 => self.push(&(value as f64).to_le_bytes()),
            DType::Bytes => Err(E::custom(format_args!("BYTES elements are strings, not {value}"))),
            DType::F16 | DType::Bf16 => Err(E::custom(NO_HALVES)),
        }
    }
}

/// JSON has no agreed form of 16-bit floats in this protocol.
const NO_HALVES: &str = "FP16 and BF16 travel as binary data only";

impl<'de> DeserializeSeed<'de> for Elements<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} elements in a flat or nested list", self.dtype)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if self.depth == RANK_MAX {
            return Err(A::Error::custom(format_args!("lists nested deeper than {RANK_MAX}")));
        }
        let depth = self.depth + 1;
        while list.next_element_seed(Elements { dtype: self.dtype, sink: &mut *self.sink, depth })?.is_some() {}
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        match self.dtype {
            DType::Bool => self.push(&[u8::from(value)]),
            other => Err(E::custom(format_args!("{value} is not {other}"))),
        }
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.push_integer(i128::from(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.push_integer(i128::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        #[expect(clippy::cast_possible_truncation, reason = "a JSON number given for FP32 rounds to the nearest")]
        match self.dtype {
            DType::F32 => self.push(&(value as f32).to_le_bytes()),
            DType::F64 => self.push(&value.to_le_bytes()),
            DType::F16 | DType::Bf16 => Err(E::custom(NO_HALVES)),
            DType::Bool
            | DType::U8
            | DType::U16
            | DType::U32
            | DType::U64
            | DType::I8
            | DType::I16
            | DType::I32
            | DType::I64
            | DType::Bytes => Err(E::custom(format_args!("{value} is not {}", self.dtype))),
        }
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        if self.dtype != DType::Bytes {
            return Err(E::custom(format_args!("a string is not {}", self.dtype)));
        }
        let length = u32::try_from(value.len()).map_err(|_over| E::custom("a string over 4 GiB"))?;
        self.sink.push(&length.to_le_bytes())?;
        self.sink.push(value.as_bytes())
    }
}

/// Says why a tensor cannot be written as JSON, or `None` when it can.
pub(super) fn why_not_in_json(tensor: &Tensor) -> Option<&'static str> {
    match tensor.dtype() {
        DType::F16 | DType::Bf16 => Some("has no form in JSON"),
        DType::F32 if lanes(tensor).map(f32::from_le_bytes).any(|value| !value.is_finite()) => {
            Some("holds a value that JSON cannot say (NaN or infinity)")
        }
        DType::F64 if lanes(tensor).map(f64::from_le_bytes).any(|value| !value.is_finite()) => {
            Some("holds a value that JSON cannot say (NaN or infinity)")
        }
        DType::Bytes if !holds_text(tensor) => Some("holds an element that is not UTF-8 text"),
        DType::Bool
        | DType::U8
        | DType::U16
        | DType::U32
        | DType::U64
        | DType::I8
        | DType::I16
        | DType::I32
        | DType::I64
        | DType::F32
        | DType::F64
        | DType::Bytes => None,
    }
}

fn holds_text(tensor: &Tensor) -> bool {
    tensor.to_elements().is_ok_and(|elements| elements.iter().all(|element| std::str::from_utf8(element).is_ok()))
}

/// The elements of a tensor, written as a flat list. Ask [`why_not_in_json`] first.
pub(super) struct Data<'a>(pub(super) &'a Tensor);

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tensor = self.0;
        match tensor.dtype() {
            DType::Bool => serializer.collect_seq(tensor.data().iter().map(|&byte| byte == 1)),
            DType::U8 => serializer.collect_seq(lanes(tensor).map(u8::from_le_bytes)),
            DType::U16 => serializer.collect_seq(lanes(tensor).map(u16::from_le_bytes)),
            DType::U32 => serializer.collect_seq(lanes(tensor).map(u32::from_le_bytes)),
            DType::U64 => serializer.collect_seq(lanes(tensor).map(u64::from_le_bytes)),
            DType::I8 => serializer.collect_seq(lanes(tensor).map(i8::from_le_bytes)),
            DType::I16 => serializer.collect_seq(lanes(tensor).map(i16::from_le_bytes)),
            DType::I32 => serializer.collect_seq(lanes(tensor).map(i32::from_le_bytes)),
            DType::I64 => serializer.collect_seq(lanes(tensor).map(i64::from_le_bytes)),
            DType::F32 => serializer.collect_seq(lanes(tensor).map(f32::from_le_bytes)),
            DType::F64 => serializer.collect_seq(lanes(tensor).map(f64::from_le_bytes)),
            DType::F16 | DType::Bf16 => Err(S::Error::custom(NO_HALVES)),
            DType::Bytes => {
                let elements = tensor.to_elements().map_err(S::Error::custom)?;
                let mut list = serializer.serialize_seq(Some(elements.len()))?;
                for element in elements {
                    list.serialize_element(std::str::from_utf8(element).map_err(S::Error::custom)?)?;
                }
                list.end()
            }
        }
    }
}

fn lanes<const N: usize>(tensor: &Tensor) -> impl Iterator<Item = [u8; N]> + '_ {
    tensor.data().as_chunks::<N>().0.iter().copied()
}
