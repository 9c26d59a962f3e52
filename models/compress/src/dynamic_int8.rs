//! 8-bit weights and activations whose range is found anew in every run: no examples needed.
//!
//! Products become `DynamicQuantizeLinear → MatMulInteger → Cast → Mul (→ Add)`, convolutions the same with `ConvInteger`,
//! in the very order that ONNX Runtime and our wgpu engine fuse. One `DynamicQuantizeLinear` serves every consumer of a
//! value. Embedding tables become 8 bits too, LSTMs `com.microsoft.DynamicQuantizeLSTM`.

mod lstm;
mod rewrite;
mod weight;

use serde::{Deserialize, Serialize};

use crate::Selection;

pub use rewrite::quantize;

/// Options of the pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Weights as int8 around zero; otherwise uint8 with a zero point.
    pub signed: bool,
    /// One scale per output instead of one per weight; convolutions keep one, because integer ones know no other.
    pub per_channel: bool,
    /// Weights of 7 bits: old x86 processors without VNNI add pairs of products in 16 bits and saturate with 8.
    pub reduce_range: bool,
    /// Whether embedding tables (the constant of a `Gather`) become 8 bits with one scale per column.
    pub embeddings: bool,
    /// Whether convolutions are taken; they are often slower than in f32 where the engine has no fast integer kernel.
    pub convolutions: bool,
    /// The nodes that may be changed.
    pub selection: Selection,
}

impl Default for Options {
    /// int8 per channel, embeddings too, convolutions not.
    fn default() -> Self {
        Self {
            signed: true,
            per_channel: true,
            reduce_range: false,
            embeddings: true,
            convolutions: false,
            selection: Selection::default(),
        }
    }
}
