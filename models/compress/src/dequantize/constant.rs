//! Computes what dequantizes a constant: `DequantizeLinear`, `Cast` from integers, `Sub` and `Mul` behind it.

use onnx_graph::proto::{NodeProto, TensorProto};
use onnx_graph::{Attributes, ElementType, Values};

use super::Pass;
use crate::CompressError;

/// The f32 tensor that the node makes of constants; `None` when it does something else.
pub(super) fn folded(node: &NodeProto, pass: &Pass<'_>) -> Result<Option<TensorProto>, CompressError> {
    let Some(first) = node.input_at(0) else { return Ok(None) };
    match node.op_type() {
        "DequantizeLinear" => {
            let Some(codes) = pass.graph.initializer(first) else { return Ok(None) };
            dequantized(node, codes, pass)
        }
        "Cast" if node.attr_int("to") == Some(ElementType::Float as i64) => {
            let Some(codes) = pass.graph.initializer(first).filter(|tensor| is_narrow(tensor)) else { return Ok(None) };
            let values: Vec<f32> = codes.integers()?.into_iter().map(float).collect();
            Ok(Some(TensorProto::of_floats(first, &codes.shape()?, &values)))
        }
        "Mul" | "Sub" => scaled(node, pass),
        _ => Ok(None),
    }
}

fn is_narrow(tensor: &TensorProto) -> bool {
    matches!(tensor.element_type(), ElementType::Int8 | ElementType::Uint8)
}

#[expect(clippy::cast_precision_loss, reason = "codes have 8 bits, and biases of 32 bits are rounded as engines do")]
fn float(code: i64) -> f32 {
    code as f32
}

/// `Mul` or `Sub` of what a `Cast` made and a constant.
fn scaled(node: &NodeProto, pass: &Pass<'_>) -> Result<Option<TensorProto>, CompressError> {
    let (Some(first), Some(second)) = (node.input_at(0), node.input_at(1)) else { return Ok(None) };
    let find = |name: &str| pass.folded.get(name).or_else(|| pass.graph.initializer(name));
    let begun = pass.folded.contains_key(first) || pass.folded.contains_key(second);
    let (Some(a), Some(b)) = (find(first), find(second)) else { return Ok(None) };
    let floats = |tensor: &TensorProto| tensor.element_type() == ElementType::Float;
    if !begun || !floats(a) || !floats(b) {
        return Ok(None);
    }
    let combine: fn(f32, f32) -> f32 = if node.op_type() == "Mul" { |a, b| a * b } else { |a, b| a - b };
    let (shape, other) = (a.shape()?, b.shape()?);
    if other.iter().product::<usize>() > shape.iter().product::<usize>() {
        return Ok(None);
    }
    let values = broadcast(&a.floats()?, &shape, &b.floats()?, &other, combine);
    Ok(values.map(|values| TensorProto::of_floats(first, &shape, &values)))
}

/// Combines two tensors of which the second stretches to the shape of the first; `None` when it does not.
fn broadcast(a: &[f32], shape: &[usize], b: &[f32], other: &[usize], combine: fn(f32, f32) -> f32) -> Option<Vec<f32>> {
    let missing = shape.len().checked_sub(other.len())?;
    // How far the second moves when the first moves by one along each axis.
    let mut strides = vec![0; shape.len()];
    let mut stride = 1;
    for axis in (0..other.len()).rev() {
        match other[axis] {
            1 => {}
            size if size == shape[missing + axis] => strides[missing + axis] = stride,
            _ => return None,
        }
        stride *= other[axis];
    }
    let mut place = vec![0; shape.len()];
    let mut at = 0;
    let mut values = Vec::with_capacity(a.len());
    for &value in a {
        values.push(combine(value, *b.get(at)?));
        for axis in (0..shape.len()).rev() {
            place[axis] += 1;
            at += strides[axis];
            if place[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            place[axis] = 0;
        }
    }
    Some(values)
}

/// Returns what `DequantizeLinear` makes of these codes: `None` when its scale is no constant or its codes have four bits.
pub(super) fn dequantized(
    node: &NodeProto,
    codes: &TensorProto,
    pass: &Pass<'_>,
) -> Result<Option<TensorProto>, CompressError> {
    let whole = matches!(codes.element_type(), ElementType::Int8 | ElementType::Uint8 | ElementType::Int32);
    let scale = node.input_at(1).and_then(|name| pass.graph.initializer(name));
    let Some(scale) = scale.filter(|scale| whole && scale.element_type() == ElementType::Float) else {
        return Ok(None);
    };
    let points = match node.input_at(2) {
        None => None,
        Some(name) => match pass.graph.initializer(name) {
            Some(points) => Some(points.integers()?),
            None => return Ok(None),
        },
    };
    let (shape, scales) = (codes.shape()?, scale.floats()?);
    let axis = node.attr_int("axis").unwrap_or(1);
    let axis = usize::try_from(if axis < 0 { axis + codes.dims.len() as i64 } else { axis }).unwrap_or(usize::MAX);
    let inner: usize = shape.iter().skip(axis.saturating_add(1)).product();
    let length = shape.get(axis).copied().unwrap_or(1);
    let per_axis = scales.len() == length && scale.dims.len() == 1;
    if node.attr_int("block_size").unwrap_or(0) != 0 || !(scales.len() == 1 || per_axis) {
        return Ok(None);
    }
    let channel = |at: usize| if scales.len() == 1 { 0 } else { at / inner.max(1) % length.max(1) };
    let point = |at: usize| points.as_ref().and_then(|points| points.get(channel(at))).copied().unwrap_or(0);
    let values: Vec<f32> = codes
        .integers()?
        .into_iter()
        .enumerate()
        .map(|(at, code)| float(code.saturating_sub(point(at))) * scales.get(channel(at)).copied().unwrap_or(1.0))
        .collect();
    Ok(Some(TensorProto::of_floats(codes.name(), &shape, &values)))
}
