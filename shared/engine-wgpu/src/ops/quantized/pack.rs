//! Puts 8-bit matrices into the two layouts that the integer product reads: words along the summed dimension.
//!
//! *Rows*: each row of the left matrix padded to whole words. *Columns*: for each four values of the summed dimension one
//! word a column, columns padded to whole quads. Padding holds the zero point, so that it adds nothing. Constants are
//! packed on the host once per session.

use super::geometry::{Window, names};
use super::{Points, flip};
use crate::error::OpError;
use crate::ir::{Literal, ValueId};
use crate::lower::{
    Arg, Effort, GROUPS_MAX, KernelBuilder, Lowering, Operand, Params, Repr, THREADS, element_groups, linear_groups,
};

/// Values in a word.
pub(super) const LANES: usize = 4;

/// One operand of an integer product, as the kernel reads it.
#[derive(Debug, Clone)]
pub(super) struct Side {
    /// Words that hold it.
    pub(super) arg: Arg,
    /// True if its bytes are unsigned.
    pub(super) unsigned: bool,
    /// Zero points of the values.
    pub(super) points: Points,
}

/// Source of 8-bit values.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A value of the graph, perhaps a constant.
    Value(ValueId),
    /// Something that this node has made.
    Made(Operand),
}

impl Source {
    fn unsigned(&self, cx: &Lowering<'_>) -> bool {
        match self {
            Self::Value(id) => flip(cx.info(*id).dtype),
            Self::Made(operand) => operand.repr == Repr::U8x4,
        }
    }

    fn operand(&self, cx: &mut Lowering<'_>) -> Result<Operand, OpError> {
        match self {
            Self::Value(id) => cx.operand(*id),
            Self::Made(operand) => Ok(operand.clone()),
        }
    }

    /// The constant it is, if it is one.
    pub(super) fn constant<'a>(&self, cx: &Lowering<'a>) -> Option<(ValueId, &'a Literal)> {
        match self {
            Self::Value(id) => cx.constant(*id).map(|literal| (*id, literal)),
            Self::Made(_) => None,
        }
    }
}

/// Packs `rows` rows of `depth` values each.
///
/// # Errors
/// When sizes do not fit the device.
pub(super) fn rows(
    cx: &mut Lowering<'_>,
    source: &Source,
    (rows, depth): (usize, usize),
    points: Points,
) -> Result<Side, OpError> {
    let unsigned = source.unsigned(cx);
    if depth.is_multiple_of(LANES) {
        return Ok(Side { arg: source.operand(cx)?.arg, unsigned, points });
    }
    let words = depth.div_ceil(LANES);
    if let (Some((id, literal)), Points::Uniform(point)) = (source.constant(cx), &points) {
        let pad = point.to_le_bytes()[0];
        let arg = cx.packed_weight(id, &format!("rows of {depth} padded by {pad}"), || {
            let padded: Vec<u8> = (literal.bytes().chunks(depth))
                .flat_map(|row| row.iter().copied().chain(std::iter::repeat(pad)).take(words * LANES))
                .collect();
            Ok(crate::lower::pack_bytes(&padded))
        })?;
        return Ok(Side { arg, unsigned, points });
    }
    let x = source.operand(cx)?;
    let out = cx.scratch(rows * words);
    let mut numbers = Params::sizes([("elements", rows * words * LANES), ("row", words * LANES), ("depth", depth)])?;
    let mut args = vec![x.arg];
    let kernel = KernelBuilder::new("pack_rows").read("x", x.repr);
    let kernel = points.add_to(kernel, "x", rows, &mut args, &mut numbers)?;
    let wgsl = x.repr.wgsl();
    let kernel = kernel.text(&format!(
        "fn element(i: u32) -> {wgsl} {{
    let row = i / param.row; let k = i % param.row;
    if (k < param.depth) {{ return load_x(row * param.depth + k); }}
    return {wgsl}(x_point(row));
}}"
    ));
    args.push(out);
    let elements = rows * words * LANES;
    cx.dispatch(kernel.element(x.repr), args, numbers, element_groups(elements, x.repr), elements as u64);
    Ok(Side { arg: out, unsigned, points })
}

