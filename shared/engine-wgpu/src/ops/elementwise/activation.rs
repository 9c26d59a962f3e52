//! Activations, with their numbers as params, so that one kernel serves every slope.

use super::host::{map, map_float};
use super::launch::Element;
use super::variadic::{host_clip, infer_clip, lower_clip};
use super::{Class, checked, same, same_float};
use crate::error::OpError;
use crate::ir::Node;
use crate::lower::{Lowering, Repr};
use crate::ops::rule::Rule;
use crate::shape::broadcast;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("Relu", same, |n, cx| plain(n, cx, "select(x, T(0), x < T(0))"))
        .with_host(|_n, i| map(i, |x| if x < 0.0 { 0.0 } else { x }, |x| x.max(0))),
    Rule::device("Sigmoid", same_float, |n, cx| plain(n, cx, "sigmoid_of(x)"))
        .with_host(|_n, i| map_float(i, |x| 1.0 / (1.0 + (-x).exp()))),
    Rule::device("HardSwish", same_float, |n, cx| plain(n, cx, "x * smaller(larger(x / 6.0 + 0.5, 0.0), 1.0)")),
    Rule::device("Mish", same_float, |n, cx| plain(n, cx, "x * tanh_of(softplus_of(x))")),
    Rule::device("Softplus", same_float, |n, cx| plain(n, cx, "softplus_of(x)")),
    Rule::device("Softsign", same_float, |n, cx| plain(n, cx, "x / (1.0 + abs(x))")),
    Rule::device("Gelu", same_float, lower_gelu),
    Rule::device("Gelu", same_float, lower_gelu).in_domain("com.microsoft"),
    Rule::device("LeakyRelu", same_float, |n, cx| alpha(n, cx, 0.01, "select(x, alpha * x, x < 0.0)")),
    Rule::device("Elu", same_float, |n, cx| alpha(n, cx, 1.0, "select(x, alpha * expm1_of(x), x < 0.0)")),
    Rule::device("Celu", same_float, |n, cx| alpha(n, cx, 1.0, "select(x, alpha * expm1_of(x / alpha), x < 0.0)")),
    Rule::device("ThresholdedRelu", same_float, |n, cx| {
        alpha(n, cx, 1.0, "select(select(0.0, x, x > alpha), x, is_nan(x))")
    }),
    Rule::device("Swish", same_float, |n, cx| alpha(n, cx, 1.0, "x * sigmoid_of(alpha * x)")),
    Rule::device("Selu", same_float, |n, cx| {
        // ONNX's defaults, to f32.
        let (a, g) = (n.attributes.float("alpha", 1.673_263_2)?, n.attributes.float("gamma", 1.050_701)?);
        two(n, cx, (a, g), "beta * select(x, alpha * expm1_of(x), x < 0.0)")
    }),
    Rule::device("HardSigmoid", same_float, |n, cx| {
        let (a, b) = (n.attributes.float("alpha", 0.2)?, n.attributes.float("beta", 0.5)?);
        two(n, cx, (a, b), "smaller(larger(alpha * x + beta, 0.0), 1.0)")
    }),
    Rule::device("Shrink", same, |n, cx| {
        let (lambda, bias) = (n.attributes.float("lambd", 0.5)?, n.attributes.float("bias", 0.0)?);
        two(
            n,
            cx,
            (lambda, bias),
            "T(select(select(0.0, f32(x) - beta, f32(x) > alpha), f32(x) + beta, f32(x) < -alpha))",
        )
    }),
    // ONNX Runtime's own, in models of CoreML and WinML before operator set 10.
    Rule::device("Affine", same_float, |n, cx| two(n, cx, numbers(n, 1.0, 0.0)?, "alpha * x + beta")),
    Rule::device("ScaledTanh", same_float, |n, cx| two(n, cx, numbers(n, 1.0, 1.0)?, "alpha * tanh_of(beta * x)")),
    Rule::device("ParametricSoftplus", same_float, |n, cx| {
        two(n, cx, numbers(n, 1.0, 1.0)?, "alpha * softplus_of(beta * x)")
    }),
    Rule::device("Scale", same_float, |n, cx| two(n, cx, (n.attributes.float("scale", 1.0)?, 0.0), "alpha * x + beta")),
    Rule::device("PRelu", infer_prelu, lower_prelu),
    Rule::device("Clip", infer_clip, lower_clip).with_host(host_clip),
];

/// The attributes `alpha` and `beta`, or their defaults.
fn numbers(node: &Node, alpha: f32, beta: f32) -> Result<(f32, f32), OpError> {
    Ok((node.attributes.float("alpha", alpha)?, node.attributes.float("beta", beta)?))
}

fn plain(node: &Node, cx: &mut Lowering<'_>, expression: &str) -> Result<(), OpError> {
    super::unary(node, cx, |_class: Class| expression.to_owned())
}

fn alpha(node: &Node, cx: &mut Lowering<'_>, default: f32, expression: &str) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let alpha = node.attributes.float("alpha", default)?;
    Element::new("activation").input("x", x).number("alpha", alpha).run(cx, node, &y, expression)
}

fn two(node: &Node, cx: &mut Lowering<'_>, (alpha, beta): (f32, f32), expression: &str) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let kernel = Element::new("activation").input("x", x).number("alpha", alpha).number("beta", beta);
    kernel.run(cx, node, &y, expression)
}

fn lower_gelu(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let expression = match node.attributes.text("approximate", "none")? {
        "none" => "0.5 * x * (1.0 + erf_of(x * 0.70710678118))",
        "tanh" => "0.5 * x * (1.0 + tanh_of(0.7978845608 * (x + 0.044715 * x * x * x)))",
        other => return Err(OpError::invalid(format!("the approximation {other:?}"))),
    };
    plain(node, cx, expression)
}

/// The slope broadcasts to the input, never the other way.
fn infer_prelu(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let (x, slope) = (inputs.at(0)?, inputs.at(1)?);
    super::same_type(x.dtype, slope.dtype)?;
    if broadcast(&x.shape, &slope.shape)? != x.shape {
        return Err(OpError::invalid("its slope does not broadcast to its input"));
    }
    Ok(vec![ValueInfo::new(x.dtype, x.shape.clone())])
}

fn lower_prelu(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, slope, y) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.output(node, 0)?);
    let wide = node.output(0).is_some_and(|id| checked::is_wide(cx.info(id).dtype));
    let product = match (wide, y.repr) {
        (true, Repr::I32) => "checked_mul_i32(select(1, slope, x < 0), x)",
        // Unsigned numbers are never below zero.
        (true, _) => "x",
        (false, _) => "select(x, slope * x, x < T(0))",
    };
    Element::new("prelu").input("x", x).input("slope", slope).run(cx, node, &y, product)
}
