//! ImageScaler and Crop: ONNX Runtime's own operators of domain `ai.onnx`, in models of CoreML and WinML before operator set 10.

use crate::error::OpError;
use crate::ir::Node;
use crate::lower::{KernelBuilder, Lowering, Params, Repr, element_groups};
use crate::ops::elementwise::same_float;
use crate::ops::movement::size;
use crate::ops::rule::Rule;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this file.
pub(super) const RULES: &[Rule] =
    &[Rule::device("ImageScaler", infer_scaler, lower_scaler), Rule::device("Crop", infer_crop, lower_crop)];

fn infer_scaler(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let bias = node.attributes.floats("bias")?.unwrap_or_default();
    match inputs.at(0)?.shape[..] {
        [_, channels, _, _] if channels == bias.len() => same_float(node, inputs),
        ref shape => Err(OpError::invalid(format!("{} biases for an image of shape {shape:?}", bias.len()))),
    }
}

fn lower_scaler(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let bias = node.attributes.floats("bias")?.unwrap_or_default();
    let Some(id) = node.output(0) else { return Ok(()) };
    let bias = cx.packed_weight(id, "bias", || Ok(bias.iter().map(|bias| bias.to_bits()).collect()))?;
    let kernel = KernelBuilder::new("image_scaler")
        .read("x", x.repr)
        .read("bias", Repr::F32)
        .text(
            "fn element(i: u32) -> f32 {
    return load_x(i) * bitcast<f32>(param.scale) + load_bias(i / param.inner % param.channels);
}",
        )
        .element(y.repr);
    let elements = y.elements();
    let inner = x.shape[2..].iter().product();
    let numbers = Params::sizes([("elements", elements), ("inner", inner), ("channels", x.shape[1])])?;
    let numbers = numbers.float("scale", node.attributes.float("scale", 1.0)?);
    cx.dispatch(kernel, vec![x.arg, bias, y.arg], numbers, element_groups(elements, y.repr), elements as u64);
    Ok(())
}

/// First row and column that stay, and the shape of what stays.
fn crop(node: &Node, x: &[usize]) -> Result<([usize; 2], Vec<usize>), OpError> {
    let wrong = || OpError::invalid(format!("its border or scale does not fit an image of shape {x:?}"));
    let (&[batch, channels, height, width], Some(&[left, top, right, bottom])) = (x, node.attributes.ints("border")?)
    else {
        return Err(wrong());
    };
    let (left, top) = (size(left)?, size(top)?);
    // A size of its own takes the place of the far borders.
    let (rows, columns) = match node.attributes.ints("scale")? {
        Some(&[rows, columns]) => (size(rows)?, size(columns)?),
        _ => {
            let rows = height.checked_sub(top).and_then(|rest| rest.checked_sub(size(bottom).ok()?));
            let columns = width.checked_sub(left).and_then(|rest| rest.checked_sub(size(right).ok()?));
            (rows.ok_or_else(wrong)?, columns.ok_or_else(wrong)?)
        }
    };
    let inside = |first: usize, count: usize, most: usize| first.checked_add(count).is_some_and(|end| end <= most);
    match inside(top, rows, height) && inside(left, columns, width) {
        true => Ok(([top, left], vec![batch, channels, rows, columns])),
        false => Err(wrong()),
    }
}

fn infer_crop(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    Ok(vec![ValueInfo::new(x.dtype, crop(node, &x.shape)?.1)])
}

fn lower_crop(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let ([top, left], _shape) = crop(node, &x.shape)?;
    let kernel = KernelBuilder::new("crop")
        .read("x", x.repr)
        .text(
            "fn element(i: u32) -> f32 {
    let rows = param.rows; let columns = param.columns;
    let image = i / (rows * columns);
    let row = i / columns % rows + param.top; let column = i % columns + param.left;
    return load_x((image * param.from_rows + row) * param.from_columns + column);
}",
        )
        .element(y.repr);
    let elements = y.elements();
    let numbers = Params::sizes([
        ("elements", elements),
        ("rows", y.shape[2]),
        ("columns", y.shape[3]),
        ("from_rows", x.shape[2]),
        ("from_columns", x.shape[3]),
        ("top", top),
        ("left", left),
    ])?;
    cx.dispatch(kernel, vec![x.arg, y.arg], numbers, element_groups(elements, y.repr), elements as u64);
    Ok(())
}
