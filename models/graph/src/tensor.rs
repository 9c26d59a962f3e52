//! The numbers in a tensor message, wherever the writer put them.

use bytes::Bytes;
use half::{bf16, f16};

use crate::proto::TensorProto;
use crate::proto::tensor_proto::{DataLocation, DataType};

/// Type of a tensor's elements.
pub type ElementType = DataType;

/// Reason why a tensor could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The dimensions make no size.
    #[error("tensor {name:?} has impossible dimensions {dims:?}")]
    Dims {
        /// Name of the tensor.
        name: String,
        /// Its dimensions.
        dims: Vec<i64>,
    },
    /// Too few or too many numbers for the dimensions.
    #[error("tensor {name:?} holds {found} bytes where its dimensions say {wanted}")]
    Length {
        /// Name of the tensor.
        name: String,
        /// Bytes in the message.
        found: usize,
        /// Bytes that the dimensions make.
        wanted: usize,
    },
    /// Another element type than the caller can use.
    #[error("tensor {name:?} has elements of {found}, which are no {wanted}")]
    Type {
        /// Name of the tensor.
        name: String,
        /// Name of its element type.
        found: &'static str,
        /// Element type or shape that was wanted.
        wanted: &'static str,
    },
    /// The numbers are in another file that was not read.
    #[error("tensor {name:?} keeps its data in another file: open the model by its path")]
    External {
        /// Name of the tensor.
        name: String,
    },
}

/// Reads numbers out of tensor messages and makes messages of numbers.
pub trait Values: Sized {
    /// The element type; `Undefined` for a number that ONNX does not know.
    fn element_type(&self) -> ElementType;

    /// The dimensions.
    ///
    /// # Errors
    /// [`TensorError::Dims`] when one is negative or [`is_possible`] says no.
    fn shape(&self) -> Result<Vec<usize>, TensorError>;

    /// The elements as f32, from any float type (half precision widens, f64 rounds).
    ///
    /// # Errors
    /// When they are no floats, or not as many as the dimensions say.
    fn floats(&self) -> Result<Vec<f32>, TensorError>;

    /// The elements as little-endian bytes, wherever the message has them; numbers under 8 bits stay packed, the first in
    /// the lowest bits. Bytes that are raw already are shared, not copied.
    ///
    /// # Errors
    /// When they are no numbers, or not as many as the dimensions say.
    fn raw(&self) -> Result<Bytes, TensorError>;

    /// The elements as i64, from any whole number type, and bool.
    ///
    /// # Errors
    /// When they are no whole numbers, one is beyond `i64`, or they are not as many as the dimensions say.
    fn integers(&self) -> Result<Vec<i64>, TensorError>;

    /// A tensor of little-endian bytes; `raw` holds exactly the elements of `shape`.
    fn of_raw(name: &str, element: ElementType, shape: &[usize], raw: impl Into<Bytes>) -> Self;

    /// A tensor of f32.
    fn of_floats(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let raw = values.iter().map(|value| value.to_le_bytes()).collect::<Vec<_>>().into_flattened();
        Self::of_raw(name, ElementType::Float, shape, raw)
    }

    /// A tensor of int64.
    fn of_int64(name: &str, shape: &[usize], values: &[i64]) -> Self {
        let raw = values.iter().map(|value| value.to_le_bytes()).collect::<Vec<_>>().into_flattened();
        Self::of_raw(name, ElementType::Int64, shape, raw)
    }

    /// A tensor of int32.
    fn of_int32(name: &str, shape: &[usize], values: &[i32]) -> Self {
        let raw = values.iter().map(|value| value.to_le_bytes()).collect::<Vec<_>>().into_flattened();
        Self::of_raw(name, ElementType::Int32, shape, raw)
    }
}

impl Values for TensorProto {
    fn element_type(&self) -> ElementType {
        ElementType::try_from(self.data_type()).unwrap_or(ElementType::Undefined)
    }

    fn shape(&self) -> Result<Vec<usize>, TensorError> {
        let wrong = || TensorError::Dims { name: self.name().to_owned(), dims: self.dims.clone() };
        let shape: Vec<usize> =
            self.dims.iter().map(|&dim| usize::try_from(dim)).collect::<Result<_, _>>().map_err(|_error| wrong())?;
        if is_possible(&shape) { Ok(shape) } else { Err(wrong()) }
    }

