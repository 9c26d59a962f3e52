//! Weights of 4 or 8 bits in blocks, computed with as floats: a quarter or an eighth of the size, activations untouched.
//!
//! Takes the constant matrices of `MatMul` and `Gemm`, and embedding tables at 8 bits. The blocks run along the inputs of
//! one output, each with a scale and a zero point of its own: the format of ONNX Runtime's `MatMulNBits`.

mod blocks;
mod gptq;
mod hqq;
mod pack;
mod rewrite;

use serde::{Deserialize, Serialize};

use crate::Selection;

pub use rewrite::{opset_needed, quantize};

/// Block lengths that `MatMulNBits` knows.
pub const BLOCKS: [usize; 5] = [16, 32, 64, 128, 256];

/// Weights that share a scale, unless said otherwise: as ONNX Runtime's own tools have it.
pub const BLOCK: usize = 32;

/// Bits of one weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bits {
    /// 16 levels.
    Four,
    /// 256 levels.
    Eight,
}

impl Bits {
    /// Returns the number of bits.
    #[must_use]
    pub const fn count(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// The largest code; the smallest is 0.
    pub(crate) const fn top(self) -> u8 {
        match self {
            Self::Four => 15,
            Self::Eight => 255,
        }
    }

    /// The code of zero in a symmetric grid.
    pub(crate) const fn middle(self) -> u8 {
        self.top() / 2 + 1
    }
}

/// Method that chooses codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// To the nearest level, with the scale (and zero point) of the smallest squared error of the weights.
    Rtn,
    /// Half-quadratic: zero points that forgive outliers; needs no examples. Not for symmetric grids.
    Hqq,
    /// Error-compensating: what rounding one weight costs is made up for by those not yet rounded, as far as real inputs
    /// say. Needs [`crate::Grams`].
    Gptq {
        /// Round the weights of the strongest inputs first.
        act_order: bool,
    },
}

/// Operators that the quantized product is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// `com.microsoft.MatMulNBits`: ONNX Runtime and our wgpu engine compute it from the packed weights.
    MatMulNBits {
        /// What ONNX Runtime may compute in: 0 its own choice, 1 f32, 2 f16, 4 int8 (fastest, least accurate).
        accuracy_level: u8,
    },
    /// `DequantizeLinear` before an ordinary `MatMul`, for engines without the other. 4 bits and blocks need operator
    /// set 21; below it there are 8 bits with one scale per output (13 and later).
    Qdq,
}

/// Options of the pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Bits of one weight.
    pub bits: Bits,
    /// Weights that share a scale: one of [`BLOCKS`].
    pub block: usize,
    /// No zero points: smaller, and a little less accurate.
    pub symmetric: bool,
    /// Method that chooses codes.
    pub method: Method,
    /// Operators that the product is written in.
    pub form: Form,
    /// Whether embedding tables (the constant of a `Gather`) become 8 bits with one scale per column.
    pub embeddings: bool,
    /// The nodes that may be changed.
    pub selection: Selection,
}

impl Default for Options {
    /// 4 bits in blocks of 32 with zero points, rounded to nearest, as `MatMulNBits`; embeddings at 8 bits.
    fn default() -> Self {
        Self {
            bits: Bits::Four,
            block: BLOCK,
            symmetric: false,
            method: Method::Rtn,
            form: Form::MatMulNBits { accuracy_level: 0 },
            embeddings: true,
            selection: Selection::default(),
        }
    }
}
