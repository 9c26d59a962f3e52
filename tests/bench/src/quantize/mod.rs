//! Our compression beside PyPI's `onnxruntime.quantization`: the same model, the same examples, the same options.
//!
//! The benchmark ([`rows`]) and the differential tests (`tests/quantize.rs`) stand on it. Models and examples are those of
//! `models/compress/tools/corpus.py`, the other side and the judge of both are its Python neighbours.

pub mod corpus;
pub mod ours;
pub mod rows;
pub mod theirs;

use clap::ValueEnum;

/// A form that both sides make, with the options that both are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Static: u8 activations with ranges from least to greatest, s8 weights with a scale for each channel.
    Int8Qdq,
    /// Dynamic: s8 weights with one scale each.
    Int8Dynamic,
    /// 4-bit weights of matrix products, in even blocks of 32.
    Int4Weights,
}

impl Form {
    /// Every form.
    pub const ALL: [Self; 3] = [Self::Int8Qdq, Self::Int8Dynamic, Self::Int4Weights];

    /// Its name, as the product has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int8Qdq => "int8-qdq",
            Self::Int8Dynamic => "int8-dynamic",
            Self::Int4Weights => "int4-weights",
        }
    }

    /// Whether the other side changes anything in this model of the corpus: its 4-bit weights are those of MatMul alone,
    /// and of Gemm, convolutions and tables it leaves every one as it is.
    #[must_use]
    pub fn suits(self, model: &str) -> bool {
        self != Self::Int4Weights || ["rapidocr-cls", "magika", "rapidocr-rec", "minilm"].contains(&model)
    }

    /// What `peer.py` is told.
    const fn peer_arguments(self) -> &'static [&'static str] {
        match self {
            Self::Int8Qdq => &["static"],
            Self::Int8Dynamic => &["dynamic", "--per-tensor"],
            Self::Int4Weights => &["int4"],
        }
    }
}
