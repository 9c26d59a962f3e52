//! DynamicQuantizeLSTM: an LSTM with 8-bit weights, whose inputs and hidden states are rounded to 8 bits by their own range.
//!
//! Weights become floats once; a rounded number is the float it stands for, so that products are those of the integers up to the rounding
//! of a sum of floats.

use super::{Layer, Sources, Tensors, lower_layer};
use crate::error::OpError;
use crate::ir::{ElementType, Literal, Node, ValueId};
use crate::lower::{Arg, Effort, KernelBuilder, Lowering, Operand, Params, Repr, THREADS, element_groups};
use crate::ops::quantized::dynamic;
use crate::shape::param;
use crate::value_info::{Inputs, ValueInfo};

/// Places of weights, scales and zero points: of the inputs, and of the hidden states.
const WEIGHTS: [[usize; 3]; 2] = [[1, 8, 9], [2, 10, 11]];

/// Inputs that an LSTM has too.
const INPUTS: usize = 8;

/// The LSTM that the node is, but for its weights.
fn as_lstm(node: &Node) -> Node {
    let mut lstm = node.clone();
    (lstm.domain, lstm.op, lstm.opset) = (String::new(), "LSTM".into(), 14);
    lstm.inputs.truncate(INPUTS);
    lstm
}

/// Reads the layer: its weights are turned against ONNX's own.
fn layer(lstm: &Node, inputs: Inputs<'_>) -> Result<Layer, OpError> {
    let mut turned = Vec::with_capacity(2);
    for [at, scale, point] in WEIGHTS {
        let info = inputs.at(at)?;
        let &[directions, rows, columns] = info.shape.as_slice() else {
            return Err(OpError::invalid(format!("weights of shape {:?}", info.shape)));
        };
        if !matches!(info.dtype, ElementType::I8 | ElementType::U8) {
            return Err(OpError::invalid(format!("its weights are {}", info.dtype)));
        }
        for at in [scale, point] {
            let grid = &inputs.at(at)?.shape;
            if *grid != [directions] && *grid != [directions, columns] {
                return Err(OpError::invalid(format!("scales or zero points of shape {grid:?}")));
            }
        }
        turned.push(ValueInfo::new(ElementType::F32, vec![directions, columns, rows]));
    }
    let mut infos: Vec<Option<&ValueInfo>> = inputs.0.iter().copied().take(INPUTS).collect();
    for ([at, _scale, _point], info) in WEIGHTS.into_iter().zip(&turned) {
        infos[at] = Some(info);
    }
    Layer::of(lstm, Inputs(&infos))
}

pub(super) fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let lstm = as_lstm(node);
    Ok(layer(&lstm, inputs)?.outputs(inputs.at(0)?.dtype))
}

pub(super) fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let lstm = as_lstm(node);
    let infos = cx.input_infos(node);
    let layer = layer(&lstm, Inputs(&infos))?;
    let x = cx.input(node, 0)?;
    let [w, recurrent] = [weights(node, cx, WEIGHTS[0])?, weights(node, cx, WEIGHTS[1])?];
    let x = rounded(cx, &x)?;
    let w = Operand { arg: w, repr: Repr::F32, shape: Vec::new() };
    let sources = Sources { x, w, constant: None, recurrent, rounds_states: true };
    lower_layer(&lstm, cx, &layer, sources)
}

fn constant<'a>(node: &Node, cx: &Lowering<'a>, at: usize) -> Result<(ValueId, &'a Literal), OpError> {
    let id = node.input(at).ok_or_else(|| OpError::invalid(format!("input {at} is missing")))?;
    cx.constant(id).map(|literal| (id, literal)).ok_or(OpError::DataDependent(at))
}

