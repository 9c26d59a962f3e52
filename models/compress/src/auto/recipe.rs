//! What can be made of a model: the forms, and the ways to each.

use onnx_graph::{ElementType, Model, Values};
use serde::{Deserialize, Serialize};

use crate::half_precision::Format;
use crate::prune::magnitude::Pattern;
use crate::static_int8::Activations;
use crate::weight_only::{self, Bits};

/// The error-compensating way to choose codes, the strongest inputs first.
pub const GPTQ: weight_only::Method = weight_only::Method::Gptq { act_order: true };

/// What a model file is, in the names that variants of a version have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Weights in single precision.
    Fp32,
    /// Weights in half precision.
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
    /// Weights alone as 4-bit integers, with the layers in float that lose most by it.
    Int4Mixed,
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
            Self::Int4Mixed => "int4-mixed",
            Self::Pruned => "pruned",
        }
    }

    /// Returns what it becomes with some of its layers in float; `None` where no such form is searched.
    #[must_use]
    pub const fn mixed(self) -> Option<Self> {
        match self {
            Self::Int8Qdq => Some(Self::Int8Mixed),
            Self::Int4Weights => Some(Self::Int4Mixed),
            Self::Fp32 | Self::Fp16 | Self::Bf16 | Self::Int8Dynamic | Self::Int8Weights => None,
            Self::Int8Mixed | Self::Int4Mixed | Self::Pruned => None,
        }
    }

    /// Returns what the model given is: by its operators, else by the type that most of its weights have.
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

/// Method that reads ranges of activations from examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Calibration {
    /// From the least to the greatest value seen.
    #[default]
    Minmax,
    /// Least and greatest of each batch, averaged.
    MovingAverage,
    /// The range that holds nearly all values.
    Percentile,
    /// The cut that keeps most of the distribution.
    Entropy,
    /// The cut with the least squared error.
    Mse,
}

impl Calibration {
    /// The name in reports and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minmax => "minmax",
            Self::MovingAverage => "moving-average",
            Self::Percentile => "percentile",
            Self::Entropy => "entropy",
            Self::Mse => "mse",
        }
    }
}

/// One way to make a form.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Recipe {
    /// 8-bit weights and activations with calibrated ranges.
    StaticInt8 {
        /// A scale for each channel of a weight.
        per_channel: bool,
        /// Method that finds ranges.
        calibration: Calibration,
        /// Integers that hold the activations.
        activations: Activations,
        /// Ranges of activations even around 0.
        symmetric: bool,
        /// 7 bits of each weight, for x86 processors that saturate with 8.
        reduce_range: bool,
        /// Scale is moved first from channels that are large to neighbours that bear it ([`crate::equalize`]).
        equalize: bool,
        /// Mean error that rounding adds to a layer's answers is subtracted from its bias.
        correct_bias: bool,
    },
    /// 8-bit weights, activations quantized while it runs.
    DynamicInt8 {
        /// A scale for each channel of a weight.
        per_channel: bool,
        /// Convolutions too.
        convolutions: bool,
        /// 7 bits of each weight.
        reduce_range: bool,
    },
    /// Quantizes the weights alone.
    WeightOnly {
        /// Of so many bits.
        bits: Bits,
        /// Method that chooses codes.
        method: weight_only::Method,
        /// Weights that share a scale.
        block: usize,
        /// Whether zero points are left out.
        symmetric: bool,
        /// `DequantizeLinear` before a plain product instead of `MatMulNBits`.
        qdq: bool,
    },
    /// 16-bit floats.
    Half {
        /// Format that the floats are converted to.
        format: Format,
    },
    /// The smallest weights set to zero.
    PruneWeights {
        /// Pattern of the zeros.
        pattern: Pattern,
    },
    /// The weakest channels taken out.
    PruneChannels {
        /// Share of the channels, 0 to 1.
        share: f32,
    },
}

impl Recipe {
    /// Returns the form that it makes.
    #[must_use]
    pub const fn form(&self) -> Form {
        match self {
            Self::StaticInt8 { .. } => Form::Int8Qdq,
            Self::DynamicInt8 { .. } => Form::Int8Dynamic,
            Self::WeightOnly { bits: Bits::Eight, .. } => Form::Int8Weights,
            Self::WeightOnly { bits: Bits::Four, .. } => Form::Int4Weights,
            Self::Half { format: Format::Float16 | Format::Float16Weights } => Form::Fp16,
            Self::Half { format: Format::Bfloat16Weights } => Form::Bf16,
            Self::PruneWeights { .. } | Self::PruneChannels { .. } => Form::Pruned,
        }
    }

    /// The form and the way to it, like `int8-qdq per-channel entropy`; unique among recipes.
    #[must_use]
    pub fn name(&self) -> String {
        let form = self.form().as_str();
        let scales = |per_channel: bool| if per_channel { " per-channel" } else { "" };
        match self {
            Self::StaticInt8 {
                per_channel,
                calibration,
                activations,
                symmetric,
                reduce_range,
                equalize,
                correct_bias,
            } => {
                let signed = if *activations == Activations::S8 { " s8" } else { "" };
                let even = if *symmetric { " symmetric" } else { "" };
                let bits = if *reduce_range { " 7-bit" } else { "" };
                let equalized = if *equalize { " equalized" } else { "" };
                let corrected = if *correct_bias { " bias-corrected" } else { "" };
                let scales = scales(*per_channel);
                format!("{form}{scales}{signed}{even}{bits}{equalized}{corrected} {}", calibration.as_str())
            }
            Self::DynamicInt8 { per_channel, convolutions, reduce_range } => {
                let bits = if *reduce_range { " 7-bit" } else { "" };
                let convolutions = if *convolutions { " with convolutions" } else { "" };
                format!("{form}{}{bits}{convolutions}", scales(*per_channel))
            }
            Self::WeightOnly { method, block, symmetric, qdq, .. } => {
                let method = match method {
                    weight_only::Method::Rtn => "",
                    weight_only::Method::Hqq => " hqq",
                    weight_only::Method::Gptq { .. } => " gptq",
                };
                let block = if *block == weight_only::BLOCK { String::new() } else { format!(" by {block}") };
                let even = if *symmetric { " symmetric" } else { "" };
                format!("{form}{method}{block}{even}{}", if *qdq { " qdq" } else { "" })
            }
            Self::Half { format: Format::Float16 } => form.to_owned(),
            Self::Half { format: Format::Float16Weights | Format::Bfloat16Weights } => format!("{form} weights"),
            Self::PruneWeights { pattern: Pattern::PerLayer(share) } => {
                format!("{form} weights {:.0} %", 100.0 * *share)
            }
            Self::PruneWeights { pattern: Pattern::Global(share) } => {
                format!("{form} weights {:.0} % overall", 100.0 * *share)
            }
            Self::PruneWeights { pattern: Pattern::Groups { zeros, group } } => {
                format!("{form} weights {zeros}:{group}")
            }
            Self::PruneChannels { share } => format!("{form} channels {:.0} %", 100.0 * *share),
        }
    }
}
