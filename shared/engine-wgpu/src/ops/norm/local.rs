//! LRN, LpNormalization and MeanVarianceNormalization.

use crate::error::OpError;
use crate::ir::{ElementType, Node};
use crate::lower::{Effort, KernelBuilder, Lowering, Operand, Params, Repr, element_groups};
use crate::ops::elementwise::launch::Element;
use crate::ops::elementwise::{math, same_float};
use crate::ops::reduce::fold::Fold;
use crate::ops::rule::Rule;
use crate::shape::axis;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("LRN", infer_lrn, lower_lrn),
    Rule::device("LpNormalization", same_float, lower_lp),
    Rule::device("MeanVarianceNormalization", same_float, lower_mvn),
];

fn infer_lrn(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    if inputs.at(0)?.rank() < 2 || node.attributes.int("size", 0)? < 1 {
        return Err(OpError::invalid("it has no channels or no size"));
    }
    same_float(node, inputs)
}

/// Each element by the squares of its neighbours in the channels around it.
fn lower_lrn(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let size =
        usize::try_from(node.attributes.int("size", 1)?).map_err(|_negative| OpError::invalid("a negative size"))?;
    let text = "fn element(i: u32) -> f32 {
    let channels = param.channels; let step = param.inner; let size = param.size;
    let c = (i / step) % channels;
    let low = c - min(c, (size - 1u) / 2u);
    let high = min(c + size / 2u, channels - 1u);
    var sum = 0.0;
    for (var k = low; k <= high; k++) { let v = load_x(i - c * step + k * step); sum += v * v; }
    return load_x(i) / power(bitcast<f32>(param.bias) + bitcast<f32>(param.alpha) / f32(size) * sum, bitcast<f32>(param.beta));
}";
    let kernel = KernelBuilder::new("lrn").read("x", x.repr).text(&math::needed_by(text)).text(text).element(y.repr);
    let elements = y.elements();
    let attributes = &node.attributes;
    let numbers = Params::sizes([
        ("elements", elements),
        ("channels", x.shape[1]),
        ("inner", x.shape[2..].iter().product()),
        // A window wider than all channels sees them all; its width still divides.
        ("size", size.min(1 << 30)),
    ])?;
    let numbers = numbers.float("alpha", attributes.float("alpha", 0.0001)?);
    let numbers = numbers.float("beta", attributes.float("beta", 0.75)?).float("bias", attributes.float("bias", 1.0)?);
    let work = u64::try_from(elements.saturating_mul(size.min(x.shape[1]))).unwrap_or(u64::MAX);
    let effort = Effort::looping(work, size.min(x.shape[1]));
    cx.dispatch(kernel, vec![x.arg, y.arg], numbers, element_groups(elements, y.repr), effort);
    Ok(())
}

/// One value for each place of the axes that stay.
fn statistic(cx: &mut Lowering<'_>, x: &Operand, axes: &[usize]) -> Operand {
    let mut shape = x.shape.clone();
    for &at in axes {
        shape[at] = 1;
    }
    let words = shape.iter().product();
    Operand { arg: cx.scratch(words), repr: Repr::F32, shape }
}

fn lower_lp(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let axes = [axis(node.attributes.int("axis", -1)?, x.shape.len())?];
    let fold = match node.attributes.int("p", 2)? {
        1 => Fold::ABSOLUTES,
        2 => Fold { finish: "sqrt(a)", ..Fold::SQUARES },
        other => return Err(OpError::invalid(format!("a norm of order {other}"))),
    };
    let norm = statistic(cx, &x, &axes);
    fold.run(cx, &x, &axes, &norm)?;
    Element::new("lp_norm").input("x", x).input("norm", norm).run(cx, node, &y, "select(x / norm, 0.0, norm == 0.0)")
}

/// Keeps a vanishing deviation from dividing by zero; ONNX's function body has this number.
const DEVIATION_MIN: f32 = 1e-9;

fn lower_mvn(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let stated = node.attributes.ints("axes")?.unwrap_or(&[0, 2, 3]);
    let mut axes = stated.iter().map(|&at| axis(at, x.shape.len())).collect::<Result<Vec<_>, _>>()?;
    axes.sort_unstable();
    axes.dedup();
    let mean = statistic(cx, &x, &axes);
    Fold::MEAN.run(cx, &x, &axes, &mean)?;
    let centred = Operand { arg: cx.scratch(x.elements()), repr: Repr::F32, shape: x.shape.clone() };
    Element::new("centre").input("x", x.clone()).input("mean", mean).into(
        cx,
        &centred,
        ElementType::F32,
        "x - mean",
    )?;
    let deviation = statistic(cx, &x, &axes);
    Fold { finish: "sqrt(a / T(n))", ..Fold::SQUARES }.run(cx, &centred, &axes, &deviation)?;
    Element::new("mvn").input("x", centred).input("deviation", deviation).number("least", DEVIATION_MIN).run(
        cx,
        node,
        &y,
        "x / (deviation + least)",
    )
}
