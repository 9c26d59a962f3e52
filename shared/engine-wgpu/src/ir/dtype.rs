//! Element types of ONNX that this engine knows, wider than those a request may carry: 4-bit integers are weights only.

use std::fmt;

use types::DType;

/// Element type of a value in the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ElementType {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned 4-bit integer, two per byte, low half first.
    U4,
    /// Signed 4-bit integer, two per byte, low half first.
    I4,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 16-bit integer.
    U16,
    /// Signed 16-bit integer.
    I16,
    /// Unsigned 32-bit integer.
    U32,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 64-bit integer.
    U64,
    /// Signed 64-bit integer.
    I64,
    /// Half precision.
    F16,
    /// The upper half of a single.
    Bf16,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

impl ElementType {
    /// The type with this number in ONNX's `TensorProto.DataType`.
    #[must_use]
    pub fn from_onnx(number: i32) -> Option<Self> {
        Some(match number {
            1 => Self::F32,
            2 => Self::U8,
            3 => Self::I8,
            4 => Self::U16,
            5 => Self::I16,
            6 => Self::I32,
            7 => Self::I64,
            9 => Self::Bool,
            10 => Self::F16,
            11 => Self::F64,
            12 => Self::U32,
            13 => Self::U64,
            16 => Self::Bf16,
            21 => Self::U4,
            22 => Self::I4,
            _ => return None,
        })
    }

    /// Bits of one element in a file or a request.
    #[must_use]
    pub const fn bits(self) -> usize {
        match self {
            Self::U4 | Self::I4 => 4,
            Self::Bool | Self::U8 | Self::I8 => 8,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 16,
            Self::U32 | Self::I32 | Self::F32 => 32,
            Self::U64 | Self::I64 | Self::F64 => 64,
        }
    }

    /// Bytes of that many elements in a file or a request; `None` where that overflows.
    #[must_use]
    pub fn bytes_of(self, elements: usize) -> Option<usize> {
        Some(elements.checked_mul(self.bits())?.div_ceil(8))
    }

    /// Returns whether this is a floating-point type.
    #[must_use]
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }

    /// The type a request or answer carries it as; `None` for 4-bit integers, which are weights only.
    #[must_use]
    pub const fn to_request(self) -> Option<DType> {
        Some(match self {
            Self::U4 | Self::I4 => return None,
            Self::Bool => DType::Bool,
            Self::U8 => DType::U8,
            Self::I8 => DType::I8,
            Self::U16 => DType::U16,
            Self::I16 => DType::I16,
            Self::U32 => DType::U32,
            Self::I32 => DType::I32,
            Self::U64 => DType::U64,
            Self::I64 => DType::I64,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::Bf16,
            Self::F32 => DType::F32,
            Self::F64 => DType::F64,
        })
    }

    /// The type of a request's tensor; `None` for text.
    #[must_use]
    pub const fn from_request(dtype: DType) -> Option<Self> {
        Some(match dtype {
            DType::Bytes => return None,
            DType::Bool => Self::Bool,
            DType::U8 => Self::U8,
            DType::I8 => Self::I8,
            DType::U16 => Self::U16,
            DType::I16 => Self::I16,
            DType::U32 => Self::U32,
            DType::I32 => Self::I32,
            DType::U64 => Self::U64,
            DType::I64 => Self::I64,
            DType::F16 => Self::F16,
            DType::Bf16 => Self::Bf16,
            DType::F32 => Self::F32,
            DType::F64 => Self::F64,
        })
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U4 => "uint4",
            Self::I4 => "int4",
            Self::Bool => "bool",
            Self::U8 => "uint8",
            Self::I8 => "int8",
            Self::U16 => "uint16",
            Self::I16 => "int16",
            Self::U32 => "uint32",
            Self::I32 => "int32",
            Self::U64 => "uint64",
            Self::I64 => "int64",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F32 => "float32",
            Self::F64 => "float64",
        })
    }
}
