//! Messages of an inference: headers in the message, tensor bytes as body.
//!
//! The bytes of the tensors follow each other in the order of their headers, without gaps, in the layout of
//! [`types::tensor`]. Every bound is checked before the bytes are read, and splitting copies nothing.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use types::limits::{RANK_MAX, TENSOR_BYTES_MAX, TENSOR_NAME_BYTES_MAX, TENSORS_MAX};
use types::{
    DType, Digest, EngineName, ModelName, NamedTensor, Reason, RequestId, Tensor, TensorError, VariantName, Version,
};

use super::{count, text};
use crate::wire;

/// Name, type, shape and size of a tensor in the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorHeader {
    /// Name of the input or output.
    pub name: String,
    /// Element type of the tensor.
    #[serde(with = "wire::dtype")]
    pub dtype: DType,
    /// Size of each dimension.
    pub shape: Vec<u64>,
    /// Size in the body, in bytes.
    pub bytes: u64,
}

/// Inference request from a device to the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InferRequest {
    /// Identifier in the response, the logs and the receipt.
    pub request_id: RequestId,
    /// Name of the model.
    pub model: ModelName,
    /// Version of the model; `None` for the current one.
    pub version: Option<Version>,
    /// Reason for which the device sends the request to the hub.
    #[serde(with = "wire::reason")]
    pub reason: Reason,
    /// Remaining time for the whole exchange in milliseconds; `None` without a deadline. Clocks are not compared.
    pub deadline_left_ms: Option<u32>,
    /// W3C trace context of the caller.
    pub traceparent: Option<String>,
    /// Names of the requested outputs; empty for all.
    pub outputs: Vec<String>,
    /// Inputs, in the order of their bytes in the body.
    pub tensors: Vec<TensorHeader>,
}

/// Hub's response to an [`InferRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InferResponse {
    /// Version that ran.
    pub version: Version,
    /// Variant of the version that ran.
    pub variant: VariantName,
    /// Digest of the model file that ran.
    #[serde(with = "wire::digest")]
    pub digest: Digest,
    /// Engine that ran the model.
    #[serde(with = "wire::engine")]
    pub engine: EngineName,
    /// Execution provider that was used.
    pub provider: String,
    /// Time in the hub's queue, in microseconds.
    pub queue_us: u64,
    /// Time in the engine, in microseconds.
    pub compute_us: u64,
    /// Outputs, in the order of their bytes in the body.
    pub tensors: Vec<TensorHeader>,
}

impl InferRequest {
    /// Splits the body into the inputs. See [`split_body`].
    ///
    /// # Errors
    /// Fails if the body does not match the headers.
    pub fn split_body(&self, body: &Bytes) -> Result<Vec<NamedTensor>, BodyError> {
        split_body(&self.tensors, body)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        count("outputs", self.outputs.len(), TENSORS_MAX)?;
        for output in &self.outputs {
            count("output name bytes", output.len(), TENSOR_NAME_BYTES_MAX)?;
        }
        text("traceparent", self.traceparent.as_deref().unwrap_or(""))?;
        check_headers(&self.tensors)
    }
}

impl InferResponse {
    /// Splits the body into the outputs. See [`split_body`].
    ///
    /// # Errors
    /// Fails if the body does not match the headers.
    pub fn split_body(&self, body: &Bytes) -> Result<Vec<NamedTensor>, BodyError> {
        split_body(&self.tensors, body)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        text("provider", &self.provider)?;
        check_headers(&self.tensors)
    }
}

/// Error: a body does not match its tensor headers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The length of the body differs from the sum over the headers.
    #[error("the tensors take {announced} bytes, the body has {given}")]
    Length {
        /// Sum over the headers, in bytes.
        announced: u64,
        /// Length of the body, in bytes.
        given: usize,
    },
    /// A dimension is too large for the address space of this machine.
    #[error("tensor {name:?} has a dimension that is too large")]
    Dimension {
        /// Name of the tensor.
        name: String,
    },
    /// The bytes of a tensor do not match its type and shape.
    #[error("tensor {name:?} is not valid")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// Fault of the tensor.
        #[source]
        source: TensorError,
    },
}

/// Returns the number of bytes that the headers announce, saturating at the maximum of `u64`.
pub(super) fn length(headers: &[TensorHeader]) -> u64 {
    headers.iter().fold(0, |sum, header| sum.saturating_add(header.bytes))
}

fn check_headers(headers: &[TensorHeader]) -> Result<(), String> {
    count("tensors", headers.len(), TENSORS_MAX)?;
    for header in headers {
        count("tensor name bytes", header.name.len(), TENSOR_NAME_BYTES_MAX)?;
        count("dimensions", header.shape.len(), RANK_MAX)?;
    }
    let max = u64::try_from(TENSOR_BYTES_MAX).unwrap_or(u64::MAX);
    super::at_most("sum of tensor bytes", length(headers), max)
}

/// Returns the headers of tensors for a message and their bytes for its body, without copying them.
#[must_use]
pub fn join_body(tensors: &[NamedTensor]) -> (Vec<TensorHeader>, Vec<Bytes>) {
    tensors.iter().map(|named| (header(named), named.tensor.data().clone())).unzip()
}

fn header(named: &NamedTensor) -> TensorHeader {
    // Both conversions widen: no machine addresses more than 64 bits.
    let wide = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
    TensorHeader {
        name: named.name.clone(),
        dtype: named.tensor.dtype(),
        shape: named.tensor.shape().iter().map(|&size| wide(size)).collect(),
        bytes: wide(named.tensor.data().len()),
    }
}

/// Splits a body into the tensors that the headers announce; the tensors share the body's memory.
///
/// # Errors
/// Fails if the length of the body is not the announced one, or if the bytes of a tensor do not match its shape.
pub fn split_body(headers: &[TensorHeader], body: &Bytes) -> Result<Vec<NamedTensor>, BodyError> {
    let wrong_length = || BodyError::Length { announced: length(headers), given: body.len() };
    let mut rest = body.clone();
    let mut tensors = Vec::with_capacity(headers.len());
    for header in headers {
        let bytes = usize::try_from(header.bytes).ok().filter(|&bytes| bytes <= rest.len()).ok_or_else(wrong_length)?;
        tensors.push(tensor(header, rest.split_to(bytes))?);
    }
    if rest.is_empty() { Ok(tensors) } else { Err(wrong_length()) }
}

fn tensor(header: &TensorHeader, data: Bytes) -> Result<NamedTensor, BodyError> {
    let name = || header.name.clone();
    let shape: Result<Vec<usize>, _> = header.shape.iter().map(|&size| usize::try_from(size)).collect();
    let shape = shape.map_err(|_over| BodyError::Dimension { name: name() })?;
    let tensor = Tensor::new(header.dtype, shape, data).map_err(|source| BodyError::Tensor { name: name(), source })?;
    Ok(NamedTensor { name: name(), tensor })
}
