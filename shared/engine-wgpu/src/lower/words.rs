//! Literals as the words a device computes with, and back; see [`Repr`].
//!
//! Fed by weights on their way to the device and by requests and answers, which may be large: where the device holds the
//! bytes that a literal holds (floats, 32-bit integers, bytes), they are copied as they are.

use std::borrow::Cow;

use bytes::Bytes;

use super::repr::Repr;
use crate::error::OpError;
use crate::fault::Fault;
use crate::ir::{ElementType, Literal};
use crate::value_info::ValueInfo;

/// Returns whether the device holds the very bytes of a literal, but for zeros that fill up the last word.
const fn lies_alike(dtype: ElementType) -> bool {
    matches!(dtype, ElementType::F32 | ElementType::I32 | ElementType::U32 | ElementType::I8 | ElementType::U8)
}

/// The device form of a literal, as bytes; without the zeros that fill up its last word.
///
/// # Errors
/// As [`to_words`].
pub fn device_bytes(literal: &Literal) -> Result<Cow<'_, [u8]>, OpError> {
    if lies_alike(literal.dtype()) {
        return Ok(Cow::Borrowed(literal.bytes()));
    }
    let words = to_words(literal)?;
    Ok(Cow::Owned(words.into_iter().map(u32::to_le_bytes).collect::<Vec<_>>().into_flattened()))
}

/// The device form of a literal, as words.
///
/// # Errors
/// [`OpError::Fault`] when a 64-bit integer does not fit 32 bits.
pub fn to_words(literal: &Literal) -> Result<Vec<u32>, OpError> {
    let bytes = literal.bytes();
    let out_of_range = || OpError::Fault(Fault::Overflow);
    Ok(match literal.dtype() {
        ElementType::F32 | ElementType::I32 | ElementType::U32 => {
            bytes.as_chunks::<4>().0.iter().map(|&lane| u32::from_le_bytes(lane)).collect()
        }
        ElementType::F16 | ElementType::Bf16 | ElementType::F64 => {
            literal.to_f32s().into_iter().map(f32::to_bits).collect()
        }
        ElementType::Bool => bytes.iter().map(|&byte| u32::from(byte)).collect(),
        ElementType::I16 | ElementType::I64 => {
            let word = |value: i64| i32::try_from(value).map(i32::cast_unsigned).map_err(|_wide| out_of_range());
            literal.to_i64s().into_iter().map(word).collect::<Result<_, _>>()?
        }
        ElementType::U16 | ElementType::U64 => {
            let word = |value: i64| u32::try_from(value).map_err(|_wide| out_of_range());
            literal.to_i64s().into_iter().map(word).collect::<Result<_, _>>()?
        }
        ElementType::I8 | ElementType::U8 => pack_bytes(bytes),
        ElementType::I4 | ElementType::U4 => {
            let bytes: Vec<u8> = literal.to_i64s().into_iter().map(|value| value.to_le_bytes()[0]).collect();
            pack_bytes(&bytes)
        }
    })
}

/// Four bytes a word, the first in the low byte, the last word padded with zeros.
#[must_use]
pub fn pack_bytes(bytes: &[u8]) -> Vec<u32> {
    let (whole, rest) = bytes.as_chunks::<4>();
    let mut words: Vec<u32> = whole.iter().map(|&lane| u32::from_le_bytes(lane)).collect();
    if !rest.is_empty() {
        words.push(rest.iter().rev().fold(0, |word, &byte| (word << 8) | u32::from(byte)));
    }
    words
}

/// A literal from the words a device gave back; missing ones are zero.
#[must_use]
pub fn from_words(info: &ValueInfo, words: &[u8]) -> Literal {
    let (dtype, shape) = (info.dtype, info.shape.clone());
    if let Some(literal) = all_of(info, words) {
        return literal;
    }
    let lanes = words.as_chunks::<4>().0.iter().copied();
    match Repr::of(dtype) {
        Repr::F32 => {
            Literal::from_f64s(dtype, shape, &lanes.map(|lane| f64::from(f32::from_le_bytes(lane))).collect::<Vec<_>>())
        }
        Repr::I32 => {
            Literal::from_i64s(dtype, shape, &lanes.map(|lane| i64::from(i32::from_le_bytes(lane))).collect::<Vec<_>>())
        }
        Repr::U32 => {
            Literal::from_i64s(dtype, shape, &lanes.map(|lane| i64::from(u32::from_le_bytes(lane))).collect::<Vec<_>>())
        }
        Repr::I8x4 | Repr::U8x4 => {
            let values: Vec<i64> = words.iter().map(|&byte| i64::from(byte)).collect();
            Literal::from_i64s(dtype, shape, &values)
        }
    }
}

