//! Labels of examples, and the numbers in a tensor.
//!
//! Fed by whoever reads examples; used by [`crate::boxes`], [`crate::symbols`] and the judging of compressed models.

use types::DType;

/// Numbers that describe one example: one for a class or a quantity, several for boxes, texts or several targets.
#[derive(Debug, Clone, PartialEq)]
pub struct Label(pub Vec<f64>);

impl Label {
    /// Returns the label's only number; `None` for several.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match self.0.as_slice() {
            [only] => Some(*only),
            _ => None,
        }
    }

    /// Reads little-endian numbers; `None` for text.
    #[must_use]
    pub fn read(dtype: DType, data: &[u8]) -> Option<Self> {
        numbers(dtype, data).map(Self)
    }
}

/// Returns the numbers in a tensor's bytes; `None` for text.
#[must_use]
pub fn numbers(dtype: DType, data: &[u8]) -> Option<Vec<f64>> {
    #[expect(clippy::cast_precision_loss, reason = "class numbers and quantities stay below 2^53")]
    let values = match dtype {
        DType::F64 => data.as_chunks().0.iter().map(|&lane| f64::from_le_bytes(lane)).collect(),
        DType::F32 => data.as_chunks().0.iter().map(|&lane| f64::from(f32::from_le_bytes(lane))).collect(),
        DType::F16 => data.as_chunks().0.iter().map(|&lane| half::f16::from_le_bytes(lane).to_f64()).collect(),
        DType::Bf16 => data.as_chunks().0.iter().map(|&lane| half::bf16::from_le_bytes(lane).to_f64()).collect(),
        DType::Bool | DType::U8 => data.iter().map(|&byte| f64::from(byte)).collect(),
        DType::I8 => data.iter().map(|&byte| f64::from(i8::from_le_bytes([byte]))).collect(),
        DType::U16 => data.as_chunks().0.iter().map(|&lane| f64::from(u16::from_le_bytes(lane))).collect(),
        DType::I16 => data.as_chunks().0.iter().map(|&lane| f64::from(i16::from_le_bytes(lane))).collect(),
        DType::U32 => data.as_chunks().0.iter().map(|&lane| f64::from(u32::from_le_bytes(lane))).collect(),
        DType::I32 => data.as_chunks().0.iter().map(|&lane| f64::from(i32::from_le_bytes(lane))).collect(),
        DType::U64 => data.as_chunks().0.iter().map(|&lane| u64::from_le_bytes(lane) as f64).collect(),
        DType::I64 => data.as_chunks().0.iter().map(|&lane| i64::from_le_bytes(lane) as f64).collect(),
        DType::Bytes => return None,
    };
    Some(values)
}
