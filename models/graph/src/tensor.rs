//! The numbers in a tensor message, wherever the writer put them.

use bytes::Bytes;
use half::{bf16, f16};

use crate::proto::TensorProto;
use crate::proto::tensor_proto::{DataLocation, DataType};

/// Type of a tensor's elements.
pub type ElementType = DataType;

/// Why a tensor could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The dimensions make no size.
    #[error("tensor {name:?} has impossible dimensions {dims:?}")]
    Dims {
        /// The tensor.
        name: String,
        /// Its dimensions.
        dims: Vec<i64>,
    },
    /// Too few or too many numbers for the dimensions.
    #[error("tensor {name:?} holds {found} elements where its dimensions say {wanted}")]
    Length {
        /// The tensor.
        name: String,
        /// Elements in the message.
        found: usize,
        /// Elements that the dimensions make.
        wanted: usize,
    },
    /// Another element type than the caller can use.
    #[error("tensor {name:?} has elements of {found}, which are no {wanted}")]
    Type {
        /// The tensor.
        name: String,
        /// Its element type.
        found: &'static str,
        /// What was wanted.
        wanted: &'static str,
    },
    /// The numbers are in another file that was not read.
    #[error("tensor {name:?} keeps its data in another file: open the model by its path")]
    External {
        /// The tensor.
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
    /// [`TensorError::Dims`] when one is negative or their product is beyond `usize`.
    fn shape(&self) -> Result<Vec<usize>, TensorError>;

    /// The elements as f32, from any float type (half precision widens, f64 rounds).
    ///
    /// # Errors
    /// When they are no floats, or not as many as the dimensions say.
    fn floats(&self) -> Result<Vec<f32>, TensorError>;

    /// The elements as i64, from any whole number type of 8 bits or more, and bool.
    ///
    /// # Errors
    /// When they are no whole numbers, or not as many as the dimensions say.
    fn integers(&self) -> Result<Vec<i64>, TensorError>;

    /// A tensor of little-endian bytes; `raw` holds exactly the elements of `shape`.
    fn of_raw(name: &str, element: ElementType, shape: &[usize], raw: impl Into<Bytes>) -> Self;

    /// A tensor of f32.
    fn of_floats(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::of_raw(name, ElementType::Float, shape, raw)
    }

    /// A tensor of int64.
    fn of_int64(name: &str, shape: &[usize], values: &[i64]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::of_raw(name, ElementType::Int64, shape, raw)
    }

    /// A tensor of int32.
    fn of_int32(name: &str, shape: &[usize], values: &[i32]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
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
            self.dims.iter().map(|&dim| usize::try_from(dim)).collect::<Result<_, _>>().map_err(|_| wrong())?;
        shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim)).ok_or_else(wrong)?;
        Ok(shape)
    }

    fn floats(&self) -> Result<Vec<f32>, TensorError> {
        #[expect(clippy::cast_possible_truncation, reason = "f64 weights are rounded to f32, as the doc says")]
        let values = match self.element_type() {
            ElementType::Float => self.pick(&self.float_data, f32::from_le_bytes)?,
            ElementType::Double => {
                self.pick(&self.double_data, f64::from_le_bytes)?.into_iter().map(|value| value as f32).collect()
            }
            ElementType::Float16 => self.halves(|bits| f16::from_bits(bits).to_f32())?,
            ElementType::Bfloat16 => self.halves(|bits| bf16::from_bits(bits).to_f32())?,
            _ => return Err(self.wrong_type("floating-point numbers")),
        };
        self.counted(values)
    }

    fn integers(&self) -> Result<Vec<i64>, TensorError> {
        let values = match self.element_type() {
            ElementType::Int64 => self.pick(&self.int64_data, i64::from_le_bytes)?,
            ElementType::Int32 => self.widen(&self.int32_data, i32::from_le_bytes)?,
            ElementType::Int16 => self.narrow(i16::from_le_bytes)?,
            ElementType::Uint16 => self.narrow(u16::from_le_bytes)?,
            ElementType::Int8 => self.narrow(i8::from_le_bytes)?,
            ElementType::Uint8 | ElementType::Bool => self.narrow(u8::from_le_bytes)?,
            _ => return Err(self.wrong_type("whole numbers")),
        };
        self.counted(values)
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
    /// Elements by whatever field holds them: raw bytes, or the list of their own type.
    fn pick<const N: usize, T: Copy>(&self, list: &[T], read: fn([u8; N]) -> T) -> Result<Vec<T>, TensorError> {
        self.here()?;
        Ok(match &self.raw_data {
            Some(raw) => whole(raw).iter().map(|chunk| read(*chunk)).collect(),
            None => list.to_vec(),
        })
    }

    fn widen<const N: usize, T: Copy + Into<i64>>(
        &self,
        list: &[T],
        read: fn([u8; N]) -> T,
    ) -> Result<Vec<i64>, TensorError> {
        Ok(self.pick(list, read)?.into_iter().map(Into::into).collect())
    }

    /// Narrow whole numbers stand in `int32_data`, one each.
    fn narrow<const N: usize, T: Into<i64>>(&self, read: fn([u8; N]) -> T) -> Result<Vec<i64>, TensorError> {
        self.here()?;
        Ok(match &self.raw_data {
            Some(raw) => whole(raw).iter().map(|chunk| read(*chunk).into()).collect(),
            None => self.int32_data.iter().map(|&value| value.into()).collect(),
        })
    }

    /// Half precision stands in `int32_data` by its bits.
    fn halves(&self, read: fn(u16) -> f32) -> Result<Vec<f32>, TensorError> {
        self.here()?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the low 16 bits are the number")]
        Ok(match &self.raw_data {
            Some(raw) => whole(raw).iter().map(|chunk| read(u16::from_le_bytes(*chunk))).collect(),
            None => self.int32_data.iter().map(|&bits| read(bits as u16)).collect(),
        })
    }

    fn here(&self) -> Result<(), TensorError> {
        match self.data_location() {
            DataLocation::Default => Ok(()),
            DataLocation::External => Err(TensorError::External { name: self.name().to_owned() }),
        }
    }

    fn counted<T>(&self, values: Vec<T>) -> Result<Vec<T>, TensorError> {
        let wanted = self.shape()?.iter().product();
        let found = values.len();
        if found == wanted {
            return Ok(values);
        }
        Err(TensorError::Length { name: self.name().to_owned(), found, wanted })
    }

    fn wrong_type(&self, wanted: &'static str) -> TensorError {
        let found = self.element_type().as_str_name();
        TensorError::Type { name: self.name().to_owned(), found, wanted }
    }
}

/// The bytes in pieces of `N`; what is left over is not counted, and the length check says so.
fn whole<const N: usize>(raw: &[u8]) -> &[[u8; N]] {
    raw.as_chunks().0
}
