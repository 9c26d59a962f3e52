//! Tensors on their way into ONNX Runtime and back.

use bytes::Bytes;
use half::{bf16, f16};
use ort::value::{DynTensorRef, DynValue, PrimitiveTensorElementType, Shape, Tensor as OrtTensor};
use types::limits::TENSOR_BYTES_MAX;
use types::{DType, NamedTensor, Tensor, TensorError};

use super::raw;
use super::signature::dtype;
use crate::session::RunError;

/// Copies a tensor into a value that ONNX Runtime can use. The value owns the elements.
///
/// A copy, because the bytes of a request start at any address and kernels expect elements at multiples of their size.
///
/// The value must live until the outputs of its run are copied: an output that passes an input through (`Identity`,
/// `Reshape`, a graph output that is a graph input) is the same memory, and ONNX Runtime does not own that memory.
pub(super) fn input(input: &NamedTensor) -> Result<DynValue, RunError> {
    let tensor = &input.tensor;
    match tensor.dtype() {
        DType::Bool => numbers(tensor, |[byte]: [u8; 1]| byte != 0),
        DType::U8 => numbers(tensor, u8::from_le_bytes),
        DType::U16 => numbers(tensor, u16::from_le_bytes),
        DType::U32 => numbers(tensor, u32::from_le_bytes),
        DType::U64 => numbers(tensor, u64::from_le_bytes),
        DType::I8 => numbers(tensor, i8::from_le_bytes),
        DType::I16 => numbers(tensor, i16::from_le_bytes),
        DType::I32 => numbers(tensor, i32::from_le_bytes),
        DType::I64 => numbers(tensor, i64::from_le_bytes),
        DType::F16 => numbers(tensor, f16::from_le_bytes),
        DType::Bf16 => numbers(tensor, bf16::from_le_bytes),
        DType::F32 => numbers(tensor, f32::from_le_bytes),
        DType::F64 => numbers(tensor, f64::from_le_bytes),
        DType::Bytes => strings(input),
    }
}

fn numbers<T, const N: usize>(tensor: &Tensor, read: fn([u8; N]) -> T) -> Result<DynValue, RunError>
where
    T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static,
{
    let elements: Vec<T> = tensor.data().as_chunks::<N>().0.iter().map(|&lane| read(lane)).collect();
    let value = OrtTensor::<T>::from_array((shape_of(tensor)?, elements)).map_err(failed)?;
    Ok(value.into_dyn())
}

/// Strings of ONNX are UTF-8, and its C interface ends them at the first NUL byte.
fn strings(input: &NamedTensor) -> Result<DynValue, RunError> {
    let elements = input.tensor.to_elements().map_err(|error| RunError::Failed(error.into()))?;
    let text = |(element, bytes): (usize, &&'_ [u8])| {
        let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).map(str::to_owned);
        text.ok_or_else(|| RunError::NotText { input: input.name.clone(), element })
    };
    let texts: Vec<String> = elements.iter().enumerate().map(text).collect::<Result<_, _>>()?;
    let value = OrtTensor::from_string_array((shape_of(&input.tensor)?, texts.as_slice())).map_err(failed)?;
    Ok(value.into_dyn())
}

fn shape_of(tensor: &Tensor) -> Result<Vec<i64>, RunError> {
    let sizes = tensor.shape().iter().map(|&size| i64::try_from(size));
    sizes.collect::<Result<_, _>>().map_err(|error| RunError::Failed(error.into()))
}

/// Copies an output out, if an answer can carry it. `left` is what all outputs together may still take, in bytes.
pub(super) fn output(name: &str, value: &DynValue, left: &mut usize) -> Result<NamedTensor, RunError> {
    let cannot = |cause: TensorError| RunError::Output { output: name.to_owned(), cause };
    let tensor = value.view().downcast::<ort::value::DynTensorValueType>().map_err(failed)?;
    let element = *tensor.data_type();
    let dtype = dtype(element).ok_or_else(|| RunError::Failed(format!("output {name:?} is of {element}").into()))?;
    let shape = sizes(tensor.shape())?;
    let too_large = || cannot(TensorError::TooLarge { dtype, shape: shape.clone() });
    // Every element takes a byte at least, so this also bounds the strings before they are copied.
    let elements = shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
    let bytes = elements.and_then(|elements| elements.checked_mul(dtype.size().unwrap_or(1)));
    let bytes = bytes.filter(|&bytes| bytes <= *left).ok_or_else(too_large)?;
    let data = if dtype == DType::Bytes { string_bytes(&tensor)? } else { number_bytes(name, &tensor, bytes)? };
    *left = left.checked_sub(data.len()).ok_or_else(too_large)?;
    let tensor = Tensor::new(dtype, shape, data).map_err(cannot)?;
    Ok(NamedTensor { name: name.to_owned(), tensor })
}

/// Most bytes of all outputs of one run.
pub(super) const OUTPUT_BYTES_MAX: usize = TENSOR_BYTES_MAX;

fn sizes(shape: &Shape) -> Result<Vec<usize>, RunError> {
    let sizes = shape.iter().map(|&size| usize::try_from(size));
    sizes.collect::<Result<_, _>>().map_err(|error| RunError::Failed(error.into()))
}

fn number_bytes(name: &str, tensor: &DynTensorRef<'_>, length: usize) -> Result<Bytes, RunError> {
    raw::bytes_of(tensor, length)
        .ok_or_else(|| RunError::Failed(format!("output {name:?} is where the processor cannot read it").into()))
}

fn string_bytes(tensor: &DynTensorRef<'_>) -> Result<Bytes, RunError> {
    let (_shape, texts) = tensor.try_extract_strings().map_err(failed)?;
    let shape = vec![texts.len()];
    let tensor = Tensor::from_elements(shape, &texts).map_err(|error| RunError::Failed(error.into()))?;
    Ok(tensor.data().clone())
}

fn failed(error: ort::Error) -> RunError {
    RunError::Failed(error.into())
}
