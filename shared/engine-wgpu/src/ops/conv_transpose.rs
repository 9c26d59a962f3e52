//! ConvTranspose over one to three spatial dimensions: a product of weights and pixels, then each output gathers the few
//! sums that fall on it. Small ones take one launch with a thread per output.

use crate::error::OpError;
use crate::ir::{Node, OWN_DOMAIN};
use crate::lower::{Arg, Effort, KernelBuilder, Lowering, Operand, Params, Repr, element_groups, nested_steps};
use crate::ops::epilogue::Epilogue;
use crate::ops::product::{Constant, Matrix, Product};
use crate::ops::rule::Rule;
use crate::ops::window::{SPATIAL_MAX, positive, three};
use crate::shape::volume;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this family; the own-domain form takes a residual and [`crate::ops::epilogue`]'s attributes.
pub(super) const RULES: &[Rule] =
    &[Rule::device("ConvTranspose", infer, lower), Rule::device("ConvTranspose", infer, lower).in_domain(OWN_DOMAIN)];

/// The sizes of one transposed convolution.
#[derive(Debug)]
struct Geometry {
    channels: usize,
    channels_per_group: usize,
    filters_per_group: usize,
    groups: usize,
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    before: Vec<usize>,
    output: Vec<usize>,
}

fn geometry(node: &Node, x: &[usize], w: &[usize]) -> Result<Geometry, OpError> {
    let mismatch = || OpError::invalid(format!("an input of {x:?} and weights of {w:?} do not fit together"));
    let ([_images, channels, input @ ..], [channels_w, filters_per_group, kernel @ ..]) = (x, w) else {
        return Err(mismatch());
    };
    let rank = input.len();
    let groups = usize::try_from(node.attributes.int("group", 1)?).unwrap_or(0);
    let fits = groups > 0
        && kernel.len() == rank
        && (1..=SPATIAL_MAX).contains(&rank)
        && channels == channels_w
        && channels.is_multiple_of(groups)
        && !kernel.contains(&0)
        && !input.contains(&0);
    if !fits {
        return Err(mismatch());
    }
    let strides = positive(node, "strides", rank)?.unwrap_or_else(|| vec![1; rank]);
    let dilations = positive(node, "dilations", rank)?.unwrap_or_else(|| vec![1; rank]);
    let list = |name: &str, length: usize| -> Result<Vec<usize>, OpError> {
        let Some(values) = node.attributes.ints(name)? else { return Ok(vec![0; length]) };
        let numbers: Vec<usize> = values.iter().filter_map(|&value| u32::try_from(value).ok()).map(to_usize).collect();
        if numbers.len() == length && values.len() == length {
            Ok(numbers)
        } else {
            Err(OpError::invalid(format!("{name} of {values:?} over {rank} spatial dimensions")))
        }
    };
    let extra = list("output_padding", rank)?;
    let auto = node.attributes.text("auto_pad", "NOTSET")?;
    let pads = list("pads", 2 * rank)?;
    let wanted = match (positive(node, "output_shape", rank)?, auto) {
        (Some(shape), _) => Some(shape),
        (None, "SAME_UPPER" | "SAME_LOWER") => Some((0..rank).map(|d| input[d] * strides[d]).collect()),
        (None, _) => None,
    };
    let (mut before, mut output) = (Vec::new(), Vec::new());
    for d in 0..rank {
        let full = (input[d] - 1) * strides[d] + extra[d] + (kernel[d] - 1) * dilations[d] + 1;
        match &wanted {
            Some(wanted) => {
                let total = full.saturating_sub(wanted[d]);
                before.push(if auto == "SAME_UPPER" { total / 2 } else { total - total / 2 });
                output.push(wanted[d]);
            }
            None => {
                let cut = if auto == "VALID" { 0 } else { pads[d] + pads[rank + d] };
                before.push(if auto == "VALID" { 0 } else { pads[d] });
                let left = full.checked_sub(cut).filter(|&left| left > 0);
                output.push(left.ok_or_else(|| OpError::invalid("its pads leave nothing of the output"))?);
            }
        }
    }
    Ok(Geometry {
        channels: *channels,
        channels_per_group: channels / groups,
        filters_per_group: *filters_per_group,
        groups,
        kernel: kernel.to_vec(),
        strides,
        dilations,
        before,
        output,
    })
}

fn to_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (x, w) = (inputs.at(0)?, inputs.at(1)?);
    if x.dtype != w.dtype || !x.dtype.is_float() {
        return Err(OpError::invalid(format!("its input is {}, its weights are {}", x.dtype, w.dtype)));
    }
    let geometry = geometry(node, &x.shape, &w.shape)?;
    let filters = geometry.filters_per_group * geometry.groups;
    if inputs.optional(2).is_some_and(|bias| bias.elements() != filters) {
        return Err(OpError::invalid("its bias has not one number for each output channel"));
    }
    let shape = [x.shape[0], filters].into_iter().chain(geometry.output).collect();
    Ok(vec![ValueInfo::new(x.dtype, shape)])
}

