//! Conv over one to three spatial dimensions: chooses a kernel, packs the weights it wants, pads the input it wants.
//!
//! | when | kernel |
//! |---|---|
//! | 1x1, stride 1, no padding | a [`Product`] |
//! | 1x1 with strides, no padding, software adapter | the pixels picked out, then a [`Product`] |
//! | 3x3, stride 1, constant weights, enough channels and tiles | [`winograd`]: three launches, a quarter of the multiplications |
//! | real GPU, enough output channels | a product whose right side is gathered on the fly, through workgroup memory |
//! | depthwise | [`direct`]: eight pixels a thread |
//! | else | [`direct`]: up to sixteen output channels by eight pixels a thread |
//! | three dimensions, very wide kernels, tiny work | one thread per output |

mod direct;
mod winograd;

use crate::error::OpError;
use crate::ir::{Literal, Node, OWN_DOMAIN, ValueId};
use crate::lower::{Arg, Effort, Floats, KernelBuilder, Lowering, Operand, Params, Repr, element_groups, nested_steps};
use crate::ops::epilogue::Epilogue;
use crate::ops::product::{Bias, Constant, Matrix, Product, groups_of};
use crate::ops::rule::Rule;
use crate::ops::window::{Window, three};
use crate::shape::param;
use crate::shape::volume;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this family.
///
/// `sanderling::Conv` is `Conv` with a fourth input, the residual, the attributes of [`crate::ops::epilogue`], `plain` = 1 for
/// the yardstick kernel, and `winograd` = 1 or 0 for or against that kernel where it is possible.
pub(super) const RULES: &[Rule] =
    &[Rule::device("Conv", infer, lower), Rule::device("Conv", infer, lower).in_domain(OWN_DOMAIN)];

/// Multiply-adds below which one thread per output beats preparing tiles.
const SMALL: usize = 32 * 1024;

/// The sizes of one convolution.
#[derive(Debug)]
struct Geometry {
    images: usize,
    /// Channels of the input, and of each group.
    channels: usize,
    channels_per_group: usize,
    /// Channels of the output, and of each group.
    filters: usize,
    filters_per_group: usize,
    groups: usize,
    input: Vec<usize>,
    output: Vec<usize>,
    window: Window,
}

impl Geometry {
    fn of(node: &Node, x: &[usize], w: &[usize]) -> Result<Self, OpError> {
        let mismatch = || OpError::invalid(format!("an input of {x:?} and weights of {w:?} do not fit together"));
        let ([images, channels, input @ ..], [filters, channels_per_group, kernel @ ..]) = (x, w) else {
            return Err(mismatch());
        };
        let groups = usize::try_from(node.attributes.int("group", 1)?).unwrap_or(0);
        let fits = groups > 0
            && kernel.len() == input.len()
            && channels_per_group.checked_mul(groups) == Some(*channels)
            && filters.is_multiple_of(groups);
        if !fits {
            return Err(mismatch());
        }
        if let Some(stated) = node.attributes.ints("kernel_shape")?
            && !stated.iter().map(|&size| usize::try_from(size).unwrap_or(0)).eq(kernel.iter().copied())
        {
            return Err(OpError::invalid("kernel_shape is not the shape of its weights"));
        }
        let window = Window::of(node, kernel, input)?;
        let output = window.outputs(input, false)?;
        Ok(Self {
            images: *images,
            channels: *channels,
            channels_per_group: *channels_per_group,
            filters: *filters,
            filters_per_group: filters / groups,
            groups,
            input: input.to_vec(),
            output,
            window,
        })
    }

    fn shape(&self) -> Vec<usize> {
        [self.images, self.filters].into_iter().chain(self.output.iter().copied()).collect()
    }

    /// Terms of each sum.
    fn terms(&self) -> usize {
        self.channels_per_group * self.window.kernel.iter().product::<usize>()
    }

    fn pixels(&self) -> usize {
        self.output.iter().product()
    }

    fn work(&self) -> u64 {
        [self.images, self.filters, self.pixels(), self.terms()]
            .iter()
            .fold(1, |work, &size| work.saturating_mul(u64::try_from(size).unwrap_or(u64::MAX)))
    }

    fn is_pointwise(&self) -> bool {
        self.has_one_tap() && self.window.strides.iter().all(|&n| n == 1)
    }

    /// Pointwise over every so many pixels of a plane.
    fn is_sparse_pointwise(&self) -> bool {
        self.has_one_tap() && self.input.len() == 2
    }

