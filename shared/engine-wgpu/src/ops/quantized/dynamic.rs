//! `DynamicQuantizeLinear`: scale and zero point from the data, then quantization to `uint8`.
//!
//! Two passes over the data: workgroups find the range of their share, one more reduces those to scale and zero point.

use crate::error::OpError;
use crate::ir::{ElementType, Node};
use crate::lower::{Arg, Effort, KernelBuilder, Lowering, Operand, Params, Repr, THREADS, element_groups};
use crate::ops::rule::Rule;
use crate::shape::param;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] = &[Rule::device("DynamicQuantizeLinear", infer, lower)];

/// Workgroups of the first pass: enough to fill a small GPU, few enough for one workgroup to reduce.
const SHARES_MAX: usize = 64;

/// Elements that make another workgroup worth it.
const SHARE_MIN: usize = 4096;

fn infer(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    if x.dtype != ElementType::F32 {
        return Err(OpError::invalid(format!("it quantizes {}", x.dtype)));
    }
    Ok(vec![
        ValueInfo::new(ElementType::U8, x.shape.clone()),
        ValueInfo::new(ElementType::F32, Vec::new()),
        ValueInfo::new(ElementType::U8, Vec::new()),
    ])
}

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let x = cx.input(node, 0)?;
    // Whichever output nobody wants still takes part in computing the others.
    let place = |cx: &mut Lowering<'_>, at: usize, words: usize| match node.output(at) {
        Some(id) => Arg::Value(id),
        None => cx.scratch(words),
    };
    let scale = place(cx, 1, 1);
    let point = place(cx, 2, 1);
    parameters(cx, &x, scale, point)?;
    if let Ok(y) = cx.output(node, 0) {
        quantize(cx, &x, scale, point, y.arg)?;
    }
    Ok(())
}

/// Computes scale (`f32`) and zero point (one `u8` in a word) of a float tensor.
pub(in crate::ops) fn parameters(cx: &mut Lowering<'_>, x: &Operand, scale: Arg, point: Arg) -> Result<(), OpError> {
    let elements = x.elements();
    let shares = elements.div_ceil(SHARE_MIN).clamp(1, SHARES_MAX);
    let ranges = cx.scratch(shares * 2);
    let share = elements.div_ceil(shares);
    let kernel = KernelBuilder::new("range")
        .read("x", x.repr)
        .raw("ranges", "array<f32>")
        .text(&reduction("load_x(i)", "load_x(i)", "ranges[2u * group.x] = low; ranges[2u * group.x + 1u] = high;"))
        .finish();
    let groups = [param(shares)?, 1, 1];
    let effort = Effort::looping(elements as u64, share.div_ceil(THREADS as usize));
    cx.dispatch(
        kernel,
        vec![x.arg, ranges],
        Params::sizes([("elements", elements), ("share", share)])?,
        groups,
        effort,
    );
    // ONNX: the range always holds zero; a range of nothing but zero has scale 1.
    let finish = "let width = high - low; let s = select(width / 255.0, 1.0, width == 0.0);
        scale[0] = s; point[0] = u32(round(clamp(0.0 - low / s, 0.0, 255.0)));";
    let kernel = KernelBuilder::new("range_to_scale")
        .raw("ranges", "array<f32>")
        .raw("scale", "array<f32>")
        .raw("point", "array<u32>")
        .text(&reduction("ranges[2u * i]", "ranges[2u * i + 1u]", finish))
        .finish();
    let params = Params::sizes([("elements", shares), ("share", shares)])?;
    let effort = Effort::looping(shares as u64, shares.div_ceil(THREADS as usize));
    cx.dispatch(kernel, vec![ranges, scale, point], params, [1, 1, 1], effort);
    Ok(())
}

/// Quantizes with scale and zero point that lie on the device.
pub(super) fn quantize(cx: &mut Lowering<'_>, x: &Operand, scale: Arg, point: Arg, y: Arg) -> Result<(), OpError> {
    let elements = x.elements();
    let kernel = KernelBuilder::new("dynamic_quantize")
        .read("x", x.repr)
        .read("scale", Repr::F32)
        .read("point", Repr::U8x4)
        .text(
            "fn element(i: u32) -> u32 {
    return u32(clamp(round(load_x(i) / load_scale(0u)) + f32(load_point(0u)), 0.0, 255.0));
}",
        )
        .element(Repr::U8x4);
    let groups = element_groups(elements, Repr::U8x4);
    cx.dispatch(
        kernel,
        vec![x.arg, scale, point, y],
        Params::sizes([("elements", elements)])?,
        groups,
        elements as u64,
    );
    Ok(())
}

/// One workgroup's smallest and largest value, zero included, over its share of `param.elements`.
fn reduction(low: &str, high: &str, finish: &str) -> String {
    format!(
        "var<workgroup> lows: array<f32, {THREADS}>;
var<workgroup> highs: array<f32, {THREADS}>;
@compute @workgroup_size({THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    var low = 0.0; var high = 0.0;
    let begin = group.x * param.share;
    let end = min(begin + param.share, param.elements);
    for (var i = begin + lane; i < end; i += {THREADS}u) {{ low = min(low, {low}); high = max(high, {high}); }}
    lows[lane] = low; highs[lane] = high;
    workgroupBarrier();
    for (var half = {THREADS}u / 2u; half > 0u; half = half / 2u) {{
        if (lane < half) {{
            lows[lane] = min(lows[lane], lows[lane + half]);
            highs[lane] = max(highs[lane], highs[lane + half]);
        }}
        workgroupBarrier();
    }}
    if (lane == 0u) {{ low = lows[0]; high = highs[0]; {finish} }}
}}"
    )
}