    fn floats(&self) -> Result<Vec<f32>, TensorError> {
        let element = self.element_type();
        if !matches!(element, ElementType::Float | ElementType::Double | ElementType::Float16 | ElementType::Bfloat16) {
            return Err(self.wrong_type("floating-point numbers"));
        }
        let raw = self.raw()?;
        #[expect(clippy::cast_possible_truncation, reason = "f64 weights are rounded to f32, as the doc says")]
        Ok(match element {
            ElementType::Double => lanes(&raw, |lane| f64::from_le_bytes(lane) as f32),
            ElementType::Float16 => lanes(&raw, |lane| f16::from_le_bytes(lane).to_f32()),
            ElementType::Bfloat16 => lanes(&raw, |lane| bf16::from_le_bytes(lane).to_f32()),
            _ => lanes(&raw, f32::from_le_bytes),
        })
    }

    fn integers(&self) -> Result<Vec<i64>, TensorError> {
        let element = self.element_type();
        if !is_integer(element) {
            return Err(self.wrong_type("whole numbers"));
        }
        let raw = self.raw()?;
        Ok(match element {
            ElementType::Int64 => lanes(&raw, i64::from_le_bytes),
            ElementType::Int32 => lanes(&raw, |lane| i32::from_le_bytes(lane).into()),
            ElementType::Uint32 => lanes(&raw, |lane| u32::from_le_bytes(lane).into()),
            ElementType::Int16 => lanes(&raw, |lane| i16::from_le_bytes(lane).into()),
            ElementType::Uint16 => lanes(&raw, |lane| u16::from_le_bytes(lane).into()),
            ElementType::Int8 => lanes(&raw, |lane| i8::from_le_bytes(lane).into()),
            ElementType::Uint64 => {
                let wide = lanes(&raw, u64::from_le_bytes);
                let wide: Result<_, _> = wide.into_iter().map(i64::try_from).collect();
                wide.map_err(|_beyond| self.wrong_type("whole numbers under 2^63"))?
            }
            ElementType::Int4 | ElementType::Uint4 | ElementType::Int2 | ElementType::Uint2 => {
                unpacked(&raw, element, self.shape()?.iter().product())
            }
            _ => lanes(&raw, |lane: [u8; 1]| u8::from_le_bytes(lane).into()),
        })
    }

    fn raw(&self) -> Result<Bytes, TensorError> {
        self.here()?;
        let element = self.element_type();
        let wanted = bytes_of(element, &self.shape()?).ok_or_else(|| self.wrong_type("numbers"))?;
        let raw = match &self.raw_data {
            Some(raw) if raw.len() == wanted || !raw.is_empty() => raw.clone(),
            _ => self.listed(element),
        };
        if raw.len() == wanted {
            return Ok(raw);
        }
        Err(TensorError::Length { name: self.name().to_owned(), found: raw.len(), wanted })
    }

    fn of_raw(name: &str, element: ElementType, shape: &[usize], raw: impl Into<Bytes>) -> Self {
        Self {
            name: Some(name.to_owned()),
            data_type: Some(element.into()),
            dims: shape.iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)).collect(),
            raw_data: Some(raw.into()),
            ..Self::default()
        }
    }
}

impl TensorProto {
    /// The elements out of the list that the format has for their type.
    fn listed(&self, element: ElementType) -> Bytes {
        match element {
            ElementType::Float | ElementType::Complex64 => flat(&self.float_data, |value| value.to_le_bytes()),
            ElementType::Double | ElementType::Complex128 => flat(&self.double_data, |value| value.to_le_bytes()),
            ElementType::Int64 => flat(&self.int64_data, |value| value.to_le_bytes()),
            ElementType::Uint64 => flat(&self.uint64_data, |value| value.to_le_bytes()),
            // Narrower numbers stand in lists of wider ones, by their low bytes.
            ElementType::Uint32 => flat(&self.uint64_data, |value| low::<8, 4>(value.to_le_bytes())),
            ElementType::Int32 => flat(&self.int32_data, |value| value.to_le_bytes()),
            ElementType::Int16 | ElementType::Uint16 | ElementType::Float16 | ElementType::Bfloat16 => {
                flat(&self.int32_data, |value| low::<4, 2>(value.to_le_bytes()))
            }
            _ => flat(&self.int32_data, |value| low::<4, 1>(value.to_le_bytes())),
        }
    }

    fn here(&self) -> Result<(), TensorError> {
        match self.data_location() {
            DataLocation::Default => Ok(()),
            DataLocation::External => Err(TensorError::External { name: self.name().to_owned() }),
        }
    }

    fn wrong_type(&self, wanted: &'static str) -> TensorError {
        let found = self.element_type().as_str_name();
        TensorError::Type { name: self.name().to_owned(), found, wanted }
    }
}

