//! Limits that several crates share, each with its unit and reason.

/// Maximum size of all input or all output tensors of one request, in bytes.
///
/// 64 MiB holds a batch of 100 images of 224 x 224 x 3 in f32 (60 MB) and still leaves room for four requests in flight
/// on a device with 512 MiB of memory.
pub const TENSOR_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Maximum number of inputs or outputs of a model.
///
/// Models with a key-value cache of 48 layers have 2 x 48 tensors; the limit is more than twice that.
pub const TENSORS_MAX: usize = 256;

/// Maximum number of dimensions of a tensor. NumPy and ONNX Runtime support at most 32 in practice; real models stay
/// under 8.
pub const RANK_MAX: usize = 16;

/// Maximum length of a tensor name in bytes; exporters write scoped names like
/// `/model/layers.0/self_attn/q_proj/MatMul`.
pub const TENSOR_NAME_BYTES_MAX: usize = 512;

/// Maximum length of a model, variant or device name in bytes: that of a DNS label, because names are used in paths,
/// metrics and certificates.
pub const NAME_BYTES_MAX: usize = 63;

/// Maximum length of a request id in bytes; a UUID takes 36.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// Maximum size of a single file of a bundle in bytes.
///
/// Protocol buffers, and therefore ONNX without external data, are limited to 2 GiB.
pub const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
