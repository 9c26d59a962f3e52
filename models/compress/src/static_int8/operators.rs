//! What quantization means for each operator.
//!
//! The roles follow what ONNX Runtime's processor kernels and our wgpu engine fuse: an operator that no engine runs in
//! integers gains nothing from rounding its values, and is left in floating point.

use onnx_graph::proto::{NodeProto, TensorProto};
use onnx_graph::{Attributes, Graph, Values};

/// Role of an operator among quantized values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A convolution: integers in, integers out, weights and bias constant.
    Convolution,
    /// A matrix product: integers in, integers or floats out.
    Product,
    /// Only its weights are quantized: no engine convolves transposed in integers.
    WeightOnly,
    /// A table of numbers, quantized, of which rows are taken.
    Lookup,
    /// Takes several values, each with its own range, and gives one with a range of its own.
    Joins,
    /// Takes one value and gives one with a range of its own.
    Computes,
    /// Cuts values off at fixed ends: nothing is left to do when a range ends there too.
    Cuts,
    /// Gives what it takes, elsewhere: the range stays.
    Moves,
}

/// The role of a node; `None` for what stays in floating point.
pub(super) fn role(graph: &Graph, node: &NodeProto, opset: i64) -> Option<Role> {
    if !matches!(node.domain(), "" | "ai.onnx") || wrong_kernel(node).is_some() {
        return None;
    }
    match node.op_type() {
        "Conv" => Some(Role::Convolution),
        "Gemm" | "MatMul" => Some(Role::Product),
        "ConvTranspose" => Some(Role::WeightOnly),
        "Gather" if node.input_at(0).is_some_and(|table| graph.initializer(table).is_some()) => Some(Role::Lookup),
        "Add" | "Mul" | "Concat" => Some(Role::Joins),
        // No engine has HardSigmoid in integers, but it gates products that are.
        "AveragePool" | "GlobalAveragePool" | "Sigmoid" | "LeakyRelu" | "Softmax" | "HardSigmoid" => {
            Some(Role::Computes)
        }
        "Relu" => Some(Role::Cuts),
        "Clip" => Some(if cuts_around_zero(graph, node) { Role::Cuts } else { Role::Computes }),
        // Before operator set 12 it takes no 8-bit numbers.
        "MaxPool" if opset >= 12 && node.output.len() == 1 => Some(Role::Moves),
        "Resize" if opset >= 11 && node.attr_str("mode").is_none_or(|mode| mode != "cubic") => Some(Role::Moves),
        "Pad" if opset >= 13 && pads_zero(graph, node) => Some(Role::Moves),
        "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Flatten" | "Slice" | "Split" | "Gather"
        | "DepthToSpace" | "SpaceToDepth" => Some(Role::Moves),
        _ => None,
    }
}

/// Reason why a node stays in float although its kind is quantized: ONNX Runtime's own kernels are wrong on integers.
pub(super) fn wrong_kernel(node: &NodeProto) -> Option<&'static str> {
    if !matches!(node.domain(), "" | "ai.onnx") {
        return None;
    }
    match node.op_type() {
        "Resize" if node.attr("axes").is_some() => Some("ONNX Runtime resizes integers along `axes` wrongly"),
        "Pad" if node.input_at(3).is_some() => Some("ONNX Runtime pads integers along `axes` wrongly"),
        "AveragePool" if node.attr_int("ceil_mode").unwrap_or_default() != 0 => {
            Some("ONNX Runtime averages integers wrongly where `ceil_mode` adds a partial window")
        }
        _ => None,
    }
}

/// The places of the inputs that hold the values themselves, not sizes or bounds.
pub(super) fn data_inputs(role: Role, node: &NodeProto) -> std::ops::Range<usize> {
    match role {
        Role::Joins => 0..node.input.len(),
        Role::Product => 0..node.input.len().min(2),
        Role::Lookup => 0..0,
        Role::Convolution | Role::WeightOnly | Role::Computes | Role::Cuts | Role::Moves => 0..1,
    }
}

/// The place of the weights: of the product's two operands, the constant one.
pub(super) fn weight(graph: &Graph, role: Role, node: &NodeProto) -> Option<usize> {
    let constant = |place: &usize| node.input_at(*place).is_some_and(|name| graph.initializer(name).is_some());
    match role {
        Role::Convolution | Role::WeightOnly => Some(1).filter(constant),
        Role::Product => [1, 0].into_iter().find(constant),
        Role::Lookup => Some(0).filter(constant),
        Role::Joins | Role::Computes | Role::Cuts | Role::Moves => None,
    }
}

/// The axis along which each channel of the weights may have a scale of its own; `None` for one scale in all.
pub(super) fn channel_axis(node: &NodeProto, role: Role, place: usize, rank: usize) -> Option<usize> {
    match role {
        Role::Convolution => Some(0),
        Role::WeightOnly => Some(1),
        // A product of stacks takes one scale only.
        Role::Product if place == 1 && rank == 2 => {
            let transposed = node.is("Gemm") && node.attr_int("transB").unwrap_or_default() != 0;
            Some(usize::from(!transposed))
        }
        Role::Product | Role::Lookup | Role::Joins | Role::Computes | Role::Cuts | Role::Moves => None,
    }
}

/// Returns whether the two bounds are known and 0 lies between them: then a range inside them cuts no less.
fn cuts_around_zero(graph: &Graph, node: &NodeProto) -> bool {
    let bound = |place: usize, name: &str, free: f32| match node.input_at(place) {
        Some(input) => graph.initializer(input).and_then(number),
        None => Some(node.attr_float(name).unwrap_or(free)),
    };
    let (low, high) = (bound(1, "min", f32::NEG_INFINITY), bound(2, "max", f32::INFINITY));
    matches!((low, high), (Some(low), Some(high)) if low <= 0.0 && high >= 0.0)
}

fn pads_zero(graph: &Graph, node: &NodeProto) -> bool {
    match node.input_at(2) {
        Some(value) => graph.initializer(value).and_then(number) == Some(0.0),
        None => true,
    }
}

fn number(tensor: &TensorProto) -> Option<f32> {
    match tensor.floats().ok()?.as_slice() {
        [only] => Some(*only),
        _ => None,
    }
}
