//! The nouns that travel between cores and shells.
//!
//! Data without behaviour of its own: names and digests ([`id`]), tensors ([`tensor`]) and what a model takes and
//! gives ([`signature`]), routing policies ([`policy`]), how an answer came to be ([`receipt`]) and the limits that
//! several crates must agree on ([`limits`]). Depends on nothing of ours; knows no I/O, no clock, no engine.

pub mod id;
pub mod limits;
pub mod policy;
pub mod receipt;
pub mod signature;
pub mod tensor;
pub mod update;

pub use id::{DeviceId, Digest, InvalidId, ModelName, RequestId, VariantName, Version};
pub use policy::PolicyMode;
pub use receipt::{EngineName, Place, Reason, Receipt, Timings};
pub use signature::{Dim, Mismatch, Signature, TensorSpec};
pub use tensor::{DType, NamedTensor, Tensor, TensorError};
