//! Tensors on the host: weights, folded constants and the values of shape-computing subgraphs.

use std::fmt;

use bytes::Bytes;

use super::ElementType;

/// A tensor on the host: row-major, little-endian, 4-bit integers two per byte with the low half first.
#[derive(Clone, PartialEq)]
pub struct Literal {
    dtype: ElementType,
    shape: Vec<usize>,
    bytes: Bytes,
}

impl Literal {
    /// Makes a literal; `None` where shape and bytes disagree or the size overflows.
    #[must_use]
    pub fn new(dtype: ElementType, shape: Vec<usize>, bytes: Bytes) -> Option<Self> {
        let elements = shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size))?;
        (dtype.bytes_of(elements)? == bytes.len()).then_some(Self { dtype, shape, bytes })
    }

    /// Makes an int64 vector: the form of shapes and axes.
    #[must_use]
    pub fn i64_vector(values: &[i64]) -> Self {
        Self::from_i64s(ElementType::I64, vec![values.len()], values)
    }

    /// Makes a float32 tensor; missing values are zero, surplus ones are dropped.
    #[must_use]
    pub fn from_f32s(shape: Vec<usize>, values: &[f32]) -> Self {
        let elements = shape.iter().product();
        let lanes = values.iter().copied().chain(std::iter::repeat(0.0)).take(elements);
        Self { dtype: ElementType::F32, shape, bytes: lanes.flat_map(f32::to_le_bytes).collect() }
    }

    /// Makes a tensor of any type from `f64` values: integers saturate, floats round, missing values are zero.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates, as documented")]
    pub fn from_f64s(dtype: ElementType, shape: Vec<usize>, values: &[f64]) -> Self {
        let elements = shape.iter().product();
        let lanes = values.iter().copied().chain(std::iter::repeat(0.0)).take(elements);
        let bytes: Vec<u8> = match dtype {
            ElementType::F32 => lanes.flat_map(|value| (value as f32).to_le_bytes()).collect(),
            ElementType::F64 => lanes.flat_map(f64::to_le_bytes).collect(),
            ElementType::F16 => lanes.flat_map(|value| half::f16::from_f64(value).to_le_bytes()).collect(),
            ElementType::Bf16 => lanes.flat_map(|value| half::bf16::from_f64(value).to_le_bytes()).collect(),
            ElementType::U64 => lanes.flat_map(|value| (value as u64).to_le_bytes()).collect(),
            ElementType::Bool
            | ElementType::U4
            | ElementType::I4
            | ElementType::U8
            | ElementType::I8
            | ElementType::U16
            | ElementType::I16
            | ElementType::U32
            | ElementType::I32
            | ElementType::I64 => {
                let values: Vec<i64> = lanes.map(|value| value as i64).collect();
                return Self::from_i64s(dtype, shape, &values);
            }
        };
        Self { dtype, shape, bytes: bytes.into() }
    }

    /// Makes an integer or boolean tensor from `i64` values that wrap to the type's width (floats are rounded to).
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the low bits of an integer are its narrow form, as documented"
    )]
    pub fn from_i64s(dtype: ElementType, shape: Vec<usize>, values: &[i64]) -> Self {
        let elements = shape.iter().product();
        let lanes = values.iter().copied().chain(std::iter::repeat(0)).take(elements);
        let bytes: Vec<u8> = match dtype {
            ElementType::Bool => lanes.map(|value| u8::from(value != 0)).collect(),
            ElementType::U8 | ElementType::I8 => lanes.map(|value| value as u8).collect(),
            ElementType::U16 | ElementType::I16 => lanes.flat_map(|value| (value as u16).to_le_bytes()).collect(),
            ElementType::U32 | ElementType::I32 => lanes.flat_map(|value| (value as u32).to_le_bytes()).collect(),
            ElementType::U64 | ElementType::I64 => lanes.flat_map(i64::to_le_bytes).collect(),
            ElementType::U4 | ElementType::I4 => {
                let nibbles: Vec<u8> = lanes.map(|value| (value & 0xf) as u8).collect();
                nibbles.chunks(2).map(|pair| pair[0] | pair.get(1).map_or(0, |high| high << 4)).collect()
            }
            ElementType::F16 | ElementType::Bf16 | ElementType::F32 | ElementType::F64 => {
                let values: Vec<f64> = lanes.map(|value| value as f64).collect();
                return Self::from_f64s(dtype, shape, &values);
            }
        };
        Self { dtype, shape, bytes: bytes.into() }
    }

    /// Type of the elements.
    #[must_use]
    pub fn dtype(&self) -> ElementType {
        self.dtype
    }

    /// Size of each dimension; empty for a scalar.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The bytes, in the layout the type describes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Number of elements of the tensor.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The same bytes under another shape of as many elements; `None` where the counts differ.
    #[must_use]
    pub fn reshaped(&self, shape: Vec<usize>) -> Option<Self> {
        Self::new(self.dtype, shape, self.bytes.clone())
    }

    /// Every element as `f64`; exact but for 64-bit integers over 2^53.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "documented")]
    pub fn to_f64s(&self) -> Vec<f64> {
        let bytes = &self.bytes;
        match self.dtype {
            ElementType::F32 => lanes::<4>(bytes).map(|lane| f64::from(f32::from_le_bytes(lane))).collect(),
            ElementType::F64 => lanes::<8>(bytes).map(f64::from_le_bytes).collect(),
            ElementType::F16 => lanes::<2>(bytes).map(|lane| half::f16::from_le_bytes(lane).to_f64()).collect(),
            ElementType::Bf16 => lanes::<2>(bytes).map(|lane| half::bf16::from_le_bytes(lane).to_f64()).collect(),
            ElementType::U64 => lanes::<8>(bytes).map(|lane| u64::from_le_bytes(lane) as f64).collect(),
            ElementType::Bool
            | ElementType::U4
            | ElementType::I4
            | ElementType::U8
            | ElementType::I8
            | ElementType::U16
            | ElementType::I16
            | ElementType::U32
            | ElementType::I32
            | ElementType::I64 => self.to_i64s().into_iter().map(|value| value as f64).collect(),
        }
    }

    /// Every element as `f32`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what the caller asks for")]
    pub fn to_f32s(&self) -> Vec<f32> {
        match self.dtype {
            ElementType::F32 => lanes::<4>(&self.bytes).map(f32::from_le_bytes).collect(),
            _ => self.to_f64s().into_iter().map(|value| value as f32).collect(),
        }
    }

    /// Every element as `i64`; floats are cut off towards zero and saturate, `uint64` wraps above `i64::MAX`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "documented")]
    pub fn to_i64s(&self) -> Vec<i64> {
        let bytes = &self.bytes;
        match self.dtype {
            ElementType::Bool | ElementType::U8 => bytes.iter().map(|&byte| i64::from(byte)).collect(),
            ElementType::I8 => bytes.iter().map(|&byte| i64::from(byte as i8)).collect(),
            ElementType::U16 => lanes::<2>(bytes).map(|lane| i64::from(u16::from_le_bytes(lane))).collect(),
            ElementType::I16 => lanes::<2>(bytes).map(|lane| i64::from(i16::from_le_bytes(lane))).collect(),
            ElementType::U32 => lanes::<4>(bytes).map(|lane| i64::from(u32::from_le_bytes(lane))).collect(),
            ElementType::I32 => lanes::<4>(bytes).map(|lane| i64::from(i32::from_le_bytes(lane))).collect(),
            ElementType::U64 | ElementType::I64 => lanes::<8>(bytes).map(i64::from_le_bytes).collect(),
            ElementType::U4 => self.nibbles().map(i64::from).collect(),
            ElementType::I4 => self.nibbles().map(|nibble| i64::from(((nibble << 4) as i8) >> 4)).collect(),
            ElementType::F16 | ElementType::Bf16 | ElementType::F32 | ElementType::F64 => {
                self.to_f64s().into_iter().map(|value| value as i64).collect()
            }
        }
    }

    fn nibbles(&self) -> impl Iterator<Item = u8> + '_ {
        self.bytes.iter().flat_map(|byte| [byte & 0xf, byte >> 4]).take(self.elements())
    }
}

impl fmt::Debug for Literal {
    /// Prints type and shape, and the values of what is small enough to be a shape.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)?;
        if self.elements() <= 8 { write!(f, "={:?}", self.to_f64s()) } else { Ok(()) }
    }
}

fn lanes<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}