/// Packs `matrices` matrices of `depth` rows and `columns` columns.
///
/// # Errors
/// When sizes do not fit the device.
pub(super) fn columns(
    cx: &mut Lowering<'_>,
    source: &Source,
    (matrices, depth, columns): (usize, usize, usize),
    points: Points,
) -> Result<Side, OpError> {
    let unsigned = source.unsigned(cx);
    let (words, padded) = (depth.div_ceil(LANES), columns.next_multiple_of(LANES));
    if let (Some((id, literal)), Points::Uniform(point)) = (source.constant(cx), &points) {
        let pad = point.to_le_bytes()[0];
        let shape = (matrices, depth, columns);
        let arg = cx.packed_weight(id, &format!("columns {shape:?} padded by {pad}"), || {
            Ok(columns_on_host(literal, shape, pad))
        })?;
        return Ok(Side { arg, unsigned, points });
    }
    let x = source.operand(cx)?;
    let out = cx.scratch(matrices * words * padded);
    let elements = matrices * words * padded * LANES;
    let mut numbers = Params::sizes([
        ("elements", elements),
        ("words", words),
        ("padded", padded),
        ("depth", depth),
        ("columns", columns),
    ])?;
    let mut args = vec![x.arg];
    let kernel = KernelBuilder::new("pack_columns").read("x", x.repr);
    let kernel = points.add_to(kernel, "x", columns, &mut args, &mut numbers)?;
    let wgsl = x.repr.wgsl();
    let kernel = kernel.text(&format!(
        "fn element(i: u32) -> {wgsl} {{
    let word = i / 4u; let column = word % param.padded; let rest = word / param.padded;
    let k = (rest % param.words) * 4u + i % 4u; let matrix = rest / param.words;
    if (k < param.depth && column < param.columns) {{ return load_x((matrix * param.depth + k) * param.columns + column); }}
    return {wgsl}(x_point(column));
}}"
    ));
    args.push(out);
    cx.dispatch(kernel.element(x.repr), args, numbers, element_groups(elements, x.repr), elements as u64);
    Ok(Side { arg: out, unsigned, points })
}

fn columns_on_host(literal: &Literal, (matrices, depth, columns): (usize, usize, usize), pad: u8) -> Vec<u32> {
    let bytes = literal.bytes();
    let (words, padded) = (depth.div_ceil(LANES), columns.next_multiple_of(LANES));
    let mut packed = Vec::with_capacity(matrices * words * padded);
    for matrix in 0..matrices {
        for word in 0..words {
            for column in 0..padded {
                let lane = |lane: usize| {
                    let k = word * LANES + lane;
                    let inside = k < depth && column < columns;
                    if inside { bytes[(matrix * depth + k) * columns + column] } else { pad }
                };
                packed.push(u32::from_le_bytes([lane(0), lane(1), lane(2), lane(3)]));
            }
        }
    }
    packed
}

/// Unfolds the windows of `images` images of `groups * channels` channels into columns: one a position, the summed
/// dimension running over channel and tap.
///
/// # Errors
/// When sizes do not fit the device.
pub(super) fn windows(
    cx: &mut Lowering<'_>,
    x: &Operand,
    (matrices, channels): (usize, usize),
    window: &Window,
    unsigned: bool,
    points: Points,
) -> Result<Side, OpError> {
    let depth = channels * window.taps();
    let (words, padded) = (depth.div_ceil(LANES), window.positions().next_multiple_of(LANES));
    let elements = matrices * words * padded * LANES;
    let out = cx.scratch(matrices * words * padded);
    let mut numbers = Params::sizes([
        ("elements", elements),
        ("words", words),
        ("padded", padded),
        ("depth", depth),
        ("positions", window.positions()),
        ("channels", channels),
    ])?;
    numbers.extend(window.params()?);
    let mut args = vec![x.arg];
    let kernel = KernelBuilder::new("unfold").read("x", x.repr);
    let kernel = points.add_to(kernel, "x", 1, &mut args, &mut numbers)?;
    let wgsl = x.repr.wgsl();
    let kernel = kernel.text(&names()).text(&format!(
        "fn element(i: u32) -> {wgsl} {{
    let word = i / 4u; let position = word % param.padded; let rest = word / param.padded;
    let k = (rest % param.words) * 4u + i % 4u; let matrix = rest / param.words;
    let outside = {wgsl}(x_point(0u));
    if (k >= param.depth || position >= param.positions) {{ return outside; }}
    var tap = k;
    let kw = tap % kernel_w(); tap = tap / kernel_w();
    let kh = tap % kernel_h(); tap = tap / kernel_h();
    let kd = tap % kernel_d(); let channel = tap / kernel_d();
    var at = position;
    let w = (at % output_w()) * stride_w() + kw * dilation_w() - pad_w(); at = at / output_w();
    let h = (at % output_h()) * stride_h() + kh * dilation_h() - pad_h(); at = at / output_h();
    let d = at * stride_d() + kd * dilation_d() - pad_d();
    // Left of the input is far right of it: unsigned numbers wrap.
    if (w >= input_w() || h >= input_h() || d >= input_d()) {{ return outside; }}
    return load_x((((matrix * param.channels + channel) * input_d() + d) * input_h() + h) * input_w() + w);
}}"
    ));
    args.push(out);
    cx.dispatch(kernel.element(x.repr), args, numbers, element_groups(elements, x.repr), elements as u64 * 4);
    Ok(Side { arg: out, unsigned, points })
}

