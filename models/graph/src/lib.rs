//! ONNX models as editable graphs.
//!
//! Reads a model file into a [`Model`], lets passes rewrite its [`Graph`], and writes it again. Fed by `compress` and by
//! the operator's command line. Knows no engine: it never computes more than what a pass over constants needs.

mod attribute;
pub mod check;
#[doc(hidden)]
pub mod exercise;
mod external;
pub mod fold;
mod graph;
pub mod infer;
pub mod inspect;
mod limits;
pub mod memory;
mod model;
mod names;
pub mod opset;
pub mod proto;
pub mod rewrite;
mod scan;
mod tensor;
mod uses;
mod visit;
mod write;

pub use attribute::Attributes;
pub use external::ExternalError;
pub use graph::Graph;
pub use limits::{MESSAGE_BYTES_MAX, ReadLimits, Refusal};
pub use model::{Model, ReadError};
pub use names::Names;
pub use tensor::{ElementType, TensorError, Values, bits_of, bytes_of, is_integer, is_possible, packed};
pub use uses::{Uses, subgraphs};
pub use write::{EXTERNAL_BYTES_MIN, Weights, WriteError};
