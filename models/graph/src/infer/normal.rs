//! Normalization, quantization, recurrence, reduction.

use super::{Dim, Step, TensorType, axis_of};
use crate::attribute::Attributes;
use crate::tensor::ElementType;

/// Reductions that take their axes as input only since version 18; `ReduceSum` does since 13.
const REDUCTIONS: [&str; 9] = [
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
];

pub(super) fn infer(step: &Step<'_>) -> Option<Vec<TensorType>> {
    let operator = step.node.op_type();
    Some(match operator {
        "BatchNormalization"
        | "InstanceNormalization"
        | "GroupNormalization"
        | "LpNormalization"
        | "RMSNormalization"
        | "RotaryEmbedding" => {
            vec![step.like_first()]
        }
        "LayerNormalization" => vec![step.like_first()],
        "QuantizeLinear" => vec![step.shaped_like_first(quantized(step))],
        "DequantizeLinear" => vec![step.shaped_like_first(output_dtype(step).unwrap_or(step.element(1)))],
        "DynamicQuantizeLinear" => {
            let scalar = |element| TensorType::new(element, Vec::new());
            vec![step.shaped_like_first(ElementType::Uint8), scalar(ElementType::Float), scalar(ElementType::Uint8)]
        }
        "ReduceSum" => vec![step.typed_like_first(reduced(step, 13))],
        _ if REDUCTIONS.contains(&operator) => vec![step.typed_like_first(reduced(step, 18))],
        "ArgMax" | "ArgMin" => {
            let shape = step.shape(0).and_then(|shape| {
                let axis = step.axis(0, shape.len())?;
                Some(without(shape, &[axis], step.int("keepdims").unwrap_or(1) != 0))
            });
            vec![TensorType { element: ElementType::Int64, shape }]
        }
        "TopK" => {
            let shape = step.shape(0).and_then(|shape| {
                let axis = step.axis(-1, shape.len())?;
                let count = if step.opset < 10 {
                    step.int("k").map(Dim::Known)
                } else {
                    step.content(1).and_then(|k| k.first().cloned())
                };
                let mut shape = shape.to_vec();
                *shape.get_mut(axis)? = count.unwrap_or(Dim::Unknown);
                Some(shape)
            });
            vec![step.typed_like_first(shape.clone()), TensorType { element: ElementType::Int64, shape }]
        }
        "LSTM" | "GRU" | "RNN" => recurrent(step)?,
        _ => return None,
    })
}

fn output_dtype(step: &Step<'_>) -> Option<ElementType> {
    let number = step.int("output_dtype").filter(|&number| number != 0)?;
    ElementType::try_from(i32::try_from(number).ok()?).ok()
}

fn quantized(step: &Step<'_>) -> ElementType {
    match step.node.input_at(2) {
        Some(_) => step.element(2),
        None => output_dtype(step).unwrap_or(ElementType::Uint8),
    }
}

fn without(shape: &[Dim], axes: &[usize], keeps: bool) -> Vec<Dim> {
    let dims = shape.iter().enumerate().filter_map(|(axis, dim)| match (axes.contains(&axis), keeps) {
        (false, _) => Some(dim.clone()),
        (true, true) => Some(Dim::Known(1)),
        (true, false) => None,
    });
    dims.collect()
}

fn reduced(step: &Step<'_>, axes_are_input: i64) -> Option<Vec<Dim>> {
    let shape = step.shape(0)?;
    let keeps = step.int("keepdims").unwrap_or(1) != 0;
    let axes = step.list("axes", 1, axes_are_input);
    let axes = match axes {
        // Which is not known; that they are kept is.
        None => return keeps.then(|| vec![Dim::Unknown; shape.len()]),
        Some(axes) => axes.unwrap_or_default(),
    };
    if axes.is_empty() {
        let does_nothing = step.int("noop_with_empty_axes").unwrap_or(0) != 0;
        let all: Vec<usize> = (0..shape.len()).collect();
        return Some(if does_nothing { shape.to_vec() } else { without(shape, &all, keeps) });
    }
    let axes = axes.iter().map(|&axis| axis_of(axis, shape.len())).collect::<Option<Vec<_>>>()?;
    Some(without(shape, &axes, keeps))
}

/// With `layout` 0: sequence, batch, input; makes sequence, directions, batch, hidden, and the last states.
fn recurrent(step: &Step<'_>) -> Option<Vec<TensorType>> {
    let [sequence, batch, _input] = step.shape(0)? else { return None };
    let hidden = Dim::Known(step.int("hidden_size")?);
    let directions = Dim::Known(if step.node.attr_str("direction") == Some("bidirectional") { 2 } else { 1 });
    let is_batch_first = step.int("layout").unwrap_or(0) != 0;
    let element = step.element(0);
    let (whole, last) = if is_batch_first {
        // Sequence and batch change places in the input too.
        let (batch, sequence) = (sequence, batch);
        (
            vec![batch.clone(), sequence.clone(), directions.clone(), hidden.clone()],
            vec![batch.clone(), directions, hidden],
        )
    } else {
        (
            vec![sequence.clone(), directions.clone(), batch.clone(), hidden.clone()],
            vec![directions, batch.clone(), hidden],
        )
    };
    let last = TensorType::new(element, last);
    Some(vec![TensorType::new(element, whole), last.clone(), last])
}
