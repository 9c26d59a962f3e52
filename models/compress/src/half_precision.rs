//! f32 models in 16 bits.
//!
//! Either the whole computation in f16, with f32 kept where 16 bits are too few, or only the weights stored in 16 bits
//! and widened by the engine as it loads. Inputs and outputs of the model stay f32.

mod tiny;
mod weights;
mod whole;

use std::collections::{BTreeSet, HashMap};

use onnx_graph::infer::infer;

use onnx_graph::{ElementType, Model};
use serde::{Deserialize, Serialize};

use crate::calibrate::Ranges;
use crate::{CompressError, Report, Selection};

/// Operators that stay f32 unless they are asked for: sums over many elements, and what raises to a power.
///
/// f16 has 11 bits and ends at 65,504: the statistics of a normalisation and the sum of a softmax are what breaks first.
pub const KEPT: [&str; 17] = [
    "CumSum",
    "Exp",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "LogSoftmax",
    "LpNormalization",
    "MeanVarianceNormalization",
    "Pow",
    "RMSNormalization",
    "Range",
    "ReduceL2",
    "ReduceLogSumExp",
    "ReduceMean",
    "ReduceSum",
    "ReduceSumSquare",
    "Softmax",
];

/// Format that the floats are converted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Weights and computation in f16: for engines with f16 kernels. ONNX Runtime on a processor computes most of it in f32.
    Float16,
    /// Weights stored in f16, computed with in f32: half the size, any engine, no operator changes its meaning.
    Float16Weights,
    /// Weights stored in bf16, computed with in f32: the range of f32 with 8 bits of precision. ONNX Runtime on a
    /// processor has no bf16 kernels, so there is no form that computes in it.
    Bfloat16Weights,
}

/// Options of the pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Format that the floats are converted to.
    pub format: Format,
    /// Operators that stay f32.
    pub kept: BTreeSet<String>,
    /// The nodes that may be changed.
    pub selection: Selection,
}

impl Default for Options {
    /// f16 throughout but for [`KEPT`].
    fn default() -> Self {
        let kept = KEPT.iter().map(|&operator| operator.to_owned()).collect();
        Self { format: Format::Float16, kept, selection: Selection::default() }
    }
}

/// The f32 values of a model that should be seen on examples ([`crate::calibrate::observe`]) before it computes in f16.
#[must_use]
pub fn watched(model: &Model) -> Vec<String> {
    let types = infer(model, &HashMap::new());
    let made = model.graph.nodes.iter().flat_map(|node| &node.output);
    made.filter(|name| types.element(name) == ElementType::Float).cloned().collect()
}

/// Halves the floats of a model.
///
/// `seen` is the range of each value on examples; a node with a value beyond f16 stays f32. It may be empty.
///
/// # Errors
/// When a weight's bytes are broken, the operator set is too low, or nothing can be changed.
pub fn convert(model: &Model, options: &Options, seen: &Ranges) -> Result<(Model, Report), CompressError> {
    match options.format {
        Format::Float16 => whole::convert(model, options, seen),
        Format::Float16Weights | Format::Bfloat16Weights => weights::convert(model, options),
    }
}