/// Packs convolution weights as rows whose words hold four channels at one tap.
///
/// # Errors
/// Never; the pool asks for a result.
pub(super) fn rows_by_channels(
    cx: &mut Lowering<'_>,
    (id, literal): (ValueId, &Literal),
    (channels, taps): (usize, usize),
    point: i32,
) -> Result<Side, OpError> {
    let pad = point.to_le_bytes()[0];
    let arg = cx.packed_weight(id, &format!("rows by channels padded by {pad}"), || {
        let mut packed = Vec::with_capacity(literal.elements());
        for row in literal.bytes().chunks(channels * taps) {
            for first in (0..channels).step_by(LANES) {
                for tap in 0..taps {
                    let lanes = [0, 1, 2, 3].map(|lane| first + lane);
                    let byte = |channel| if channel < channels { row[channel * taps + tap] } else { pad };
                    packed.push(u32::from_le_bytes(lanes.map(byte)));
                }
            }
        }
        Ok(packed)
    })?;
    Ok(Side { arg, unsigned: flip(literal.dtype()), points: Points::Uniform(point) })
}

/// Unfolds windows into columns whose words hold four channels at one tap, for [`rows_by_channels`].
///
/// Two steps: four channels of a pixel come together in a word, then whole words move.
///
/// # Errors
/// When sizes do not fit the device.
pub(super) fn windows_by_channels(
    cx: &mut Lowering<'_>,
    x: &Operand,
    (matrices, channels): (usize, usize),
    window: &Window,
    unsigned: bool,
    points: Points,
) -> Result<Side, OpError> {
    let pixels: usize = window.input.iter().product();
    let (fours, taps) = (channels.div_ceil(LANES), window.taps());
    let together = cx.scratch(matrices * fours * pixels);
    let elements = matrices * fours * pixels * LANES;
    let mut numbers =
        Params::sizes([("elements", elements), ("pixels", pixels), ("fours", fours), ("channels", channels)])?;
    let mut args = vec![x.arg];
    let kernel = KernelBuilder::new("join_channels").read("x", x.repr);
    let kernel = points.add_to(kernel, "x", 1, &mut args, &mut numbers)?;
    let wgsl = x.repr.wgsl();
    let kernel = kernel.text(&format!(
        "fn element(i: u32) -> {wgsl} {{
    let word = i / 4u; let pixel = word % param.pixels; let rest = word / param.pixels;
    let channel = (rest % param.fours) * 4u + i % 4u; let matrix = rest / param.fours;
    if (channel >= param.channels) {{ return {wgsl}(x_point(0u)); }}
    return load_x((matrix * param.channels + channel) * param.pixels + pixel);
}}"
    ));
    args.push(together);
    cx.dispatch(kernel.element(x.repr), args, numbers, element_groups(elements, x.repr), elements as u64);
    // A window of one pixel that visits every pixel once: the words are the columns.
    if window.is_identity() && pixels.is_multiple_of(LANES) {
        return Ok(Side { arg: together, unsigned, points });
    }
    let (words, padded) = (fours * taps, window.positions().next_multiple_of(LANES));
    let out = cx.scratch(matrices * words * padded);
    let threads = matrices * fours * padded;
    let mut numbers = Params::sizes([("threads", threads), ("padded", padded), ("positions", window.positions())])?;
    numbers.extend(window.params()?);
    let mut args = vec![together];
    let kernel = KernelBuilder::new("unfold_words").raw("words", "array<u32>");
    let kernel = points.add_to(kernel, "x", 1, &mut args, &mut numbers)?.raw("y", "array<u32>");
    // A thread writes one position of every tap: neighbours write next to each other, and divisions are few.
    let kernel = kernel.text(&names()).text(&format!(
        "@compute @workgroup_size({THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    let place = group + group_base();
    let i = (place.y * {GROUPS_MAX}u + place.x) * {THREADS}u + lane;
    if (i >= param.threads) {{ return; }}
    let position = i % param.padded; let plane = i / param.padded;
    let outside = (bitcast<u32>(x_point(0u)) & 255u) * 0x01010101u;
    var at = position;
    let w0 = (at % output_w()) * stride_w() - pad_w(); at = at / output_w();
    let h0 = (at % output_h()) * stride_h() - pad_h(); let d0 = (at / output_h()) * stride_d() - pad_d();
    var to = plane * kernel_d() * kernel_h() * kernel_w() * param.padded + position;
    for (var kd = 0u; kd < kernel_d(); kd++) {{
        let d = d0 + kd * dilation_d();
        for (var kh = 0u; kh < kernel_h(); kh++) {{
            let h = h0 + kh * dilation_h();
            let row = ((plane * input_d() + d) * input_h() + h) * input_w();
            // Left of the input is far right of it: unsigned numbers wrap.
            let inside = position < param.positions && d < input_d() && h < input_h();
            for (var kw = 0u; kw < kernel_w(); kw++) {{
                let w = w0 + kw * dilation_w();
                var word = outside;
                if (inside && w < input_w()) {{ word = words[row + w]; }}
                y[to] = word;
                to += param.padded;
            }}
        }}
    }}
}}"
    ));
    args.push(out);
    let groups = linear_groups(threads.div_ceil(THREADS as usize));
    let rounds = taps.saturating_mul(3);
    cx.dispatch(kernel.finish(), args, numbers, groups, Effort::looping((threads * taps) as u64, rounds));
    Ok(Side { arg: out, unsigned, points })
}