/// Bits of one element; `None` for text and for what is no type.
#[must_use]
pub const fn bits_of(element: ElementType) -> Option<usize> {
    Some(match element {
        ElementType::Undefined | ElementType::String => return None,
        ElementType::Int2 | ElementType::Uint2 => 2,
        ElementType::Int4 | ElementType::Uint4 | ElementType::Float4e2m1 => 4,
        ElementType::Float6e2m3 | ElementType::Float6e3m2 => 6,
        ElementType::Int8
        | ElementType::Uint8
        | ElementType::Bool
        | ElementType::Float8e4m3fn
        | ElementType::Float8e4m3fnuz
        | ElementType::Float8e5m2
        | ElementType::Float8e5m2fnuz
        | ElementType::Float8e8m0 => 8,
        ElementType::Int16 | ElementType::Uint16 | ElementType::Float16 | ElementType::Bfloat16 => 16,
        ElementType::Int32 | ElementType::Uint32 | ElementType::Float => 32,
        ElementType::Int64 | ElementType::Uint64 | ElementType::Double | ElementType::Complex64 => 64,
        ElementType::Complex128 => 128,
    })
}

/// Bytes of a tensor's elements; `None` for text, and beyond `usize`.
#[must_use]
pub fn bytes_of(element: ElementType, shape: &[usize]) -> Option<usize> {
    let elements = shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim))?;
    Some(elements.checked_mul(bits_of(element)?)?.div_ceil(8))
}

/// Returns whether the product of any of the dimensions, in bytes of the widest elements, is within `isize`: also of those beside
/// a dimension of 0, so that nobody who multiplies some of them needs to look.
#[must_use]
pub fn is_possible(shape: &[usize]) -> bool {
    let product = shape.iter().try_fold(16_usize, |product, &dim| product.checked_mul(dim.max(1)));
    product.is_some_and(|bytes| isize::try_from(bytes).is_ok())
}

/// Returns whether these are whole numbers, or bool.
#[must_use]
pub const fn is_integer(element: ElementType) -> bool {
    matches!(
        element,
        ElementType::Int64
            | ElementType::Int32
            | ElementType::Int16
            | ElementType::Int8
            | ElementType::Int4
            | ElementType::Int2
            | ElementType::Uint64
            | ElementType::Uint32
            | ElementType::Uint16
            | ElementType::Uint8
            | ElementType::Uint4
            | ElementType::Uint2
            | ElementType::Bool
    )
}

/// Packs whole numbers of 2 or 4 bits, the first in the lowest bits, as ONNX stores them. Only the low bits of each count.
#[must_use]
pub fn packed(values: &[i8], bits: u32) -> Vec<u8> {
    let in_byte = usize::try_from(8 / bits.clamp(1, 8)).unwrap_or(1);
    let mask = u8::MAX >> (8 - bits.clamp(1, 8));
    let byte = |chunk: &[i8]| {
        chunk
            .iter()
            .rev()
            .fold(0_u8, |byte, value| (u16::from(byte) << bits).to_le_bytes()[0] | (value.to_le_bytes()[0] & mask))
    };
    values.chunks(in_byte).map(byte).collect()
}

/// Numbers of 2 or 4 bits, with their signs.
fn unpacked(raw: &[u8], element: ElementType, count: usize) -> Vec<i64> {
    let bits: u32 = if matches!(element, ElementType::Int2 | ElementType::Uint2) { 2 } else { 4 };
    let is_signed = matches!(element, ElementType::Int2 | ElementType::Int4);
    let (mask, half) = ((1_i64 << bits) - 1, 1_i64 << (bits - 1));
    let places = (0..8 / bits).map(|place| place * bits);
    let number = |value: i64| if is_signed && value >= half { value - (mask + 1) } else { value };
    raw.iter()
        .flat_map(|&byte| places.clone().map(move |shift| number((i64::from(byte) >> shift) & mask)))
        .take(count)
        .collect()
}

/// Each `N` bytes as a number.
fn lanes<const N: usize, T>(raw: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks().0.iter().map(|lane| read(*lane)).collect()
}

fn flat<T: Copy, const N: usize>(list: &[T], bytes: impl Fn(T) -> [u8; N]) -> Bytes {
    list.iter().map(|&value| bytes(value)).collect::<Vec<_>>().into_flattened().into()
}

/// The low bytes of a little-endian number.
fn low<const N: usize, const M: usize>(bytes: [u8; N]) -> [u8; M] {
    std::array::from_fn(|place| bytes.get(place).copied().unwrap_or(0))
}
