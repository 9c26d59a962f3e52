//! Tensors in requests, responses and on the wire: element type, shape and raw little-endian bytes.
//!
//! The byte layout is that of the Open Inference Protocol's binary extension, so that a tensor passes from the HTTP
//! server to the hub and back without re-encoding: row-major, little-endian, booleans one byte each, and each `BYTES`
//! element preceded by its length as a 32-bit little-endian integer.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::limits::{RANK_MAX, TENSOR_BYTES_MAX};

/// Element type of a tensor, printed as its Open Inference Protocol name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DType {
    /// Boolean in one byte, 0 or 1.
    Bool,
    /// Unsigned 8-bit integer.
    U8,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 64-bit integer.
    U64,
    /// Signed 8-bit integer.
    I8,
    /// Signed 16-bit integer.
    I16,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// IEEE 754 half precision (16 bits).
    F16,
    /// Brain floating point: the upper 16 bits of an IEEE 754 single.
    Bf16,
    /// IEEE 754 single precision (32 bits).
    F32,
    /// IEEE 754 double precision (64 bits).
    F64,
    /// Strings or blobs of any length.
    Bytes,
}

impl DType {
    /// All element types, for tests and documentation.
    pub const ALL: [Self; 14] = [
        Self::Bool,
        Self::U8,
        Self::U16,
        Self::U32,
        Self::U64,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::F16,
        Self::Bf16,
        Self::F32,
        Self::F64,
        Self::Bytes,
    ];

    /// Returns the name in the Open Inference Protocol (`BF16` as Triton writes it).
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "UINT8",
            Self::U16 => "UINT16",
            Self::U32 => "UINT32",
            Self::U64 => "UINT64",
            Self::I8 => "INT8",
            Self::I16 => "INT16",
            Self::I32 => "INT32",
            Self::I64 => "INT64",
            Self::F16 => "FP16",
            Self::Bf16 => "BF16",
            Self::F32 => "FP32",
            Self::F64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// Returns the size of one element in bytes; `None` for [`DType::Bytes`].
    #[must_use]
    pub const fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::U8 | Self::I8 => Some(1),
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Bytes => None,
        }
    }

    /// Returns the element type of a little-endian NumPy type string, such as `<f4`; single bytes have no byte order.
    /// `None` for every other string.
    #[must_use]
    pub fn from_numpy(descr: &str) -> Option<Self> {
        Some(match descr {
            "|b1" => Self::Bool,
            "|u1" => Self::U8,
            "<u2" => Self::U16,
            "<u4" => Self::U32,
            "<u8" => Self::U64,
            "|i1" => Self::I8,
            "<i2" => Self::I16,
            "<i4" => Self::I32,
            "<i8" => Self::I64,
            "<f2" => Self::F16,
            "<f4" => Self::F32,
            "<f8" => Self::F64,
            _ => return None,
        })
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DType {
    type Err = TensorError;
    fn from_str(text: &str) -> Result<Self, TensorError> {
        let known = Self::ALL.into_iter().find(|dtype| dtype.as_str() == text);
        known.ok_or_else(|| TensorError::UnknownDType(text.chars().take(40).collect()))
    }
}

impl TryFrom<String> for DType {
    type Error = TensorError;
    fn try_from(text: String) -> Result<Self, TensorError> {
        text.parse()
    }
}

impl From<DType> for String {
    fn from(dtype: DType) -> String {
        dtype.as_str().to_owned()
    }
}

/// Error: bytes are not a valid tensor of the declared type and shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The name of the element type is unknown.
    #[error("unknown datatype {0:?}: use BOOL, UINT8 to UINT64, INT8 to INT64, FP16, BF16, FP32, FP64 or BYTES")]
    UnknownDType(String),
    /// The tensor has too many dimensions.
    #[error("a tensor of {0} dimensions exceeds the limit of {RANK_MAX}")]
    Rank(usize),
    /// The tensor exceeds the size limit of a request.
    #[error("a {dtype} tensor of shape {shape:?} exceeds the limit of {TENSOR_BYTES_MAX} bytes")]
    TooLarge {
        /// Declared element type of the tensor.
        dtype: DType,
        /// Declared shape of the tensor.
        shape: Vec<usize>,
    },
    /// The number of bytes does not match the shape.
    #[error("a {dtype} tensor of shape {shape:?} needs {expected} bytes, {given} were given")]
    Length {
        /// Declared element type of the tensor.
        dtype: DType,
        /// Declared shape of the tensor.
        shape: Vec<usize>,
        /// Number of bytes that the shape needs.
        expected: usize,
        /// Number of bytes given.
        given: usize,
    },
    /// The length prefixes of a `BYTES` tensor do not match its bytes.
    #[error("a BYTES tensor of {elements} elements has length prefixes that do not match its {given} bytes")]
    Prefixes {
        /// Number of elements by the shape.
        elements: usize,
        /// Number of bytes given.
        given: usize,
    },
    /// A boolean has a value other than 0 and 1.
    #[error("a BOOL tensor contains the byte {0}: use 0 or 1")]
    NotBool(u8),
    /// The elements were requested as another type than they have.
    #[error("a {given} tensor cannot be read as {wanted}")]
    WrongType {
        /// Element type of the tensor.
        given: DType,
        /// Element type requested.
        wanted: DType,
    },
}

