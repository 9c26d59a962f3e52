//! Pad and CenterCropPad: a frame around a tensor, or a negative one.

use crate::error::OpError;
use crate::host::rearrange;
use crate::ir::{Literal, Node};
use crate::lower::{KernelBuilder, Lowering, Params, element_groups};
use crate::ops::movement::window::wrapped;
use crate::ops::movement::{given, integers, numbers, on_host, optional_integers, same_type};
use crate::ops::rule::Rule;
use crate::shape::{axis, strides};
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this family.
pub(crate) const RULES: &[Rule] = &[
    Rule::device("Pad", |n, i| infer(n, i, pad), |n, c| lower(n, c, pad)).with_host(|n, i| evaluate(n, i, pad)),
    Rule::device("CenterCropPad", |n, i| infer(n, i, center), |n, c| lower(n, c, center))
        .with_host(|n, i| evaluate(n, i, center)),
];

/// Values in the frame around a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The same value everywhere.
    Constant,
    /// The nearest element of the input.
    Edge,
    /// A mirror that does not repeat the edge.
    Reflect,
    /// Elements of the other side.
    Wrap,
}

/// Frame around a tensor, or a negative one.
#[derive(Debug, Clone)]
struct Frame {
    mode: Mode,
    /// Shape of the output.
    shape: Vec<usize>,
    /// Elements in front of each dimension; negative where some are cut off.
    begins: Vec<i64>,
    /// The value of a constant frame where an attribute states it; else input 2 or zero.
    value: Option<f32>,
    /// True if input 2 may state the value.
    has_value_input: bool,
}

/// Computes the frame of a node.
type Framing = fn(&Node, Inputs<'_>) -> Result<Frame, OpError>;

fn pad(node: &Node, inputs: Inputs<'_>) -> Result<Frame, OpError> {
    let x = inputs.at(0)?;
    let mode = match node.attributes.text("mode", "constant")? {
        "constant" => Mode::Constant,
        "edge" => Mode::Edge,
        "reflect" => Mode::Reflect,
        "wrap" => Mode::Wrap,
        other => return Err(OpError::invalid(format!("mode {other:?}"))),
    };
    let name = if node.opset < 2 { "paddings" } else { "pads" };
    let pads = numbers(node, inputs, name, 1)?.ok_or_else(|| OpError::invalid("it has no pads"))?;
    let axes: Vec<usize> = match optional_integers(inputs, 3)? {
        None => (0..x.rank()).collect(),
        Some(axes) => axes.into_iter().map(|at| axis(at, x.rank())).collect::<Result<_, _>>()?,
    };
    if pads.len() != 2 * axes.len() {
        return Err(OpError::invalid(format!("{} pads for {} axes", pads.len(), axes.len())));
    }
    let (mut shape, mut begins) = (x.shape.clone(), vec![0; x.rank()]);
    for (k, &at) in axes.iter().enumerate() {
        let (begin, end) = (pads[k], pads[axes.len() + k]);
        let sum = i128::from(begin) + i128::from(end) + x.shape[at] as i128;
        shape[at] = usize::try_from(sum)
            .map_err(|_outside| OpError::invalid(format!("pads {begin} and {end} around {}", x.shape[at])))?;
        if mode != Mode::Constant && x.shape[at] == 0 && shape[at] > 0 {
            return Err(OpError::invalid("it repeats the elements of an empty dimension"));
        }
        begins[at] = begin;
    }
    if let Some(value) = inputs.optional(2) {
        same_type(x.dtype, value.dtype)?;
        if value.elements() != 1 {
            return Err(OpError::invalid(format!("its value has {} elements", value.elements())));
        }
    }
    let value = node.attributes.find("value").map(|_given| node.attributes.float("value", 0.0)).transpose()?;
    Ok(Frame { mode, shape, begins, value, has_value_input: true })
}

fn center(node: &Node, inputs: Inputs<'_>) -> Result<Frame, OpError> {
    let x = inputs.at(0)?;
    let wanted = integers(inputs, 1)?;
    let axes: Vec<usize> = match node.attributes.ints("axes")? {
        None => (0..x.rank()).collect(),
        Some(axes) => axes.iter().map(|&at| axis(at, x.rank())).collect::<Result<_, _>>()?,
    };
    if wanted.len() != axes.len() {
        return Err(OpError::invalid(format!("{} sizes for {} axes", wanted.len(), axes.len())));
    }
    let (mut shape, mut begins) = (x.shape.clone(), vec![0; x.rank()]);
    for (&at, &size) in axes.iter().zip(&wanted) {
        shape[at] = super::size(size)?;
        let own = i64::try_from(x.shape[at]).unwrap_or(i64::MAX);
        // Cut towards zero: the odd element is missing, or added, behind.
        begins[at] = (size - own) / 2;
    }
    Ok(Frame { mode: Mode::Constant, shape, begins, value: None, has_value_input: false })
}

fn infer(node: &Node, inputs: Inputs<'_>, framing: Framing) -> Result<Vec<ValueInfo>, OpError> {
    Ok(vec![ValueInfo::new(inputs.at(0)?.dtype, framing(node, inputs)?.shape)])
}

impl Mode {
    /// WGSL that turns `c`, a signed coordinate, into one inside `0..n`. Without `%`, which GLSL leaves undefined for negative numbers.
    const fn wgsl(self) -> &'static str {
        match self {
            Self::Constant => "if (c < 0 || c >= n) { return outside(); }",
            Self::Edge => "c = clamp(c, 0, n - 1);",
            Self::Reflect => {
                "let period = max(2 * (n - 1), 1); c = c - period * (c / period); c = select(c, c + period, c < 0); \
                 c = select(c, period - c, c >= n); c = min(c, n - 1);"
            }
            Self::Wrap => "c = c - n * (c / n); c = select(c, c + n, c < 0);",
        }
    }

    /// The same on the host; `None` outside a constant frame.
    fn inside(self, c: i64, n: i64) -> Option<i64> {
        match self {
            Self::Constant => (0..n).contains(&c).then_some(c),
            Self::Edge => Some(c.clamp(0, (n - 1).max(0))),
            Self::Reflect => {
                let period = (2 * (n - 1)).max(1);
                let c = c.rem_euclid(period);
                Some(if c >= n { period - c } else { c }.min(n - 1))
            }
            Self::Wrap => Some(c.rem_euclid(n.max(1))),
        }
    }
}

