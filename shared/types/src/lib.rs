//! Data types that the cores and the shells exchange.
//!
//! Data without behaviour of its own: names and digests ([`id`]), tensors ([`tensor`]), the inputs and outputs of a
//! model ([`signature`]), host names ([`host`]), options of a GPU ([`gpu`]), texts of errors ([`error`]), processes of
//! engines ([`process`]), counts of what a version did ([`counters`], [`histogram`]), inferences ([`inference`]), routing
//! policies ([`policy`]), later answers ([`amend`]), chains of hashes over logs ([`chain`]), the origin of a response ([`receipt`]), shares and times of
//! the day ([`share`], [`window`]) and the limits that several crates share ([`limits`]). Depends on no
//! other crate of this workspace; does no I/O, reads no clock, knows no engine.

pub mod amend;
pub mod chain;
pub mod counters;
pub mod error;
pub mod gpu;
pub mod histogram;
pub mod host;
pub mod id;
pub mod inference;
pub mod limits;
pub mod policy;
pub mod preprocess;
pub mod process;
pub mod receipt;
pub mod share;
pub mod signature;
pub mod tensor;
pub mod update;
pub mod window;

pub use amend::{Amend, Amendment, QueuePriority};
pub use id::{DeviceId, Digest, InvalidId, ModelName, RequestId, VariantName, Version};
pub use inference::{Caller, ErrorCode, InferenceError, InferenceRequest, InferenceResponse};
pub use policy::{Policy, PolicyMode};
pub use process::{HostStatus, Isolation};
pub use receipt::{Calibration, EngineName, Place, Reason, Receipt, Timings};
pub use signature::{Dim, Mismatch, Signature, TensorSpec};
pub use tensor::{DType, NamedTensor, Tensor, TensorError};
