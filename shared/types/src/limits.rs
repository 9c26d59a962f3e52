//! Limits that more than one crate must agree on, each with its unit and reason.

/// Most bytes of all input or all output tensors of one request.
///
/// 64 MiB holds a batch of 100 images of 224 x 224 x 3 in f32 (60 MB) and still leaves room for four requests in
/// flight on a device with 512 MiB of memory.
pub const TENSOR_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most inputs or outputs of a model.
///
/// Models with a key-value cache of 48 layers expose 2 x 48 tensors; twice that and some.
pub const TENSORS_MAX: usize = 256;

/// Most dimensions of a tensor; NumPy's and ONNX Runtime's practical ceiling is 32, real models stay under 8.
pub const RANK_MAX: usize = 16;

/// Longest name of a tensor in bytes; exporters write scoped names like `/model/layers.0/self_attn/q_proj/MatMul`.
pub const TENSOR_NAME_BYTES_MAX: usize = 512;

/// Longest model, variant or device name in bytes: a DNS label, because names end up in paths, metrics and certificates.
pub const NAME_BYTES_MAX: usize = 63;

/// Longest request id in bytes that a client may choose; a UUID takes 36.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// Largest single file of a bundle in bytes.
///
/// Protocol buffers, and so ONNX without external data, end at 2 GiB.
pub const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