/// A tensor whose bytes are known to match its shape and element type.
#[derive(Clone, PartialEq, Eq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Bytes,
}

impl Tensor {
    /// Creates a tensor after checking that `data` matches the type and shape exactly. An empty shape is a scalar.
    ///
    /// # Errors
    /// Fails if the number of dimensions or the size exceeds its limit, or if the bytes do not match the shape.
    pub fn new(dtype: DType, shape: Vec<usize>, data: Bytes) -> Result<Self, TensorError> {
        if shape.len() > RANK_MAX {
            return Err(TensorError::Rank(shape.len()));
        }
        let too_large = || TensorError::TooLarge { dtype, shape: shape.clone() };
        let elements = shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
        let elements = elements.ok_or_else(too_large)?;
        if data.len() > TENSOR_BYTES_MAX {
            return Err(too_large());
        }
        match dtype.size() {
            Some(size) => {
                let expected = elements.checked_mul(size).filter(|&bytes| bytes <= TENSOR_BYTES_MAX);
                let expected = expected.ok_or_else(too_large)?;
                if expected != data.len() {
                    return Err(TensorError::Length { dtype, shape, expected, given: data.len() });
                }
            }
            None => {
                if split_prefixed(&data).try_fold(0_usize, |count, element| element.map(|_| count + 1)) != Ok(elements)
                {
                    return Err(TensorError::Prefixes { elements, given: data.len() });
                }
            }
        }
        if dtype == DType::Bool
            && let Some(&byte) = data.iter().find(|&&byte| byte > 1)
        {
            return Err(TensorError::NotBool(byte));
        }
        Ok(Self { dtype, shape, data })
    }

    /// Creates an `FP32` tensor.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Result<Self, TensorError> {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::new(DType::F32, shape, data.into())
    }

    /// Creates a `BYTES` tensor from its elements.
    ///
    /// # Errors
    /// As [`Tensor::new`]; also if the length of an element does not fit into 32 bits.
    pub fn from_elements<E: AsRef<[u8]>>(shape: Vec<usize>, elements: &[E]) -> Result<Self, TensorError> {
        let mut data = Vec::new();
        for element in elements {
            let element = element.as_ref();
            let length = u32::try_from(element.len());
            let length = length.map_err(|_over| TensorError::TooLarge { dtype: DType::Bytes, shape: shape.clone() })?;
            data.extend_from_slice(&length.to_le_bytes());
            data.extend_from_slice(element);
        }
        Self::new(DType::Bytes, shape, data.into())
    }

    /// Returns the element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns the size of each dimension; empty for a scalar.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns the bytes, in the layout that the module describes.
    #[must_use]
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// Returns the elements of a floating-point tensor as `f32` (`FP64` is rounded).
    ///
    /// # Errors
    /// [`TensorError::WrongType`] for integers, booleans and `BYTES`.
    pub fn to_f32(&self) -> Result<Vec<f32>, TensorError> {
        #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what the caller asks for")]
        match self.dtype {
            DType::F32 => Ok(self.lanes().map(f32::from_le_bytes).collect()),
            DType::F64 => Ok(self.lanes().map(|lane| f64::from_le_bytes(lane) as f32).collect()),
            DType::F16 => Ok(self.lanes().map(|lane| half::f16::from_le_bytes(lane).to_f32()).collect()),
            DType::Bf16 => Ok(self.lanes().map(|lane| half::bf16::from_le_bytes(lane).to_f32()).collect()),
            DType::Bool
            | DType::U8
            | DType::U16
            | DType::U32
            | DType::U64
            | DType::I8
            | DType::I16
            | DType::I32
            | DType::I64
            | DType::Bytes => Err(TensorError::WrongType { given: self.dtype, wanted: DType::F32 }),
        }
    }

    /// Returns the elements of a `BYTES` tensor.
    ///
    /// # Errors
    /// [`TensorError::WrongType`] for every other type.
    pub fn to_elements(&self) -> Result<Vec<&[u8]>, TensorError> {
        if self.dtype != DType::Bytes {
            return Err(TensorError::WrongType { given: self.dtype, wanted: DType::Bytes });
        }
        let broken = |()| TensorError::Prefixes { elements: self.elements(), given: self.data.len() };
        split_prefixed(&self.data).collect::<Result<_, ()>>().map_err(broken)
    }

    /// Iterates over the raw elements of `N` bytes each.
    fn lanes<const N: usize>(&self) -> impl Iterator<Item = [u8; N]> + '_ {
        self.data.as_chunks::<N>().0.iter().copied()
    }
}

