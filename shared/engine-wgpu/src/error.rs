//! What can go wrong between a model file and an answer, in the words of the one who ships the model.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::fault::Fault;
use crate::ir::AttributeError;

/// One operator (in one form) that this engine cannot run, and where it stands first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnsupportedOperator {
    /// Operator type, like `Loop`.
    pub operator: String,
    /// Its domain; the default domain is `ai.onnx`.
    pub domain: String,
    /// Operator set version that the model imports.
    pub opset: i64,
    /// Number of nodes of this kind.
    pub count: usize,
    /// Name of the first of them.
    pub first_node: String,
    /// Reason for which it cannot run.
    pub reason: String,
}

impl fmt::Display for UnsupportedOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operator, domain, opset, count, first_node, reason } = self;
        write!(f, "{domain}::{operator} (opset {opset}, {count} nodes, first {first_node:?}): {reason}")
    }
}

/// Reason for which a model does not load.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The bytes are no ONNX model, or one over a limit.
    #[error("the model file is not a usable ONNX graph: {0}")]
    Malformed(String),
    /// Operators that this engine does not have: the complete list.
    #[error("the wgpu engine does not support {} kinds of operators of this model: {}", .0.len(), list(.0))]
    Unsupported(Vec<UnsupportedOperator>),
    /// One node contradicts itself or its inputs.
    #[error("node {node:?} ({operator})")]
    Node {
        /// Name of the node.
        node: String,
        /// Operator type of the node.
        operator: String,
        /// The fault of the node.
        #[source]
        source: OpError,
    },
    /// The plan for these shapes needs more memory than the budget.
    #[error("running the model at these shapes takes {needed} bytes of device memory, the budget is {budget}")]
    OverBudget {
        /// Bytes of activations and weights together.
        needed: u64,
        /// The configured budget in bytes.
        budget: u64,
    },
    /// The work of one inference cannot be done in the time that a request may take.
    #[error(
        "one inference of the model is {work} operations, about {seconds} s on this device at {per_second} operations a \
         second; a request may take {} s",
        .limit.as_secs()
    )]
    TooSlow {
        /// Elementary operations of one inference at the declared shapes.
        work: u64,
        /// Speed of the device in the fastest part of the model that was measured.
        per_second: u64,
        /// Seconds that this takes.
        seconds: u64,
        /// The configured limit of a run.
        limit: Duration,
    },
    /// The device refused or was lost.
    #[error(transparent)]
    Gpu(#[from] GpuError),
}

fn list(unsupported: &[UnsupportedOperator]) -> String {
    unsupported.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Fault of one node at the given inputs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// An attribute is missing or of the wrong kind.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
    /// Inputs or attributes that ONNX forbids.
    #[error("{0}")]
    Invalid(String),
    /// Lawful ONNX that this engine does not do.
    #[error("{0}")]
    Unsupported(String),
    /// The value of an input is needed before the run (a shape, an axis) but depends on the request's data.
    #[error("input {0} must be known before the run, but it is computed from the request's data")]
    DataDependent(usize),
    /// A tensor with more elements or bytes than this engine addresses.
    #[error("a tensor of shape {0:?} is over the limit of 2^31 bytes or of 16 dimensions")]
    TooLarge(Vec<usize>),
    /// The values of a request have no answer: an index out of range, an integer over 32 bits.
    #[error("{0}")]
    Fault(Fault),
    /// A kernel of this engine reads other numbers than are packed for it.
    #[error("an error of this engine, please report it: the kernel {kernel:?}")]
    Kernel {
        /// Name of the kernel.
        kernel: &'static str,
        /// The difference that was found.
        #[source]
        source: Mismatch,
    },
}

impl OpError {
    /// An [`OpError::Invalid`] with this clause.
    pub fn invalid(clause: impl Into<String>) -> Self {
        Self::Invalid(clause.into())
    }

    /// An [`OpError::Unsupported`] with this clause.
    pub fn unsupported(clause: impl Into<String>) -> Self {
        Self::Unsupported(clause.into())
    }
}

/// A difference between the numbers that a kernel's text reads and those that are packed for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The text reads a number that is not packed.
    #[error("the parameter {0:?} is read and not packed")]
    NotPacked(String),
    /// Two numbers have one name.
    #[error("two parameters have the name {0:?}")]
    PackedTwice(String),
    /// The text reads a list as if it were one number.
    #[error("the list of parameters {0:?} is read without an index")]
    NoIndex(String),
    /// The text reads behind the end of a list.
    #[error("element {index} of the parameters {name:?} is read, and {count} are packed")]
    Outside {
        /// Name of the list.
        name: String,
        /// Index in the text.
        index: usize,
        /// Number of words of the list.
        count: usize,
    },
}

/// Error of the device or its driver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// No adapter fits the configuration.
    #[error("no GPU adapter fits: {0}")]
    NoAdapter(String),
    /// The adapter gave no device.
    #[error("open a device on adapter {adapter:?}: {cause}")]
    NoDevice {
        /// Name of the adapter.
        adapter: String,
        /// Error text of the driver.
        cause: String,
    },
    /// The device was lost, or did not answer in time and is treated as lost.
    #[error("the GPU device was lost: {0}")]
    Lost(String),
    /// The driver refused a buffer, shader or command.
    #[error("the GPU driver refused: {0}")]
    Refused(String),
}

impl GpuError {
    /// Returns whether the device is gone, so that no session on it can ever answer again.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        matches!(self, Self::Lost(_))
    }
}
