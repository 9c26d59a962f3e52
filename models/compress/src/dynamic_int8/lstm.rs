//! LSTM with 8-bit weights: `com.microsoft.DynamicQuantizeLSTM`.
//!
//! Its weights stand as `[directions, inputs, 4·hidden]`, turned against ONNX's own; scales and zero points are one per
//! direction, or one per gate output (`[directions, 4·hidden]`).

use onnx_graph::proto::{NodeProto, TensorProto};
use onnx_graph::{Attributes, Graph, Names, Values};

use super::Options;
use super::weight::{Codes, quantized};
use crate::CompressError;
use crate::constants::Constants;
use crate::linear::transpose;

/// Names of a packed weight's tensors.
struct Packed {
    codes: String,
    scales: String,
    zero_points: String,
}

/// Returns what takes the place of an LSTM; the inner error is the reason why it must stay.
///
/// # Errors
/// When a weight's bytes do not fit its dimensions.
pub(super) fn replaced(
    node: &NodeProto,
    constants: Constants<'_>,
    options: &Options,
    graph: &mut Graph,
    names: &mut Names,
) -> Result<Result<NodeProto, &'static str>, CompressError> {
    let weight = |at: usize| node.input_at(at).and_then(|name| constants.float32(name));
    let (Some(inputs), Some(hidden)) = (weight(1), weight(2)) else {
        return Ok(Err("its weights are no f32 constants"));
    };
    if node.attr_int("layout").unwrap_or(0) != 0 {
        return Ok(Err("the quantized operator knows no layout with the batch first"));
    }
    let kind = Codes::of(options);
    let (Some(inputs), Some(hidden)) =
        (pack(inputs, kind, options, graph, names)?, pack(hidden, kind, options, graph, names)?)
    else {
        return Ok(Err("its weights are not finite matrices, one for each direction"));
    };
    let other = |at: usize| node.input_at(at).unwrap_or("");
    let taken = [
        other(0),
        &inputs.codes,
        &hidden.codes,
        other(3),
        other(4),
        other(5),
        other(6),
        other(7),
        &inputs.scales,
        &inputs.zero_points,
        &hidden.scales,
        &hidden.zero_points,
    ];
    let outputs: Vec<&str> = node.output.iter().map(String::as_str).collect();
    let mut made = NodeProto::new("DynamicQuantizeLSTM", node.name(), &taken, &outputs).in_domain("com.microsoft");
    made.attribute = node.attribute.iter().filter(|attribute| attribute.name() != "layout").cloned().collect();
    Ok(Ok(made))
}

fn pack(
    tensor: &TensorProto,
    kind: Codes,
    options: &Options,
    graph: &mut Graph,
    names: &mut Names,
) -> Result<Option<Packed>, CompressError> {
    let (shape, values) = (tensor.shape()?, tensor.floats()?);
    let &[directions, rows, columns] = shape.as_slice() else { return Ok(None) };
    if values.is_empty() || !values.iter().all(|value| value.is_finite()) {
        return Ok(None);
    }
    let channels = if options.per_channel { rows } else { 1 };
    let (mut codes, mut scales, mut zero_points) = (Vec::new(), Vec::new(), Vec::new());
    for direction in values.chunks_exact(rows * columns) {
        let made = quantized(&transpose(direction, rows, columns), channels, kind);
        codes.extend(made.codes);
        scales.extend(made.scales);
        zero_points.extend(made.zero_points);
    }
    let mut fresh = |what: &str| names.fresh(&format!("{}_{what}", tensor.name()));
    let packed = Packed { codes: fresh("q8"), scales: fresh("scales"), zero_points: fresh("points") };
    let grids: &[usize] = if options.per_channel { &[directions, rows] } else { &[directions] };
    graph.add_initializer(TensorProto::of_raw(&packed.codes, kind.element, &[directions, columns, rows], codes));
    graph.add_initializer(TensorProto::of_floats(&packed.scales, grids, &scales));
    graph.add_initializer(TensorProto::of_raw(&packed.zero_points, kind.element, grids, zero_points));
    Ok(Some(packed))
}
