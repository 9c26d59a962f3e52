//! How elements lie in device memory.

use crate::ir::ElementType;

/// Layout of the elements of a value in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Repr {
    /// One `f32` a word: every floating-point type (`f64` rounds, halves widen; for constants see [`super::Floats`]).
    F32,
    /// One `i32` a word: `int64` (range-checked where it enters), `int32`, `int16`, `bool` as 0 or 1.
    I32,
    /// One `u32` a word: `uint64` (range-checked), `uint32`, `uint16`.
    U32,
    /// Four signed bytes a word, the first in the low byte, the last word padded with zeros.
    I8x4,
    /// Four unsigned bytes a word, likewise.
    U8x4,
}

impl Repr {
    /// Returns the layout of an element type on the device; 4-bit weights are never stored there as themselves.
    #[must_use]
    pub const fn of(dtype: ElementType) -> Self {
        match dtype {
            ElementType::F16 | ElementType::Bf16 | ElementType::F32 | ElementType::F64 => Self::F32,
            ElementType::Bool | ElementType::I16 | ElementType::I32 | ElementType::I64 => Self::I32,
            ElementType::U16 | ElementType::U32 | ElementType::U64 => Self::U32,
            ElementType::I8 | ElementType::I4 => Self::I8x4,
            ElementType::U8 | ElementType::U4 => Self::U8x4,
        }
    }

    /// Elements in one 4-byte word.
    #[must_use]
    pub const fn per_word(self) -> usize {
        match self {
            Self::F32 | Self::I32 | Self::U32 => 1,
            Self::I8x4 | Self::U8x4 => 4,
        }
    }

    /// Words that so many elements take.
    #[must_use]
    pub const fn words(self, elements: usize) -> usize {
        elements.div_ceil(self.per_word())
    }

    /// The same numbers, one a word.
    #[must_use]
    pub const fn unpacked(self) -> Self {
        match self {
            Self::I8x4 => Self::I32,
            Self::U8x4 => Self::U32,
            Self::F32 | Self::I32 | Self::U32 => self,
        }
    }

    /// The WGSL type of a binding with such words.
    #[must_use]
    pub const fn array(self) -> &'static str {
        match self {
            Self::F32 => "array<f32>",
            Self::I32 => "array<i32>",
            Self::U32 | Self::I8x4 | Self::U8x4 => "array<u32>",
        }
    }

    /// The WGSL type of one element once it is loaded.
    #[must_use]
    pub const fn wgsl(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::I32 | Self::I8x4 => "i32",
            Self::U32 | Self::U8x4 => "u32",
        }
    }
}