    fn has_one_tap(&self) -> bool {
        let Window { kernel, before, after, .. } = &self.window;
        kernel.iter().all(|&n| n == 1) && before.iter().chain(after).all(|&n| n == 0)
    }
}

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (x, w) = (inputs.at(0)?, inputs.at(1)?);
    if x.dtype != w.dtype || !x.dtype.is_float() {
        return Err(OpError::invalid(format!("its input is {}, its weights are {}", x.dtype, w.dtype)));
    }
    let geometry = Geometry::of(node, &x.shape, &w.shape)?;
    if inputs.optional(2).is_some_and(|bias| bias.elements() != geometry.filters) {
        return Err(OpError::invalid("its bias has not one number for each output channel"));
    }
    Ok(vec![ValueInfo::new(x.dtype, geometry.shape())])
}

/// Everything a kernel of this family binds.
#[derive(Debug)]
struct Operands {
    x: Operand,
    w: Operand,
    bias: Option<Operand>,
    y: Operand,
    /// The constants that weights and bias are, if they are, so that they are packed once.
    constants: Option<(ValueId, Option<ValueId>)>,
    epilogue: Epilogue,
}

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, w, y) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.output(node, 0)?);
    let geometry = Geometry::of(node, &x.shape, &w.shape)?;
    if y.elements() == 0 {
        return Ok(());
    }
    let constant = |at: usize| node.input(at).filter(|&id| cx.constant(id).is_some());
    let constants = match (constant(1), node.input(2), constant(2)) {
        (Some(w), None, _) => Some((w, None)),
        (Some(w), Some(_given), Some(bias)) => Some((w, Some(bias))),
        (_, _, _) => None,
    };
    let bias = cx.optional_input(node, 2)?;
    let epilogue = Epilogue::of(node, cx, 3)?;
    let operands = Operands { x, w, bias, y, constants, epilogue };
    let plain = node.attributes.flag("plain", false)?;
    if plain || geometry.filters * geometry.pixels() * geometry.terms() <= SMALL {
        return lower_plain(cx, &geometry, operands);
    }
    if geometry.is_pointwise() && geometry.terms() > 1 {
        return lower_pointwise(node, cx, &geometry, operands);
    }
    let gathers = cx.tuning.workgroup_tiles;
    if !gathers && geometry.is_sparse_pointwise() && geometry.channels_per_group >= 16 {
        return lower_sparse_pointwise(node, cx, geometry, operands);
    }
    let wanted = node.attributes.optional_int("winograd")?;
    if let Some(tiles) = winograd::Tiles::of(&geometry, &operands)
        && wanted.map_or_else(|| tiles.pay(&geometry, cx.tuning), |wanted| wanted != 0)
    {
        return winograd::lower(cx, &geometry, &tiles, operands);
    }
    let tiles = cx.tuning.workgroup_tiles && cx.tuning.invocations_max >= 256;
    if tiles && geometry.filters_per_group >= 16 && geometry.input.len() <= 2 {
        return lower_tile(cx, &geometry, operands);
    }
    match direct::Plane::of(&geometry) {
        // Padding launches a plane in each workgroup of one dimension.
        Some(plane) if groups_of(geometry.images * geometry.channels, 1).is_ok() => {
            direct::lower(cx, &geometry, &plane, operands)
        }
        Some(_) | None => lower_plain(cx, &geometry, operands),
    }
}

/// A 1x1 convolution: for each image and group, weights times pixels.
fn lower_pointwise(node: &Node, cx: &mut Lowering<'_>, g: &Geometry, operands: Operands) -> Result<(), OpError> {
    let Operands { x, w, bias, y, epilogue, .. } = operands;
    let (k, pixels) = (g.channels_per_group, g.pixels());
    let constant = Constant::of(cx, node.input(1));
    let a = Matrix {
        arg: w.arg,
        repr: w.repr,
        constant,
        offset: 0,
        batch: vec![0, g.filters_per_group * k],
        row: k,
        col: 1,
    };
    let b = Matrix {
        arg: x.arg,
        repr: x.repr,
        constant: None,
        offset: 0,
        batch: vec![g.channels * pixels, k * pixels],
        row: pixels,
        col: 1,
    };
    let bias = bias.map(|operand| Bias { operand, beta: 1.0, batch: vec![0, g.filters_per_group], row: 1, col: 0 });
    let product = Product {
        batch: vec![g.images, g.groups],
        m: g.filters_per_group,
        n: pixels,
        k,
        a,
        b,
        alpha: 1.0,
        bias,
        y: y.arg,
        y_batch: vec![g.filters * pixels, g.filters_per_group * pixels],
        y_row: pixels,
        epilogue,
        plain: false,
        checked: false,
    };
    product.lower(cx)
}

