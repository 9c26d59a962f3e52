//! Operators on the host: for constant folding, shape-computing subgraphs and islands. Also the oracle of kernel tests.
//!
//! Plain and slow on purpose; never on the path of a request's tensors except in islands.

mod rearrange;

pub use rearrange::rearrange;

use crate::error::OpError;
use crate::ir::{ElementType, Literal, Node};
use crate::lower::Repr;

/// Computes a node whose inputs are all known; `None` where the host does not do this operator.
///
/// # Errors
/// When the operator refuses its inputs.
pub fn evaluate(node: &Node, inputs: &[Option<&Literal>]) -> Result<Option<Vec<Literal>>, OpError> {
    let host = crate::ops::rule(node).and_then(|rule| rule.host);
    host.map(|evaluate| evaluate(node, inputs)).transpose()
}

/// The device form of a literal, as words; see [`Repr`].
///
/// # Errors
/// [`OpError::Unsupported`] when a 64-bit integer does not fit 32 bits.
pub fn to_words(literal: &Literal) -> Result<Vec<u32>, OpError> {
    let out_of_range = || OpError::unsupported("a 64-bit integer is outside the 32 bits that the device computes with");
    Ok(match Repr::of(literal.dtype()) {
        Repr::F32 => literal.to_f32s().into_iter().map(f32::to_bits).collect(),
        // i64::MAX and i64::MIN are idioms for "to the end" in slices; the device never needs them exactly.
        Repr::I32 => {
            let word = |value: i64| match value {
                i64::MAX => Some(i32::MAX.cast_unsigned()),
                i64::MIN => Some(i32::MIN.cast_unsigned()),
                _ => i32::try_from(value).ok().map(i32::cast_unsigned),
            };
            literal.to_i64s().into_iter().map(|value| word(value).ok_or_else(out_of_range)).collect::<Result<_, _>>()?
        }
        Repr::U32 => {
            let word = |value: i64| u32::try_from(value).map_err(|_wide| out_of_range());
            literal.to_i64s().into_iter().map(word).collect::<Result<_, _>>()?
        }
        Repr::I8x4 | Repr::U8x4 => {
            let bytes: Vec<u8> = match literal.dtype() {
                ElementType::I4 | ElementType::U4 => {
                    literal.to_i64s().into_iter().map(|value| value.to_le_bytes()[0]).collect()
                }
                _ => literal.bytes().to_vec(),
            };
            pack_bytes(&bytes)
        }
    })
}

/// Four bytes a word, the first in the low byte, the last word padded with zeros.
#[must_use]
pub fn pack_bytes(bytes: &[u8]) -> Vec<u32> {
    let word = |chunk: &[u8]| chunk.iter().rev().fold(0, |word, &byte| (word << 8) | u32::from(byte));
    bytes.chunks(4).map(word).collect()
}

/// A literal from the words a device gave back; see [`Repr`].
#[must_use]
pub fn from_words(fact: &crate::facts::Fact, words: &[u8]) -> Literal {
    let lanes = || words.as_chunks::<4>().0.iter().copied();
    let shape = fact.shape.clone();
    match Repr::of(fact.dtype) {
        Repr::F32 if fact.dtype == ElementType::F32 => {
            Literal::from_f32s(shape, &lanes().map(f32::from_le_bytes).collect::<Vec<_>>())
        }
        Repr::F32 => Literal::from_f64s(
            fact.dtype,
            shape,
            &lanes().map(|lane| f64::from(f32::from_le_bytes(lane))).collect::<Vec<_>>(),
        ),
        Repr::I32 => Literal::from_i64s(
            fact.dtype,
            shape,
            &lanes().map(|lane| i64::from(i32::from_le_bytes(lane))).collect::<Vec<_>>(),
        ),
        Repr::U32 => Literal::from_i64s(
            fact.dtype,
            shape,
            &lanes().map(|lane| i64::from(u32::from_le_bytes(lane))).collect::<Vec<_>>(),
        ),
        Repr::I8x4 | Repr::U8x4 => {
            let values: Vec<i64> = words.iter().map(|&byte| i64::from(byte)).collect();
            Literal::from_i64s(fact.dtype, shape, &values)
        }
    }
}