fn lower(node: &Node, cx: &mut Lowering<'_>, framing: Framing) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let frame = framing(node, Inputs(&infos))?;
    let from = node.input(0).ok_or_else(|| OpError::invalid("input 0 is missing"))?;
    let Some(to) = node.output(0) else { return Ok(()) };
    if frame.shape == cx.info(from).shape && frame.begins.iter().all(|&begin| begin == 0) {
        return cx.alias(to, from);
    }
    let (x, y) = (cx.operand(from)?, cx.place(to));
    let value = if frame.has_value_input { cx.optional_input(node, 2)? } else { None };
    let (rank, wgsl) = (y.shape.len(), y.repr.wgsl());
    let mut kernel = KernelBuilder::new("pad").read("x", x.repr);
    let mut args = vec![x.arg];
    let outside = match (&value, frame.value) {
        (Some(value), _) => {
            kernel = kernel.read("value", value.repr);
            args.push(value.arg);
            "load_value(0u)".to_owned()
        }
        (None, Some(_attribute)) if wgsl == "f32" => "bitcast<f32>(param.value)".to_owned(),
        (None, _) => format!("{wgsl}(0)"),
    };
    let mut text = format!(
        "fn outside() -> {wgsl} {{ return {outside}; }}\n\
         fn element(i: u32) -> {wgsl} {{\n    var rest = i; var at = 0u;\n"
    );
    for d in 0..rank {
        text.push_str(&format!(
            "    {{ var c = i32(rest / param.stride[{d}]) - i32(param.begin[{d}]); rest = rest % param.stride[{d}];\n      \
             let n = i32(param.size[{d}]); {}\n      at += u32(c) * param.step[{d}]; }}\n",
            frame.mode.wgsl()
        ));
    }
    text.push_str("    return load_x(at);\n}");
    let elements = y.elements();
    let begins = frame.begins.iter().map(|&begin| wrapped(begin)).collect::<Result<Vec<_>, _>>()?;
    let numbers = Params::sizes([("elements", elements)])?.float("value", frame.value.unwrap_or(0.0));
    let numbers = numbers.list("stride", &strides(&y.shape))?.words("begin", &begins);
    let numbers = numbers.list("size", &x.shape)?.list("step", &strides(&x.shape))?;
    args.push(y.arg);
    let kernel = kernel.text(&text).element(y.repr);
    cx.dispatch(kernel, args, numbers, element_groups(elements, y.repr), elements as u64);
    Ok(())
}

fn evaluate(node: &Node, inputs: &[Option<&Literal>], framing: Framing) -> Result<Vec<Literal>, OpError> {
    let frame = on_host(inputs, |inputs| framing(node, inputs))?;
    let x = given(inputs, 0)?;
    let stated = frame.value.map(|value| Literal::from_f64s(x.dtype(), vec![1], &[f64::from(value)]));
    let input = if frame.has_value_input { inputs.get(2).copied().flatten() } else { None };
    let value = input.or(stated.as_ref());
    let sources: Vec<&Literal> = std::iter::once(x).chain(value).collect();
    let (own, outer) = (strides(x.shape()), strides(&frame.shape));
    let y = rearrange(x.dtype(), frame.shape.clone(), &sources, |flat| {
        let (mut rest, mut at) = (flat, 0);
        for d in 0..own.len() {
            let c = i64::try_from(rest / outer[d].max(1)).unwrap_or(i64::MAX) - frame.begins[d];
            rest %= outer[d].max(1);
            let n = i64::try_from(x.shape()[d]).unwrap_or(i64::MAX);
            match frame.mode.inside(c, n).and_then(|c| usize::try_from(c).ok()) {
                Some(c) => at += c * own[d],
                None => return Ok(Some((1, 0))),
            }
        }
        Ok(Some((0, at)))
    })?;
    Ok(vec![y])
}