/// A 1x1 convolution with strides: the pixels it looks at are picked out first, so that the product reads them side by side.
fn lower_sparse_pointwise(
    node: &Node,
    cx: &mut Lowering<'_>,
    mut g: Geometry,
    mut operands: Operands,
) -> Result<(), OpError> {
    let (planes, pixels) = (g.images * g.channels, g.pixels());
    let total = volume(&[planes, pixels])?;
    let to = cx.scratch(total);
    let text = "@compute @workgroup_size(16, 4)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let place = group + group_base();
    let col = place.x * 16u + thread.x;
    let row = place.y * 4u + thread.y;
    if (row >= param.output[0] || col >= param.output[1]) { return; }
    let at = (place.z * param.input[0] + row * param.stride[0]) * param.input[1] + col * param.stride[1];
    y[(place.z * param.output[0] + row) * param.output[1] + col] = load_x(at);
}";
    let kernel = KernelBuilder::new("pick").read("x", operands.x.repr).raw("y", "array<f32>").text(text).finish();
    let numbers =
        Params::new().list("output", &g.output)?.list("input", &g.input)?.list("stride", &g.window.strides)?;
    let groups = [groups_of(g.output[1], 16)?, groups_of(g.output[0], 4)?, groups_of(planes, 1)?];
    cx.dispatch(kernel, vec![operands.x.arg, to], numbers, groups, u64::try_from(total).unwrap_or(u64::MAX));
    operands.x.arg = to;
    g.input.clone_from(&g.output);
    lower_pointwise(node, cx, &g, operands)
}

/// Output index to window, three spatial dimensions, every attribute.
fn lower_plain(cx: &mut Lowering<'_>, g: &Geometry, operands: Operands) -> Result<(), OpError> {
    let Operands { x, w, bias, y, epilogue, .. } = operands;
    let window = g.window.to_three();
    let mut args = vec![x.arg, w.arg];
    let mut kernel = KernelBuilder::new("conv_plain").read("x", x.repr).read("w", w.repr);
    let mut start = "0.0";
    if let Some(bias) = &bias {
        kernel = kernel.read("bias", bias.repr);
        args.push(bias.arg);
        start = "load_bias(filter_at)";
    }
    kernel = epilogue.add_to(kernel, &mut args);
    args.push(y.arg);
    let (k0, k1, k2) = (window.kernel[0], window.kernel[1], window.kernel[2]);
    let tap = "let i2 = o2 * param.stride[2] + k2 * param.dilation[2] - param.before[2];
                    if (i0 < param.input[0] && i1 < param.input[1] && i2 < param.input[2]) {
                        sum = fma(load_x(((base + i0) * param.input[1] + i1) * param.input[2] + i2), load_w(at_w + k2), sum);
                    }";
    let rows = g.channels_per_group.saturating_mul(k0).saturating_mul(k1);
    let (walk, rounds) = nested_steps("k2", "param.taps[2]", rows, k2, tap);
    let rounds = rounds.saturating_add(g.channels_per_group.saturating_mul(k0 + 1));
    let text = include_str!("../wgsl/conv_plain.wgsl").replace("START", start).replace("WALK", &walk);
    let kernel = kernel.text(&text).element(Repr::F32);
    let elements = y.elements();
    let numbers = Params::sizes([
        ("elements", elements),
        ("filters", g.filters),
        ("group_filters", g.filters_per_group),
        ("group_channels", g.channels_per_group),
        ("channels", g.channels),
    ])?;
    let numbers = numbers.list("output", &three(&g.output, 1))?.list("input", &three(&g.input, 1))?;
    let numbers = window.params(numbers, 3)?.and(epilogue.params());
    cx.dispatch(kernel, args, numbers, element_groups(elements, Repr::F32), Effort::looping(g.work(), rounds));
    Ok(())
}

