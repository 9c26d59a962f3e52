//! ONNX models as editable graphs.
//!
//! Reads a model file into a [`Model`], lets passes rewrite its [`Graph`], and writes it again. Fed by `compress` and by
//! the operator's command line. Knows no engine: it never computes more than what a pass over constants needs.

mod attribute;
mod graph;
mod model;
mod names;
pub mod proto;
mod tensor;
mod uses;

pub use attribute::Attributes;
pub use graph::Graph;
pub use model::{Model, ReadError, WriteError};
pub use names::Names;
pub use tensor::{ElementType, TensorError, Values};
pub use uses::{Uses, subgraphs};