/// Multiply-adds below which one launch beats a product and a gathering.
const SMALL: usize = 64 * 1024;

/// Most floats between product and gathering (256 MiB): beyond, memory is worth more than time.
const BETWEEN_MAX: usize = 64 << 20;

/// One term of what a tap adds when weights and pixels are multiplied on the spot.
const MULTIPLY: &str = "sum = fma(load_x(at_x + c * volume), load_w(at_w + c * param.group_filters * taps), sum);";

/// WGSL of one tap's term when all products are there.
const GATHER: &str = "sum += load_x((plane * taps + tap) * volume + spatial);";

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, w, y) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.output(node, 0)?);
    let g = geometry(node, &x.shape, &w.shape)?;
    let elements = y.elements();
    if elements == 0 {
        return Ok(());
    }
    let taps: usize = g.kernel.iter().product();
    let filters = g.filters_per_group * g.groups;
    let between = volume(&[x.shape[0], filters, taps, x.shape[2..].iter().product()]).unwrap_or(usize::MAX);
    let through_product =
        between <= BETWEEN_MAX && between.saturating_mul(g.channels_per_group) > SMALL && g.channels_per_group > 2;
    let mut kernel = KernelBuilder::new("conv_transpose").read("x", x.repr);
    let mut args = if through_product { vec![product(node, cx, &g, &x, &w, between)?] } else { vec![x.arg, w.arg] };
    let mut tap = GATHER.to_owned();
    let met: usize = g.kernel.iter().zip(&g.strides).map(|(&taps, &stride)| taps.div_ceil(stride)).product();
    // The outer loops pass by every tap, those that meet no pixel too.
    let mut rounds = taps.saturating_mul(3);
    if !through_product {
        kernel = kernel.read("w", w.repr);
        let (walk, inner) = nested_steps("c", "param.group_channels", met, g.channels_per_group, MULTIPLY);
        rounds = rounds.saturating_add(inner);
        tap = format!(
            "let at_x = (image * param.channels + first_channel) * volume + spatial;
                let at_w = (first_channel * param.group_filters + filter_at % param.group_filters) * taps + tap;
{walk}"
        );
    }
    let mut start = "0.0";
    if let Some(bias) = cx.optional_input(node, 2)? {
        kernel = kernel.read("bias", bias.repr);
        args.push(bias.arg);
        start = "load_bias(filter_at)";
    }
    let epilogue = Epilogue::of(node, cx, 3)?;
    kernel = epilogue.add_to(kernel, &mut args);
    args.push(y.arg);
    let text = include_str!("../wgsl/conv_transpose.wgsl").replace("START", start).replace("TAP", &tap);
    let kernel = kernel.text(&text).element(Repr::F32);
    let numbers = Params::sizes([
        ("elements", elements),
        ("filters", filters),
        ("group_filters", g.filters_per_group),
        ("group_channels", g.channels_per_group),
        ("channels", g.channels),
    ])?;
    let numbers = numbers.list("output", &three(&g.output, 1))?.list("input", &three(&x.shape[2..], 1))?;
    let numbers = numbers.list("taps", &three(&g.kernel, 1))?.list("stride", &three(&g.strides, 1))?;
    let numbers = numbers.list("dilation", &three(&g.dilations, 1))?.list("before", &three(&g.before, 0))?;
    let numbers = numbers.and(epilogue.params());
    let terms = if through_product { 1 } else { g.channels_per_group };
    let work = u64::try_from(elements.saturating_mul(met).saturating_mul(terms)).unwrap_or(u64::MAX);
    cx.dispatch(kernel, args, numbers, element_groups(elements, Repr::F32), Effort::looping(work, rounds));
    Ok(())
}

/// Multiplies weights and pixels: `[image][filter][tap][pixel]`.
fn product(
    node: &Node,
    cx: &mut Lowering<'_>,
    g: &Geometry,
    x: &Operand,
    w: &Operand,
    between: usize,
) -> Result<Arg, OpError> {
    let pixels: usize = x.shape[2..].iter().product();
    let rows = g.filters_per_group * g.kernel.iter().product::<usize>();
    let k = g.channels_per_group;
    let y = cx.scratch(between);
    let constant = Constant::of(cx, node.input(1));
    let weights = Matrix { arg: w.arg, repr: w.repr, constant, offset: 0, batch: vec![0, k * rows], row: 1, col: rows };
    let inputs = Matrix {
        arg: x.arg,
        repr: x.repr,
        constant: None,
        offset: 0,
        batch: vec![g.channels * pixels, k * pixels],
        row: pixels,
        col: 1,
    };
    let product = Product {
        batch: vec![x.shape[0], g.groups],
        m: rows,
        n: pixels,
        k,
        a: weights,
        b: inputs,
        alpha: 1.0,
        bias: None,
        y,
        y_batch: vec![g.groups * rows * pixels, rows * pixels],
        y_row: pixels,
        epilogue: Epilogue::NONE,
        plain: false,
        checked: false,
    };
    product.lower(cx)?;
    Ok(y)
}