/// As [`from_words`], for the types of most answers: straight to bytes; `None` for others and for too few words.
fn all_of(info: &ValueInfo, words: &[u8]) -> Option<Literal> {
    let count = info.elements();
    let lanes = || Some(words.as_chunks::<4>().0.get(..count)?.iter().copied());
    let bytes = match info.dtype {
        ElementType::Bool => lanes()?.map(|lane| u8::from(lane != [0; 4])).collect(),
        ElementType::I64 => {
            let wide = lanes()?.map(|lane| i64::from(i32::from_le_bytes(lane)).to_le_bytes());
            wide.collect::<Vec<_>>().into_flattened().into()
        }
        dtype if lies_alike(dtype) => Bytes::copy_from_slice(words.get(..dtype.bytes_of(count)?)?),
        _ => return None,
    };
    Literal::new(info.dtype, info.shape.clone(), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPES: [ElementType; 13] = [
        ElementType::F16,
        ElementType::Bf16,
        ElementType::F32,
        ElementType::F64,
        ElementType::Bool,
        ElementType::I8,
        ElementType::U8,
        ElementType::I16,
        ElementType::U16,
        ElementType::I32,
        ElementType::U32,
        ElementType::I64,
        ElementType::U64,
    ];

    /// Returns the tensor that the device would give back for this one.
    fn there_and_back(literal: &Literal) -> Literal {
        let mut bytes = device_bytes(literal).unwrap().into_owned();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        from_words(&ValueInfo::new(literal.dtype(), literal.shape().to_vec()), &bytes)
    }

    #[test]
    fn a_tensor_of_every_type_comes_back_from_the_device_as_it_went() {
        for dtype in TYPES {
            for count in [0, 1, 3, 4, 5, 17] {
                let values: Vec<i64> =
                    (0..count).map(|at| if dtype == ElementType::Bool { at % 2 } else { at }).collect();
                let literal = Literal::from_i64s(dtype, vec![values.len()], &values);
                assert_eq!(there_and_back(&literal), literal, "{dtype} of {count}");
            }
        }
        let signed = [ElementType::I8, ElementType::I16, ElementType::I32, ElementType::I64, ElementType::F32];
        for dtype in signed {
            let literal = Literal::from_i64s(dtype, vec![3], &[-1, -128, 127]);
            assert_eq!(there_and_back(&literal), literal, "{dtype}");
        }
    }

    #[test]
    fn bytes_and_words_of_a_tensor_are_the_same_on_the_device() {
        for dtype in TYPES.into_iter().chain([ElementType::I4, ElementType::U4]) {
            let literal = Literal::from_i64s(dtype, vec![7], &[1, 0, 1, 1, 0, 1, 0]);
            let mut bytes = device_bytes(&literal).unwrap().into_owned();
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            let words: Vec<u8> = to_words(&literal).unwrap().into_iter().flat_map(u32::to_le_bytes).collect();
            assert_eq!(bytes, words, "{dtype}");
        }
    }

    #[test]
    fn a_64_bit_integer_that_the_device_cannot_hold_is_refused() {
        for (dtype, value) in [(ElementType::I64, 1_i64 << 31), (ElementType::I64, -(1 << 40)), (ElementType::U64, -1)]
        {
            let literal = Literal::from_i64s(dtype, vec![2], &[0, value]);
            assert!(device_bytes(&literal).is_err(), "{dtype} {value}");
            assert!(to_words(&literal).is_err(), "{dtype} {value}");
        }
    }

    #[test]
    fn what_a_device_gives_back_too_short_is_filled_up_with_zeros() {
        let info = ValueInfo::new(ElementType::F32, vec![3]);
        assert_eq!(from_words(&info, &1.5_f32.to_le_bytes()), Literal::from_f32s(vec![3], &[1.5]));
    }
}
