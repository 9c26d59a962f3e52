//! Operators that work on each element.

use super::{Dim, Step, TensorType};
use crate::tensor::ElementType;

/// One input, and its type is the output's.
const SAME: [&str; 46] = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitwiseNot",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "CumSum",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "Identity",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "LRN",
    "MeanVarianceNormalization",
    "Mish",
    "Neg",
    "Not",
    "PRelu",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softmax",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
];

/// The same, later in the alphabet.
const SAME_TOO: [&str; 5] = ["Tan", "Tanh", "ThresholdedRelu", "Trilu", "ScatterND"];

/// Several inputs, broadcast.
const ARITHMETIC: [&str; 14] = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Min",
    "Max",
    "Mean",
    "Sum",
    "Mod",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "BitShift",
];

/// Two inputs, broadcast, to truth.
const COMPARISON: [&str; 8] = ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor"];

/// First version in which inputs are broadcast by the present rules.
const BROADCASTS: i64 = 7;

pub(super) fn elementwise(step: &Step<'_>) -> Option<Vec<TensorType>> {
    let operator = step.node.op_type();
    let places = 0..step.node.input.len();
    if SAME.contains(&operator) || SAME_TOO.contains(&operator) {
        return Some(vec![step.like_first()]);
    }
    let made = match operator {
        "Dropout" => {
            return Some(vec![
                step.like_first(),
                step.shaped_like_first(if step.opset < 10 { ElementType::Undefined } else { ElementType::Bool }),
            ]);
        }
        "IsNaN" | "IsInf" => step.shaped_like_first(ElementType::Bool),
        "Where" => TensorType { element: step.element(1), shape: all(step, 0..3) },
        _ if ARITHMETIC.contains(&operator) => {
            let shape = if step.opset < BROADCASTS { None } else { all(step, places) };
            TensorType { element: step.element(0), shape }
        }
        _ if COMPARISON.contains(&operator) => {
            let shape = if step.opset < BROADCASTS { None } else { all(step, places) };
            TensorType { element: ElementType::Bool, shape }
        }
        _ => return None,
    };
    Some(vec![made])
}

/// The shape of all inputs together.
fn all(step: &Step<'_>, places: std::ops::Range<usize>) -> Option<Vec<Dim>> {
    let mut shape = Vec::new();
    for place in places {
        shape = broadcast(&shape, step.shape(place)?)?;
    }
    Some(shape)
}

/// The shape that two shapes have together; `None` when they do not fit.
#[must_use]
pub fn broadcast(one: &[Dim], other: &[Dim]) -> Option<Vec<Dim>> {
    let rank = one.len().max(other.len());
    let at = |shape: &[Dim], axis: usize| {
        (axis + shape.len()).checked_sub(rank).and_then(|axis| shape.get(axis).cloned()).unwrap_or(Dim::Known(1))
    };
    (0..rank)
        .map(|axis| match (at(one, axis), at(other, axis)) {
            (one, other) if one == other => Some(one),
            (Dim::Known(1), dim) | (dim, Dim::Known(1)) => Some(dim),
            (Dim::Known(_), Dim::Known(_)) => None,
            // Any other number forces the unknown one to 1 or the same.
            (size @ Dim::Known(_), _) | (_, size @ Dim::Known(_)) => Some(size),
            _ => Some(Dim::Unknown),
        })
        .collect()
}
