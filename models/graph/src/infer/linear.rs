//! Products of matrices.

use super::{Dim, Step, TensorType, broadcast};
use crate::attribute::Attributes;
use crate::tensor::ElementType;

pub(super) fn infer(step: &Step<'_>) -> Option<Vec<TensorType>> {
    let made = match step.node.op_type() {
        "MatMul" => TensorType { element: step.element(0), shape: product(step, 0, 1) },
        "MatMulInteger" => TensorType { element: ElementType::Int32, shape: product(step, 0, 1) },
        "QLinearMatMul" => TensorType { element: step.element(7), shape: product(step, 0, 3) },
        "Gemm" => TensorType { element: step.element(0), shape: gemm(step) },
        "Einsum" => TensorType { element: step.element(0), shape: einsum(step) },
        _ => return None,
    };
    Some(vec![made])
}

pub(super) fn microsoft(step: &Step<'_>) -> Option<Vec<TensorType>> {
    let made = match step.node.op_type() {
        "MatMulNBits" => {
            let shape = step.shape(0).filter(|shape| !shape.is_empty()).map(|shape| {
                let mut shape = shape.to_vec();
                shape.pop();
                shape.push(step.int("N").map_or(Dim::Unknown, Dim::Known));
                shape
            });
            TensorType { element: step.element(0), shape }
        }
        "DynamicQuantizeMatMul" => TensorType { element: ElementType::Float, shape: product(step, 0, 1) },
        "MatMulIntegerToFloat" => TensorType { element: step.element(2), shape: product(step, 0, 1) },
        "Gelu"
        | "FastGelu"
        | "QuickGelu"
        | "BiasGelu"
        | "SkipLayerNormalization"
        | "SkipSimplifiedLayerNormalization" => step.like_first(),
        "FusedConv" => return super::windows::conv(step, 0, 1).map(|made| vec![made]),
        "QLinearAdd" | "QLinearMul" => {
            let shape = step.shape(0).zip(step.shape(3)).and_then(|(one, other)| broadcast(one, other));
            TensorType { element: step.element(0), shape }
        }
        "QuantizeLinear" => step.shaped_like_first(step.element(2)),
        "DequantizeLinear" => step.shaped_like_first(step.element(1)),
        _ => return None,
    };
    Some(vec![made])
}

/// The shape of a product by the rules of NumPy's `matmul`.
fn product(step: &Step<'_>, one: usize, other: usize) -> Option<Vec<Dim>> {
    let (one, other) = (step.shape(one)?, step.shape(other)?);
    let (rows, one_lead) = match one {
        [] => return None,
        [_inner] => (None, &[][..]),
        [lead @ .., rows, _inner] => (Some(rows), lead),
    };
    let (columns, other_lead) = match other {
        [] => return None,
        [_inner] => (None, &[][..]),
        [lead @ .., _inner, columns] => (Some(columns), lead),
    };
    let mut shape = broadcast(one_lead, other_lead)?;
    shape.extend(rows.into_iter().chain(columns).cloned());
    Some(shape)
}

fn gemm(step: &Step<'_>) -> Option<Vec<Dim>> {
    let side = |place: usize, name: &str, axis: usize| {
        let shape = step.shape(place).filter(|shape| shape.len() == 2)?;
        let is_turned = step.int(name).unwrap_or(0) != 0;
        shape.get(if is_turned { 1 - axis } else { axis }).cloned()
    };
    Some(vec![side(0, "transA", 0).unwrap_or(Dim::Unknown), side(1, "transB", 1).unwrap_or(Dim::Unknown)])
}

/// The explicit form without an ellipsis, `ab,bc->ac`; others stay unknown.
fn einsum(step: &Step<'_>) -> Option<Vec<Dim>> {
    let equation: String = step.node.attr_str("equation")?.chars().filter(|letter| !letter.is_whitespace()).collect();
    let (inputs, output) = equation.split_once("->").filter(|_| !equation.contains('.'))?;
    let mut sizes = std::collections::HashMap::new();
    for (place, letters) in inputs.split(',').enumerate() {
        let shape = step.shape(place)?;
        if letters.chars().count() != shape.len() {
            return None;
        }
        for (letter, dim) in letters.chars().zip(shape) {
            let known: &mut Dim = sizes.entry(letter).or_insert(Dim::Unknown);
            // A 1 may be broadcast, so that any other number tells more.
            if matches!(known, Dim::Unknown | Dim::Known(1)) || (dim.known().is_some_and(|size| size != 1)) {
                *known = dim.clone();
            }
        }
    }
    output.chars().map(|letter| sizes.get(&letter).cloned()).collect()
}