/// Uploads weights as floats in the order of an LSTM's own: `[directions, gates, inputs]`.
fn weights(node: &Node, cx: &mut Lowering<'_>, [at, scale, point]: [usize; 3]) -> Result<Arg, OpError> {
    let (id, codes) = constant(node, cx, at)?;
    let (scales, points) = (constant(node, cx, scale)?.1.to_f32s(), constant(node, cx, point)?.1.to_f32s());
    let &[directions, rows, columns] = codes.shape() else {
        return Err(OpError::invalid("its weights are no matrices"));
    };
    cx.packed_weight(id, "lstm_floats", || {
        let values = codes.to_f32s();
        // One number for a direction, or one for each of its columns.
        let of = |grid: &[f32], direction: usize, column: usize| match grid.len() == directions {
            true => grid[direction],
            false => grid[direction * columns + column],
        };
        let mut words = Vec::with_capacity(values.len());
        for direction in 0..directions {
            for column in 0..columns {
                let (scale, point) = (of(&scales, direction, column), of(&points, direction, column));
                let value = |row: usize| (values[(direction * rows + row) * columns + column] - point) * scale;
                words.extend((0..rows).map(|row| value(row).to_bits()));
            }
        }
        Ok(words)
    })
}

/// WGSL that rounds `v` to 8 bits of scale `s` and zero point `p`, and gives the float that stands for.
const ROUNDED: &str = "(clamp(round(v / s) + p, 0.0, 255.0) - p) * s";

/// Launches the rounding of a whole tensor by its own range.
fn rounded(cx: &mut Lowering<'_>, x: &Operand) -> Result<Operand, OpError> {
    let (scale, point, y) = (cx.scratch(1), cx.scratch(1), cx.scratch(x.elements()));
    dynamic::parameters(cx, x, scale, point)?;
    let text = format!(
        "fn element(i: u32) -> f32 {{
    let v = load_x(i); let s = load_scale(0u); let p = f32(load_point(0u));
    return {ROUNDED};
}}"
    );
    let kernel = KernelBuilder::new("dynamic_round")
        .read("x", x.repr)
        .read("scale", Repr::F32)
        .read("point", Repr::U8x4)
        .text(&text)
        .element(Repr::F32);
    let (groups, work) = (element_groups(x.elements(), Repr::F32), x.elements() as u64);
    cx.dispatch(kernel, vec![x.arg, scale, point, y], Params::sizes([("elements", x.elements())])?, groups, work);
    Ok(Operand { arg: y, ..x.clone() })
}

/// WGSL of `fn rounded(v, d)`: a hidden state of direction `d` as the product reads it; see [`range`].
pub(super) fn rounding_text() -> String {
    format!(
        "fn rounded(v: f32, d: u32) -> f32 {{
    let at = 2u * param.state + 2u * d;
    let s = cells[at]; let p = cells[at + 1u];
    return {ROUNDED};
}}\n"
    )
}

/// Launches the search for the range of each direction's hidden states; scale and zero point go behind the cell states.
pub(super) fn range(cx: &mut Lowering<'_>, layer: &Layer, tensors: &Tensors, from: usize) -> Result<(), OpError> {
    let state = layer.state()?;
    let each = state / layer.directions;
    let text = format!(
        "var<workgroup> lows: array<f32, {THREADS}>;
var<workgroup> highs: array<f32, {THREADS}>;
@compute @workgroup_size({THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let d = group.x;
    let first = param.old_state * param.state + d * param.each;
    var low = 0.0; var high = 0.0;
    for (var i = lane; i < param.each; i += {THREADS}u) {{ let v = states[first + i]; low = min(low, v); high = max(high, v); }}
    lows[lane] = low; highs[lane] = high;
    workgroupBarrier();
    for (var half = {THREADS}u / 2u; half > 0u; half = half / 2u) {{
        if (lane < half) {{
            lows[lane] = min(lows[lane], lows[lane + half]);
            highs[lane] = max(highs[lane], highs[lane + half]);
        }}
        workgroupBarrier();
    }}
    if (lane == 0u) {{
        let width = highs[0] - lows[0]; let s = select(width / 255.0, 1.0, width == 0.0);
        cells[2u * param.state + 2u * d] = s;
        cells[2u * param.state + 2u * d + 1u] = round(clamp(0.0 - lows[0] / s, 0.0, 255.0));
    }}
}}"
    );
    let kernel =
        KernelBuilder::new("rnn_range").raw("states", "array<f32>").raw("cells", "array<f32>").text(&text).finish();
    let numbers = Params::sizes([("state", state), ("each", each), ("old_state", from)])?;
    let groups = [param(layer.directions)?, 1, 1];
    let effort = Effort::looping(state as u64, each.div_ceil(THREADS as usize));
    cx.dispatch(kernel, vec![tensors.hidden, tensors.cell], numbers, groups, effort);
    Ok(())
}
