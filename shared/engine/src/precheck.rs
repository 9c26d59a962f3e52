//! Refuses models that no engine should see: oversize, deeply nested, reaching outside their file, or using operators
//! that nobody here knows.
//!
//! Fed by [`crate::Engine::load`] with the bytes of a model file, before any engine parses them. It reads the protocol
//! buffers itself, without building anything from them: every byte is looked at a bounded number of times and nothing is
//! allocated but one entry for each distinct operator. What it lets through is not thereby correct: the engine still
//! checks types, shapes and order. The numbers of fields are those of `onnx.proto` (ONNX 1.23, IR version 14).

mod budget;
pub mod format;
mod functions;
mod walk;
mod wire;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use types::limits::FILE_BYTES_MAX;

/// Operator domains that the engines know: ONNX itself, its classical machine learning, ONNX Runtime's own operators.
pub const DOMAINS: [&str; 4] = ["", "ai.onnx", "ai.onnx.ml", "com.microsoft"];

/// Operators of those domains that reach outside the model file all the same, as (domain, operator).
///
/// `EPContext` loads a compiled graph from a file it names, or from bytes that go to a vendor's driver unchecked.
pub const OPERATORS_REFUSED: [(&str, &str); 1] = [("com.microsoft", "EPContext")];

/// Maximum size of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelLimits {
    /// Bytes of the model file. Default: what a bundle's file may have at most.
    pub file_bytes: u64,
    /// Nodes, with those of subgraphs, and with each model-local function counted wherever it is called.
    ///
    /// Default 50,000: a decoder of 48 layers exported operator by operator has about 10,000. ONNX Runtime was still
    /// loading a model of 200,000 after 30 s.
    pub nodes: usize,
    /// Initializers and constant tensors. Default 50,000, for the same reason.
    pub tensors: usize,
    /// Depth of graphs in attributes of nodes (`If` in `Loop` in `Scan`). Default 8: real models stay under 4.
    pub depth: usize,
    /// Bytes of memory that loading may take beyond twice the file: sparse constants written out, numbers in wide lists,
    /// names, descriptions, metadata and small messages, all together.
    ///
    /// Default 320 MiB: one sparse constant of the largest size and 64 MiB. The largest exports with a stack trace in every node
    /// take about 90 MB by this estimate.
    pub load_bytes: u64,
}

impl Default for ModelLimits {
    fn default() -> Self {
        Self { file_bytes: FILE_BYTES_MAX, nodes: 50_000, tensors: 50_000, depth: 8, load_bytes: 320 * 1024 * 1024 }
    }
}

/// Counts of the pre-check, for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFacts {
    /// Version of the default operator set, if the file imports it.
    pub opset: Option<u64>,
    /// Nodes, counted as [`ModelLimits::nodes`] says.
    pub nodes: usize,
    /// Initializers and constant tensors.
    pub tensors: usize,
    /// Deepest graph; 0 is a model without subgraphs.
    pub depth: usize,
    /// Number of uses of each operator in the file, by `domain.operator` (the default domain is left out).
    pub operators: BTreeMap<String, usize>,
}

/// Reason for the refusal of a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The file is over the limit.
    #[error("the model file has {bytes} bytes, over the limit of {limit}")]
    FileSize {
        /// Bytes of the file.
        bytes: usize,
        /// Maximum bytes of a model file: [`ModelLimits::file_bytes`].
        limit: u64,
    },
    /// Not protocol buffers, or cut short.
    #[error("the file is no readable ONNX model: {what}")]
    Unreadable {
        /// Fault that was found, as a clause.
        what: &'static str,
    },
    /// A file of another format, told by its first bytes.
    #[error("the file is {what}, not an ONNX model: {advice}")]
    OtherFormat {
        /// Name of the format, like `a zip archive`.
        what: &'static str,
        /// Advice for the operator, as a clause.
        advice: &'static str,
    },
    /// The ORT format, which the pre-check cannot read.
    #[error("the file is in ONNX Runtime's own format: only ONNX is served")]
    OrtFormat,
    /// The model has more nodes than allowed.
    #[error("the model has more than {limit} nodes")]
    Nodes {
        /// Maximum number of nodes: [`ModelLimits::nodes`].
        limit: usize,
    },
    /// The model has more constant tensors than allowed.
    #[error("the model has more than {limit} constant tensors")]
    Tensors {
        /// Maximum number of tensors: [`ModelLimits::tensors`].
        limit: usize,
    },
    /// Graphs, or types, nested too deep.
    #[error("the model nests {what} deeper than {limit}")]
    Depth {
        /// Nested items: `graphs`, `functions` or `types`.
        what: &'static str,
        /// Maximum depth of nesting.
        limit: usize,
    },
    /// Weights outside the file.
    #[error("tensor {tensor:?} keeps its data outside the model file: save the model with its weights inside")]
    ExternalData {
        /// Name of the tensor.
        tensor: String,
    },
    /// More elements than the bytes could hold.
    #[error("tensor {tensor:?} claims more elements than its bytes can hold")]
    TensorSize {
        /// Name of the tensor.
        tensor: String,
    },
    /// Small in the file, enormous in memory.
    #[error("loading the model takes more than {limit} bytes of memory, of which its {what} are the last: reduce them")]
    Memory {
        /// Kind of data that was counted when the limit was passed.
        what: &'static str,
        /// The limit for this file: twice its bytes and [`ModelLimits::load_bytes`].
        limit: u64,
    },
    /// An operator from a domain that nobody here knows.
    #[error(
        "operator {operator:?} is of the unknown domain {domain:?}: known are ai.onnx, ai.onnx.ml and com.microsoft"
    )]
    Domain {
        /// Domain of the operator.
        domain: String,
        /// Name of the operator.
        operator: String,
    },
    /// An operator of a known domain that is refused by name.
    #[error("operator {operator:?} of domain {domain:?} is not served: it reaches outside the model file")]
    Operator {
        /// Domain of the operator.
        domain: String,
        /// Name of the operator.
        operator: String,
    },
    /// A model-local function that calls itself, directly or through others.
    #[error("function {function:?} of the model calls itself")]
    Recursion {
        /// Name of the function.
        function: String,
    },
    /// An input or output that is no tensor.
    #[error(
        "{kind} {name:?} of the model is no tensor: sequences, maps and optional values cannot be served (convert classifiers of \
         scikit-learn, LightGBM and XGBoost with zipmap=False)"
    )]
    NotTensor {
        /// Side of the signature: `input` or `output`.
        kind: &'static str,
        /// Name of the input or output.
        name: String,
    },
}

/// Holds a model file against the limits.
///
/// # Errors
/// The first [`Refusal`] met.
pub fn check(file: &[u8], limits: &ModelLimits) -> Result<ModelFacts, Refusal> {
    if u64::try_from(file.len()).map_or(true, |bytes| bytes > limits.file_bytes) {
        return Err(Refusal::FileSize { bytes: file.len(), limit: limits.file_bytes });
    }
    // ONNX Runtime tells its own format by these bytes, whatever else the file may be read as.
    if file.get(4..8) == Some(b"ORTM") {
        return Err(Refusal::OrtFormat);
    }
    let walked = walk::model(file, limits);
    match (walked, format::other(file)) {
        // What begins like another format and can be read as a model all the same is one.
        (Err(Refusal::Unreadable { .. }), Some((what, advice))) => Err(Refusal::OtherFormat { what, advice }),
        (walked, _) => walked,
    }
}
