//! Other element types for the same numbers.

use half::{bf16, f16};

use super::array::Array;
use crate::tensor::{ElementType, Values, is_integer};

/// The array in another type; `None` where runtimes differ: fractions beyond the range of whole numbers, NaN to whole numbers.
pub(super) fn cast(array: &Array, to: ElementType) -> Option<Array> {
    if array.element == to {
        return Some(array.clone());
    }
    let raw = if is_integer(array.element) {
        of_integers(&array.to_integers()?, to)?
    } else {
        of_floats(&floats(array)?, to)?
    };
    Array::new(to, array.shape.clone(), raw.into())
}

/// Any float type, exactly.
fn floats(array: &Array) -> Option<Vec<f64>> {
    if array.element == ElementType::Double {
        return Some(array.raw.as_chunks().0.iter().map(|lane| f64::from_le_bytes(*lane)).collect());
    }
    Some(array.clone().into_tensor("").floats().ok()?.into_iter().map(f64::from).collect())
}

fn of_floats(values: &[f64], to: ElementType) -> Option<Vec<u8>> {
    #[expect(clippy::cast_possible_truncation, reason = "rounding to the narrower type is what a cast means")]
    Some(match to {
        ElementType::Double => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ElementType::Float => values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect(),
        // From f32 in one step: rounding f64 twice could differ.
        ElementType::Float16 if fit_f32(values) => {
            values.iter().flat_map(|&value| f16::from_f32(value as f32).to_le_bytes()).collect()
        }
        ElementType::Bfloat16 if fit_f32(values) => {
            values.iter().flat_map(|&value| bf16::from_f32(value as f32).to_le_bytes()).collect()
        }
        ElementType::Bool => values.iter().map(|&value| u8::from(value != 0.0)).collect(),
        _ if is_integer(to) => {
            let whole: Option<Vec<i64>> = values.iter().map(|&value| whole(value)).collect();
            return of_integers(&whole?, to);
        }
        _ => return None,
    })
}

#[expect(clippy::cast_possible_truncation, reason = "that is the question")]
fn fit_f32(values: &[f64]) -> bool {
    values.iter().all(|&value| f64::from(value as f32).to_bits() == value.to_bits())
}

/// Towards zero; whole numbers beyond 2^53 are not told apart by f64.
fn whole(value: f64) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
    (value.abs() < 9_007_199_254_740_992.0).then_some(value as i64)
}

fn of_integers(values: &[i64], to: ElementType) -> Option<Vec<u8>> {
    fn narrow<T: TryFrom<i64>, const N: usize>(values: &[i64], bytes: fn(T) -> [u8; N]) -> Option<Vec<u8>> {
        let parts: Option<Vec<[u8; N]>> = values.iter().map(|&value| T::try_from(value).ok().map(bytes)).collect();
        Some(parts?.into_iter().flatten().collect())
    }
    #[expect(clippy::cast_precision_loss, reason = "rounding to a float type is what a cast means")]
    match to {
        ElementType::Int64 => narrow(values, i64::to_le_bytes),
        ElementType::Int32 => narrow(values, i32::to_le_bytes),
        ElementType::Int16 => narrow(values, i16::to_le_bytes),
        ElementType::Int8 => narrow(values, i8::to_le_bytes),
        ElementType::Uint64 => narrow(values, u64::to_le_bytes),
        ElementType::Uint32 => narrow(values, u32::to_le_bytes),
        ElementType::Uint16 => narrow(values, u16::to_le_bytes),
        ElementType::Uint8 => narrow(values, u8::to_le_bytes),
        ElementType::Bool => Some(values.iter().map(|&value| u8::from(value != 0)).collect()),
        ElementType::Float => Some(values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect()),
        ElementType::Double => Some(values.iter().flat_map(|&value| (value as f64).to_le_bytes()).collect()),
        ElementType::Float16 if values.iter().all(|value| value.unsigned_abs() <= 1 << 24) => {
            Some(values.iter().flat_map(|&value| f16::from_f32(value as f32).to_le_bytes()).collect())
        }
        _ => None,
    }
}
