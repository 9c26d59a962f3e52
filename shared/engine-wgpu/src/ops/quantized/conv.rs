//! Convolutions of 8-bit integers: `ConvInteger` and `QLinearConv`, with one to three spatial dimensions.
//!
//! Windows are unfolded into columns and multiplied by the weights as rows, so that the answer lies in ONNX's order at
//! once. Groups with few output channels (depthwise) are summed directly: a product would leave most of its rows idle.

use super::finish::{Finish, Places, requantise, to_float};
use super::gemm::{Batch, Channels, Gemm};
use super::geometry::{Window, names};
use super::pack::{self, Source};
use super::{Points, check_bytes, flip};
use crate::error::OpError;
use crate::ir::{ElementType, Node, OWN_DOMAIN};
use crate::lower::{Effort, KernelBuilder, Lowering, Params, element_groups, nested_steps};
use crate::ops::rule::Rule;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this room.
///
/// `sanderling::QLinearConv` has the attributes of [`crate::ops::epilogue`] without residual.
/// `sanderling::ConvIntegerToFloat` is to `Conv` what `MatMulIntegerToFloat` is to `MatMul`.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("ConvInteger", infer_integer, lower_integer),
    Rule::device("QLinearConv", infer_qlinear, lower_qlinear),
    Rule::device("QLinearConv", infer_qlinear, lower_qlinear).in_domain(OWN_DOMAIN),
    Rule::device("ConvIntegerToFloat", infer_to_float, lower_to_float).in_domain(OWN_DOMAIN),
];

const QLINEAR: Places = Places { a_scale: 1, b_scale: 4, y_scale: 6, y_point: 7, bias: 8 };

/// Output channels of a group below which windows are summed directly.
const CHANNELS_MIN: usize = 4;

/// Sizes of one convolution.
#[derive(Debug)]
struct Sizes {
    images: usize,
    groups: usize,
    /// Input channels of one group.
    channels: usize,
    /// Output channels of one group.
    outputs: usize,
    window: Window,
}

impl Sizes {
    fn of(node: &Node, x: &ValueInfo, w: &ValueInfo) -> Result<Self, OpError> {
        check_bytes(x)?;
        check_bytes(w)?;
        let ([images, all, input @ ..], [outputs, channels, kernel @ ..]) = (x.shape.as_slice(), w.shape.as_slice())
        else {
            return Err(OpError::invalid("its operands have fewer than two dimensions"));
        };
        let groups = usize::try_from(node.attributes.int("group", 1)?).unwrap_or(0);
        if groups == 0 || channels.checked_mul(groups) != Some(*all) || !outputs.is_multiple_of(groups) {
            return Err(OpError::invalid(format!("{groups} groups of {channels} channels for {all}")));
        }
        let window = Window::of(node, input, kernel)?;
        Ok(Self { images: *images, groups, channels: *channels, outputs: outputs / groups, window })
    }

    fn shape(&self) -> Vec<usize> {
        let mut shape = vec![self.images, self.groups * self.outputs];
        shape.extend(self.window.output_shape());
        shape
    }
}

fn infer_integer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let sizes = Sizes::of(node, inputs.at(0)?, inputs.at(1)?)?;
    Ok(vec![ValueInfo::new(ElementType::I32, sizes.shape())])
}

fn lower_integer(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    convolve(node, cx, [0, 1, 2, 3], |_cx, _channels| Ok(Finish::Integer))
}

fn infer_qlinear(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let sizes = Sizes::of(node, inputs.at(0)?, inputs.at(3)?)?;
    check_bytes(inputs.at(7)?)?;
    Ok(vec![ValueInfo::new(inputs.at(7)?.dtype, sizes.shape())])
}

fn lower_qlinear(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    if node.attributes.flag("channels_last", false)? {
        return Err(OpError::unsupported("channels_last is not supported"));
    }
    convolve(node, cx, [0, 3, 2, 5], |cx, channels| requantise(cx, node, &QLINEAR, channels))
}

fn infer_to_float(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let sizes = Sizes::of(node, inputs.at(0)?, inputs.at(1)?)?;
    Ok(vec![ValueInfo::new(inputs.at(2)?.dtype, sizes.shape())])
}

fn lower_to_float(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    convolve(node, cx, [0, 1, 4, 5], |cx, channels| to_float(node, cx, channels))
}

