//! Comparison of our compression with PyPI's `onnxruntime.quantization`: the same model, the same examples, the same
//! options.
//!
//! Used by the benchmark ([`rows`]) and the differential tests (`tests/quantize.rs`). Models and examples are those of
//! `models/compress/tools/corpus.py`; the other quantizer and the judge of both are Python scripts in the same folder.

pub mod corpus;
pub mod ours;
pub mod rows;
pub mod theirs;

use clap::ValueEnum;

/// A form that both quantizers create, with equal options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Static: u8 activations with ranges from minimum to maximum, s8 weights with a scale for each channel.
    Int8Qdq,
    /// Dynamic: s8 weights with one scale each.
    Int8Dynamic,
    /// 4-bit weights of matrix products, in blocks of 32.
    Int4Weights,
}

impl Form {
    /// All forms, in the order of the table.
    pub const ALL: [Self; 3] = [Self::Int8Qdq, Self::Int8Dynamic, Self::Int4Weights];

    /// Returns the name in the product.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int8Qdq => "int8-qdq",
            Self::Int8Dynamic => "int8-dynamic",
            Self::Int4Weights => "int4-weights",
        }
    }

    /// Returns whether the other quantizer changes anything in this model of the corpus: its 4-bit weights are those of
    /// MatMul only, and it leaves Gemm, convolutions and tables unchanged.
    #[must_use]
    pub fn suits(self, model: &str) -> bool {
        self != Self::Int4Weights || ["rapidocr-cls", "magika", "rapidocr-rec", "minilm"].contains(&model)
    }

    /// Returns the arguments for `peer.py`.
    const fn peer_arguments(self) -> &'static [&'static str] {
        match self {
            Self::Int8Qdq => &["static"],
            Self::Int8Dynamic => &["dynamic", "--per-tensor"],
            Self::Int4Weights => &["int4"],
        }
    }
}
