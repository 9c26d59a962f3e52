//! Nodes that compute with numbers below f16, like the 1e-12 that keeps a logarithm or a division finite.
//!
//! In f16 such a number is zero or subnormal, which some GPUs flush to zero: `Log(Max(x, 1e-12))` is then minus infinity.
//! The node that takes the number stays f32, and so do the nodes after it as far as the one that it protects.

use std::collections::HashSet;

use onnx_graph::proto::NodeProto;
use onnx_graph::{Attributes, ElementType, Graph, Values};

use super::weights::NORMAL_MIN;
use crate::CompressError;

/// Operators that give a small number as it is, or one that is still too small for f16.
const THROUGH: [&str; 21] = [
    "Abs",
    "Clip",
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Max",
    "Min",
    "Neg",
    "Pad",
    "Pow",
    "Relu",
    "Reshape",
    "Slice",
    "Split",
    "Sqrt",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

/// Operators that a zero in place of a small number breaks. Their results are of ordinary size again.
const PROTECTED: [&str; 3] = ["Div", "Log", "Reciprocal"];

/// Returns by node whether it must stay f32. The nodes of a graph are sorted, so one pass suffices.
pub(super) fn protected(graph: &Graph) -> Result<Vec<bool>, CompressError> {
    let mut constants: HashSet<&str> = HashSet::new();
    for (name, tensor) in &graph.initializers {
        if tensor.element_type() == ElementType::Float && is_tiny(&tensor.floats()?) {
            constants.insert(name);
        }
    }
    let mut small: HashSet<&str> = HashSet::new();
    let mut stays = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let takes = |values: &HashSet<&str>| node.input.iter().any(|name| values.contains(name.as_str()));
        let operator = node.op_type();
        let stay = if holds_tiny(node)? {
            constants.extend(node.output.iter().map(String::as_str));
            true
        } else if takes(&constants) || clips_at_tiny(node) || (THROUGH.contains(&operator) && takes(&small)) {
            small.extend(node.output.iter().map(String::as_str));
            true
        } else {
            PROTECTED.contains(&operator) && takes(&small)
        };
        stays.push(stay);
    }
    Ok(stays)
}

fn holds_tiny(node: &NodeProto) -> Result<bool, CompressError> {
    if !node.is("Constant") {
        return Ok(false);
    }
    let by_itself = node.attr_float("value_float").is_some_and(|value| is_tiny(&[value]));
    let tensor = node.attr_tensor("value").filter(|tensor| tensor.element_type() == ElementType::Float);
    Ok(by_itself || tensor.map(Values::floats).transpose()?.is_some_and(|values| is_tiny(&values)))
}

/// Returns whether `Clip` of the operator sets below 11 has a limit that is tiny.
fn clips_at_tiny(node: &NodeProto) -> bool {
    node.is("Clip") && ["min", "max"].iter().any(|limit| node.attr_float(limit).is_some_and(|value| is_tiny(&[value])))
}

/// Returns whether f16 holds none of these numbers but zeros, or none of them exactly.
fn is_tiny(values: &[f32]) -> bool {
    values.iter().all(|value| value.abs() < NORMAL_MIN) && values.iter().any(|value| *value != 0.0)
}