/// Convolves; `places` are those of input, weights and their zero points.
fn convolve(
    node: &Node,
    cx: &mut Lowering<'_>,
    places: [usize; 4],
    finish: impl FnOnce(&mut Lowering<'_>, usize) -> Result<Finish, OpError>,
) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let inputs = Inputs(&infos);
    let sizes = Sizes::of(node, inputs.at(places[0])?, inputs.at(places[1])?)?;
    let (x_points, w_points) = (Points::of(node, cx, places[2])?, Points::of(node, cx, places[3])?);
    let all = sizes.groups * sizes.outputs;
    x_points.check(1)?;
    w_points.check(all)?;
    let finish = finish(cx, all)?;
    if sizes.groups > 1 && sizes.outputs < CHANNELS_MIN {
        return direct(node, cx, places, &sizes, (&x_points, &w_points), &finish);
    }
    let y = cx.output(node, 0)?;
    let x = cx.input(node, places[0])?;
    let unsigned = flip(inputs.at(places[0])?.dtype);
    let weights =
        node.input(places[1]).map(Source::Value).ok_or_else(|| OpError::invalid("its weights are missing"))?;
    let taps = sizes.window.taps();
    let operand = (sizes.images * sizes.groups, sizes.channels);
    let (a, b, depth) = match (weights.constant(cx), &w_points) {
        (Some(literal), &Points::Uniform(point)) if sizes.channels >= pack::LANES => {
            let a = pack::rows_by_channels(cx, literal, (sizes.channels, taps), point)?;
            let b = pack::windows_by_channels(cx, &x, operand, &sizes.window, unsigned, x_points)?;
            (a, b, sizes.channels.next_multiple_of(pack::LANES) * taps)
        }
        _ => {
            let depth = sizes.channels * taps;
            let a = pack::rows(cx, &weights, (all, depth), w_points)?;
            (a, pack::windows(cx, &x, operand, &sizes.window, unsigned, x_points)?, depth)
        }
    };
    let batch = vec![
        Batch { size: sizes.images, a: 0, b: sizes.groups, channel: 0 },
        Batch { size: sizes.groups, a: 1, b: 1, channel: sizes.outputs },
    ];
    let sizes = (sizes.outputs, sizes.window.positions(), depth);
    Gemm { sizes, a, b, batch, channels: Channels::Rows, finish, y: y.arg, repr: y.repr }.lower(cx)
}

/// One thread an output (four of them where the answer is bytes): every product of its window in `i32`.
fn direct(
    node: &Node,
    cx: &mut Lowering<'_>,
    places: [usize; 4],
    sizes: &Sizes,
    (x_points, w_points): (&Points, &Points),
    finish: &Finish,
) -> Result<(), OpError> {
    let (x, w, y) = (cx.input(node, places[0])?, cx.input(node, places[1])?, cx.output(node, 0)?);
    let all = sizes.groups * sizes.outputs;
    let elements = y.elements();
    let mut numbers = Params::sizes([
        ("elements", elements),
        ("positions", sizes.window.positions()),
        ("filters", all),
        ("group_filters", sizes.outputs),
        ("group_channels", sizes.channels),
        ("groups", sizes.groups),
    ])?;
    numbers.extend(sizes.window.params()?);
    let mut args = vec![x.arg, w.arg];
    let kernel = KernelBuilder::new("integer_convolution").read("x", x.repr).read("w", w.repr);
    let kernel = x_points.add_to(kernel, "x", 1, &mut args, &mut numbers)?;
    let kernel = w_points.add_to(kernel, "w", all, &mut args, &mut numbers)?;
    let kernel = finish.add_to(kernel, &mut args, &mut numbers)?;
    let wgsl = y.repr.wgsl();
    let [k0, k1, k2] = sizes.window.kernel;
    let product = "let d = d0 + kd * dilation_d(); let h = h0 + kh * dilation_h(); let w = w0 + kw * dilation_w();
                    // Left of the input is far right of it: unsigned numbers wrap.
                    if (d < input_d() && h < input_h() && w < input_w()) {
                        let x = i32(load_x((((first + channel) * input_d() + d) * input_h() + h) * input_w() + w));
                        sum += (x - x_zero) * (i32(load_w(tap + kw)) - w_zero);
                    }";
    let rows = sizes.channels.saturating_mul(k0).saturating_mul(k1);
    let (walk, rounds) = nested_steps("kw", "kernel_w()", rows, k2, product);
    let rounds = rounds.saturating_add(sizes.channels.saturating_mul(k0 + 1));
    let kernel = kernel.text(&names()).text(&format!(
        "fn element(i: u32) -> {wgsl} {{
    var at = i % param.positions;
    let output = (i / param.positions) % param.filters; let image = i / (param.positions * param.filters);
    let w0 = (at % output_w()) * stride_w() - pad_w(); at = at / output_w();
    let h0 = (at % output_h()) * stride_h() - pad_h(); let d0 = (at / output_h()) * stride_d() - pad_d();
    let first = (image * param.groups + output / param.group_filters) * param.group_channels;
    let x_zero = x_point(0u); let w_zero = w_point(output);
    var sum = 0; var tap = output * param.group_channels * kernel_d() * kernel_h() * kernel_w();
    for (var channel = 0u; channel < param.group_channels; channel++) {{
        for (var kd = 0u; kd < kernel_d(); kd++) {{
            for (var kh = 0u; kh < kernel_h(); kh++) {{
{walk}                tap += kernel_w();
            }}
        }}
    }}
    return {wgsl}(finish(sum, output, i));
}}"
    ));
    args.push(y.arg);
    let work = elements as u64 * (sizes.channels * sizes.window.taps()) as u64;
    cx.dispatch(kernel.element(y.repr), args, numbers, element_groups(elements, y.repr), Effort::looping(work, rounds));
    Ok(())
}