impl fmt::Debug for Tensor {
    /// Prints type and shape only: payloads must not be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)
    }
}

/// A tensor and the name of its input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedTensor {
    /// Name as written in the model file.
    pub name: String,
    /// Element type, shape and data.
    pub tensor: Tensor,
}

/// Iterates over length-prefixed elements; yields `Err` once if a prefix points past the end.
fn split_prefixed(mut rest: &[u8]) -> impl Iterator<Item = Result<&[u8], ()>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let element = rest.split_first_chunk::<4>().and_then(|(prefix, tail)| {
            let length = usize::try_from(u32::from_le_bytes(*prefix)).ok()?;
            tail.split_at_checked(length)
        });
        Some(match element {
            Some((element, tail)) => {
                rest = tail;
                Ok(element)
            }
            None => {
                rest = &[];
                Err(())
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_the_shape_are_refused() {
        let data = |count: usize| Bytes::from(vec![0; count]);
        assert!(Tensor::new(DType::F32, vec![2, 3], data(24)).is_ok());
        assert!(Tensor::new(DType::F32, vec![2, 3], data(23)).is_err());
        assert!(Tensor::new(DType::F32, vec![], data(4)).is_ok(), "a scalar has one element");
        assert!(Tensor::new(DType::F32, vec![0, 7], data(0)).is_ok(), "an empty tensor is lawful");
        assert!(Tensor::new(DType::U8, vec![1; RANK_MAX + 1], data(1)).is_err());
        assert_eq!(Tensor::new(DType::Bool, vec![1], Bytes::from_static(&[2])), Err(TensorError::NotBool(2)));
    }

    #[test]
    fn a_shape_whose_product_overflows_is_refused_without_allocating() {
        assert!(matches!(
            Tensor::new(DType::F64, vec![usize::MAX, 2], Bytes::new()),
            Err(TensorError::TooLarge { .. })
        ));
        assert!(matches!(
            Tensor::new(DType::F64, vec![usize::MAX / 4], Bytes::new()),
            Err(TensorError::TooLarge { .. })
        ));
    }

    #[test]
    fn strings_travel_with_their_lengths() {
        let tensor = Tensor::from_elements(vec![3], &["a", "", "épée"]).unwrap();
        assert_eq!(tensor.to_elements().unwrap(), ["a".as_bytes(), b"", "épée".as_bytes()]);
        assert!(Tensor::new(DType::Bytes, vec![2], tensor.data().clone()).is_err(), "one element too many");
        assert!(Tensor::new(DType::Bytes, vec![1], Bytes::from_static(&[255, 0, 0, 0, 1])).is_err());
        assert!(Tensor::new(DType::Bytes, vec![1], Bytes::from_static(&[1, 0])).is_err());
    }

    #[test]
    fn halves_and_doubles_read_as_f32() {
        let half = Tensor::new(DType::F16, vec![1], Bytes::from_static(&[0x00, 0x3c])).unwrap();
        assert_eq!(half.to_f32().unwrap(), [1.0]);
        let bf16 = Tensor::new(DType::Bf16, vec![1], Bytes::from_static(&[0x80, 0x3f])).unwrap();
        assert_eq!(bf16.to_f32().unwrap(), [1.0]);
        assert!(Tensor::from_elements(vec![1], &["x"]).unwrap().to_f32().is_err());
    }
}
