//! BatchNormalization at inference: each channel by numbers that training has fixed.

use crate::error::OpError;
use crate::ir::Node;
use crate::lower::{Lowering, Operand};
use crate::ops::elementwise::launch::Element;
use crate::ops::rule::Rule;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] = &[Rule::device("BatchNormalization", infer, lower)];

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    if node.attributes.flag("training_mode", false)? || node.outputs.iter().skip(1).any(Option::is_some) {
        return Err(OpError::unsupported("batch normalization in training mode"));
    }
    if !node.attributes.flag("spatial", true)? {
        return Err(OpError::unsupported("batch normalization of each element by its own numbers (spatial = 0)"));
    }
    let channels = x.shape.get(1).copied().unwrap_or(1);
    for at in 1..5 {
        if inputs.at(at)?.shape != [channels] {
            return Err(OpError::invalid(format!(
                "input {at} does not hold one number for each of {channels} channels"
            )));
        }
    }
    Ok(vec![ValueInfo::new(x.dtype, x.shape.clone())])
}

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let mut kernel = Element::new("batch_norm").number("epsilon", node.attributes.float("epsilon", 1e-5)?);
    let rank = x.shape.len();
    kernel = kernel.input("x", x);
    for (at, name) in [(1, "scale"), (2, "shift"), (3, "mean"), (4, "variance")] {
        let operand = cx.input(node, at)?;
        // One number a channel, standing over the dimensions behind it.
        let mut shape = operand.shape.clone();
        shape.extend(std::iter::repeat_n(1, rank.saturating_sub(2)));
        kernel = kernel.input(name, Operand { shape, ..operand });
    }
    kernel.run(cx, node, &y, "(x - mean) / sqrt(variance + epsilon) * scale + shift")
}
