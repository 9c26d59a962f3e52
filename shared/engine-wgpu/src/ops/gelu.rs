//! ONNX Runtime's Gaussian error units: `BiasGelu`, `FastGelu`, `QuickGelu`.

use crate::error::OpError;
use crate::ir::Node;
use crate::lower::{KernelBuilder, Lowering, Params, element_groups};
use crate::ops::epilogue::{activation, helpers};
use crate::ops::rule::Rule;
use crate::value_info::{Inputs, ValueInfo};

const MICROSOFT: &str = "com.microsoft";

/// Default steepness of `QuickGelu`.
const QUICK_ALPHA: f32 = 1.702;

/// The operators of this family.
pub(super) const RULES: &[Rule] = &[
    Rule::device("BiasGelu", infer, |node, cx| launch(node, cx, activation("Gelu").unwrap_or_default()))
        .in_domain(MICROSOFT),
    Rule::device("FastGelu", infer, |node, cx| launch(node, cx, activation("GeluTanh").unwrap_or_default()))
        .in_domain(MICROSOFT),
    Rule::device("QuickGelu", infer, |node, cx| launch(node, cx, "x / (1.0 + exp(-x * bitcast<f32>(param.alpha)))"))
        .in_domain(MICROSOFT),
];

/// A bias, where there is one, is as long as the last dimension.
fn infer(_node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    if !x.dtype.is_float() {
        return Err(OpError::invalid(format!("it takes {}", x.dtype)));
    }
    if let Some(bias) = inputs.optional(1)
        && (bias.dtype != x.dtype || bias.rank() != 1 || bias.shape.last() != x.shape.last())
    {
        return Err(OpError::invalid(format!("a bias of shape {:?} for {:?}", bias.shape, x.shape)));
    }
    Ok(vec![ValueInfo::new(x.dtype, x.shape.clone())])
}

fn launch(node: &Node, cx: &mut Lowering<'_>, expression: &str) -> Result<(), OpError> {
    let (x, bias, y) = (cx.input(node, 0)?, cx.optional_input(node, 1)?, cx.output(node, 0)?);
    let elements = y.elements();
    let mut kernel = KernelBuilder::new("gelu").read("x", x.repr);
    let mut args = vec![x.arg];
    let mut argument = "load_x(i)";
    if let Some(bias) = bias {
        kernel = kernel.read("bias", bias.repr);
        args.push(bias.arg);
        argument = "load_x(i) + load_bias(i % param.width)";
    }
    args.push(y.arg);
    let helpers = helpers(expression);
    let kernel = kernel
        .text(&format!("{helpers}fn element(i: u32) -> f32 {{ let x = {argument}; return {expression}; }}"))
        .element(y.repr);
    let width = y.shape.last().copied().unwrap_or(1);
    let numbers = Params::sizes([("elements", elements), ("width", width)])?;
    let numbers = numbers.float("alpha", node.attributes.float("alpha", QUICK_ALPHA)?);
    cx.dispatch(kernel, args, numbers, element_groups(elements, y.repr), elements as u64);
    Ok(())
}
