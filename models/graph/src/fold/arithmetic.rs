//! Arithmetic that gives the same bits on every machine: whole numbers without overflow, and the operations that IEEE 754
//! rounds exactly.

use super::Call;
use super::array::{Array, common};
use crate::tensor::{ElementType, Values};

/// Elementwise operators of one or two inputs; `None` for others, and where runtimes may differ (NaN, overflow, division by 0).
pub(super) fn elementwise(call: &Call<'_>) -> Option<Array> {
    let operator = call.node.op_type();
    match call.inputs.len() {
        1 => unary(operator, call.input(0)?),
        2 => {
            let (one, other) = (call.input(0)?, call.input(1)?);
            if one.element != other.element {
                return None;
            }
            let shape = common(&one.shape, &other.shape)?;
            let (one, other) = (one.broadcast(&shape, call.bytes_max)?, other.broadcast(&shape, call.bytes_max)?);
            binary(operator, &one, &other)
        }
        _ => None,
    }
}

/// `Where`.
pub(super) fn choose(call: &Call<'_>) -> Option<Array> {
    let (condition, yes, no) = (call.input(0)?, call.input(1)?, call.input(2)?);
    if condition.element != ElementType::Bool || yes.element != no.element {
        return None;
    }
    let shape = common(&condition.shape, &common(&yes.shape, &no.shape)?)?;
    let [condition, yes, no] = [condition, yes, no].map(|array| array.broadcast(&shape, call.bytes_max));
    let (condition, yes, no) = (condition?, yes?, no?);
    let width = yes.width();
    let pieces = condition.raw.iter().zip(yes.raw.chunks(width).zip(no.raw.chunks(width)));
    let raw: Vec<u8> = pieces.flat_map(|(&is, (yes, no))| if is != 0 { yes } else { no }).copied().collect();
    Array::new(yes.element, shape, raw.into())
}

fn unary(operator: &str, array: &Array) -> Option<Array> {
    match array.element {
        ElementType::Float => {
            let map: fn(f32) -> f32 = match operator {
                "Neg" => |value| -value,
                "Abs" => f32::abs,
                "Sqrt" => f32::sqrt,
                "Floor" => f32::floor,
                "Ceil" => f32::ceil,
                "Reciprocal" => |value| 1.0 / value,
                _ => return None,
            };
            floats(&array.shape, floats_of(array)?.into_iter().map(map))
        }
        ElementType::Bool if operator == "Not" => {
            let raw: Vec<u8> = array.raw.iter().map(|&value| u8::from(value == 0)).collect();
            Array::new(ElementType::Bool, array.shape.clone(), raw.into())
        }
        ElementType::Int64 | ElementType::Int32 => {
            let map: fn(i64) -> Option<i64> = match operator {
                "Neg" => i64::checked_neg,
                "Abs" => i64::checked_abs,
                _ => return None,
            };
            integers(array, array.to_integers()?.into_iter().map(map))
        }
        _ => None,
    }
}

fn binary(operator: &str, one: &Array, other: &Array) -> Option<Array> {
    match one.element {
        ElementType::Float => {
            let pairs = floats_of(one)?.into_iter().zip(floats_of(other)?);
            if let Some(compare) = comparison::<f32>(operator) {
                return booleans(&one.shape, pairs.map(|(a, b)| compare(&a, &b)));
            }
            let map: fn(f32, f32) -> f32 = match operator {
                "Add" => |a, b| a + b,
                "Sub" => |a, b| a - b,
                "Mul" => |a, b| a * b,
                "Div" => |a, b| a / b,
                "Min" => f32::min,
                "Max" => f32::max,
                _ => return None,
            };
            floats(&one.shape, pairs.map(|(a, b)| map(a, b)))
        }
        ElementType::Int64 | ElementType::Int32 => {
            let pairs = one.to_integers()?.into_iter().zip(other.to_integers()?);
            if let Some(compare) = comparison::<i64>(operator) {
                return booleans(&one.shape, pairs.map(|(a, b)| compare(&a, &b)));
            }
            let map: fn(i64, i64) -> Option<i64> = match operator {
                "Add" => i64::checked_add,
                "Sub" => i64::checked_sub,
                "Mul" => i64::checked_mul,
                "Div" => i64::checked_div,
                "Min" => |a, b| Some(a.min(b)),
                "Max" => |a, b| Some(a.max(b)),
                _ => return None,
            };
            integers(one, pairs.map(|(a, b)| map(a, b)))
        }
        ElementType::Bool => {
            let map: fn(bool, bool) -> bool = match operator {
                "And" => |a, b| a && b,
                "Or" => |a, b| a || b,
                "Xor" => |a, b| a != b,
                "Equal" => |a, b| a == b,
                _ => return None,
            };
            booleans(&one.shape, one.raw.iter().zip(&other.raw).map(|(&a, &b)| map(a != 0, b != 0)))
        }
        _ => None,
    }
}

fn comparison<T: PartialOrd>(operator: &str) -> Option<fn(&T, &T) -> bool> {
    Some(match operator {
        "Equal" => T::eq,
        "Less" => T::lt,
        "Greater" => T::gt,
        "LessOrEqual" => T::le,
        "GreaterOrEqual" => T::ge,
        _ => return None,
    })
}

/// `None` when one is no number: what comes of it has many bit patterns.
fn floats_of(array: &Array) -> Option<Vec<f32>> {
    let values = array.clone().into_tensor("").floats().ok()?;
    (!values.iter().any(|value| value.is_nan())).then_some(values)
}

fn floats(shape: &[usize], values: impl Iterator<Item = f32>) -> Option<Array> {
    let values: Vec<f32> = values.collect();
    if values.iter().any(|value| value.is_nan()) {
        return None;
    }
    let raw: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
    Array::new(ElementType::Float, shape.to_vec(), raw.into())
}

fn booleans(shape: &[usize], values: impl Iterator<Item = bool>) -> Option<Array> {
    Array::new(ElementType::Bool, shape.to_vec(), values.map(u8::from).collect::<Vec<u8>>().into())
}

/// In the type of `like`; `None` when one is beyond it.
fn integers(like: &Array, values: impl Iterator<Item = Option<i64>>) -> Option<Array> {
    let values: Vec<i64> = values.collect::<Option<_>>()?;
    super::cast::cast(&Array::integers(&like.shape, &values), like.element)
}