/// Weights times pixels through workgroup memory; the pixels of each tap are gathered as they are read.
fn lower_tile(cx: &mut Lowering<'_>, g: &Geometry, operands: Operands) -> Result<(), OpError> {
    let Operands { x, w, bias, y, epilogue, .. } = operands;
    let window = g.window.to_three();
    let (input, output) = (three(&g.input, 1), three(&g.output, 1));
    let mut args = vec![w.arg, x.arg];
    let mut kernel = KernelBuilder::new("conv_tile").read("w", w.repr).read("x", x.repr);
    let mut start = "";
    if let Some(bias) = &bias {
        kernel = kernel.read("bias", bias.repr);
        args.push(bias.arg);
        start = "+ load_bias(filter_at)";
    }
    kernel = epilogue.add_to(kernel, &mut args);
    args.push(y.arg);
    let kernel = kernel
        .raw("y", "array<f32>")
        .text(&include_str!("../wgsl/conv_gather.wgsl").replace("START", start))
        .text(include_str!("../wgsl/matmul_tile.wgsl"));
    let numbers = Params::sizes([
        ("group_filters", g.filters_per_group),
        ("pixels", g.pixels()),
        ("terms", g.terms()),
        ("groups", g.groups),
        ("group_channels", g.channels_per_group),
    ])?;
    let numbers = numbers.list("input", &input[1..])?.list("output", &output[1..])?;
    let numbers = window.params(numbers, 2)?.and(epilogue.params());
    let groups = [groups_of(g.pixels(), 64)?, groups_of(g.filters_per_group, 64)?, groups_of(g.images * g.groups, 1)?];
    // Each of the 16 steps of a tile and the two passes that fetch it.
    let rounds = g.terms().div_ceil(16).saturating_mul(1 + 4 + 16);
    cx.dispatch(kernel.finish(), args, numbers, groups, Effort::looping(g.work(), rounds));
    Ok(())
}

/// Weights as `[block][term][lane]` with `lanes` output channels a block, and each block's bias behind its terms; and what
/// floats they are: where weights and bias are halves those, but for single lanes, which are few.
fn packed_weights(
    cx: &mut Lowering<'_>,
    g: &Geometry,
    operands: &Operands,
    lanes: usize,
) -> Result<(Arg, Floats), OpError> {
    let blocks = g.filters_per_group.div_ceil(lanes);
    let (terms, filters) = (g.terms(), g.filters_per_group);
    let total = volume(&[g.groups, blocks, terms + 1, lanes])?;
    if let Some((w, bias)) = operands.constants {
        let (literal, bias_literal) = (cx.constant(w), bias.and_then(|bias| cx.constant(bias)));
        let halves = literal.into_iter().chain(bias_literal).all(|literal| Floats::of(literal) == Floats::Halves);
        let floats = if halves && lanes > 1 { Floats::Halves } else { Floats::Singles };
        let arg = cx.packed_weight(w, &format!("conv {lanes} {} {bias:?} {floats:?}", g.groups), || {
            let w = literal.map(Literal::to_f32s).unwrap_or_default();
            let bias = bias_literal.map(Literal::to_f32s).unwrap_or_default();
            let value = |i: usize| {
                let (lane, term, block) = (i % lanes, i / lanes % (terms + 1), i / lanes / (terms + 1));
                let in_group = block % blocks * lanes + lane;
                let filter = block / blocks * filters + in_group;
                let from = if term == terms { bias.get(filter) } else { w.get(filter * terms + term) };
                from.copied().filter(|_v| in_group < filters).unwrap_or(0.0)
            };
            Ok(floats.pack((0..total).map(value)))
        })?;
        return Ok((arg, floats));
    }
    let to = cx.scratch(total);
    let mut args = vec![operands.w.arg];
    let mut kernel = KernelBuilder::new("conv_pack").read("w", operands.w.repr);
    let mut bias = "0.0";
    if let Some(operand) = &operands.bias {
        kernel = kernel.read("bias", operand.repr);
        args.push(operand.arg);
        bias = "load_bias(place)";
    }
    args.push(to);
    let kernel = kernel
        .text(&format!(
            "fn element(i: u32) -> f32 {{
    let lanes = param.lanes; let terms = param.terms; let blocks = param.blocks; let filters = param.filters;
    let term = i / lanes % (terms + 1u);
    let block = i / lanes / (terms + 1u);
    let in_group = block % blocks * lanes + i % lanes;
    if (in_group >= filters) {{ return 0.0; }}
    let place = block / blocks * filters + in_group;
    if (term == terms) {{ return {bias}; }}
    return load_w(place * terms + term);
}}"
        ))
        .element(Repr::F32);
    let numbers = Params::sizes([
        ("elements", total),
        ("lanes", lanes),
        ("terms", terms),
        ("blocks", blocks),
        ("filters", filters),
    ])?;
    cx.dispatch(kernel, args, numbers, element_groups(total, Repr::F32), u64::from(param(total)?));
    Ok((to, Floats::Singles))
}
