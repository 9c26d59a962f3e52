//! What can be made of a model: the forms, and the ways to each.

use onnx_graph::Model;
use onnx_graph::{ElementType, Values};
use serde::{Deserialize, Serialize};

/// What a model file is, in the names that variants of a version have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Single precision.
    Fp32,
    /// Half precision.
    Fp16,
    /// The upper half of single precision.
    Bf16,
    /// Weights and activations as 8-bit integers, with ranges that were calibrated.
    Int8Qdq,
    /// Weights as 8-bit integers, activations quantized while it runs.
    Int8Dynamic,
    /// Weights alone as 8-bit integers.
    Int8Weights,
    /// Weights alone as 4-bit integers.
    Int4Weights,
    /// 8-bit integers, with the layers in float that lose most by it.
    Int8Mixed,
    /// With weights or channels taken out.
    Pruned,
}

impl Form {
    /// The name, as a variant of a version has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Int8Qdq => "int8-qdq",
            Self::Int8Dynamic => "int8-dynamic",
            Self::Int8Weights => "int8-weights",
            Self::Int4Weights => "int4-weights",
            Self::Int8Mixed => "int8-mixed",
            Self::Pruned => "pruned",
        }
    }

    /// What the model given is: by its operators, else by the type that most of its weights have.
    #[must_use]
    pub fn of(model: &Model) -> Self {
        let has = |operators: &[&str]| model.graph.nodes.iter().any(|node| operators.contains(&node.op_type()));
        if has(&["DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"]) {
            return Self::Int8Dynamic;
        }
        if has(&["QuantizeLinear", "QLinearConv", "QLinearMatMul"]) {
            return Self::Int8Qdq;
        }
        if has(&["MatMulNBits"]) {
            return Self::Int4Weights;
        }
        let held = |element: ElementType| {
            let of_type = model.graph.initializers.values().filter(|weight| weight.element_type() == element);
            of_type.map(|weight| weight.dims.iter().product::<i64>()).fold(0, i64::saturating_add)
        };
        let (single, half) = (held(ElementType::Float), held(ElementType::Float16));
        let (upper, byte) = (held(ElementType::Bfloat16), held(ElementType::Int8));
        match single.max(half).max(upper).max(byte) {
            most if most == single => Self::Fp32,
            most if most == half => Self::Fp16,
            most if most == upper => Self::Bf16,
            _ => Self::Int8Weights,
        }
    }
}
