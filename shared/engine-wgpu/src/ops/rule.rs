//! The rule of an operator, as its family's file declares it and [`super::registry`] finds it.

use crate::error::OpError;
use crate::ir::{Literal, Node};
use crate::lower::Lowering;
use crate::value_info::{Inputs, ValueInfo};

/// Infers the infos of a node's outputs, in order.
pub type Infer = fn(&Node, Inputs<'_>) -> Result<Vec<ValueInfo>, OpError>;

/// Computes a node on the host from known inputs.
pub type Evaluate = fn(&Node, &[Option<&Literal>]) -> Result<Vec<Literal>, OpError>;

/// Place and function by which an operator runs.
#[derive(Debug, Clone, Copy)]
pub enum Run {
    /// Runs on the device.
    Device(fn(&Node, &mut Lowering<'_>) -> Result<(), OpError>),
    /// On the host while planning, and never on request data (`Shape`, `Range`, …).
    HostOnly,
    /// On the host between two halves of the graph, because the shape of its output depends on the data.
    HostNode,
}

/// Rule of one operator.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Domain; empty for ONNX's own.
    pub domain: &'static str,
    /// Operator type, like `Add`.
    pub op: &'static str,
    /// Infers type and shape of its outputs.
    pub infer: Infer,
    /// Place and function by which it runs.
    pub run: Run,
    /// Computes it on the host when all inputs are known: in shape subgraphs and constant folding.
    pub host: Option<Evaluate>,
}

impl Rule {
    /// An operator of ONNX's own domain that runs on the device.
    #[must_use]
    pub const fn device(
        op: &'static str,
        infer: Infer,
        lower: fn(&Node, &mut Lowering<'_>) -> Result<(), OpError>,
    ) -> Self {
        Self { domain: "", op, infer, run: Run::Device(lower), host: None }
    }

    /// An operator of ONNX's own domain that is only ever computed while planning.
    #[must_use]
    pub const fn host(op: &'static str, infer: Infer, evaluate: Evaluate) -> Self {
        Self { domain: "", op, infer, run: Run::HostOnly, host: Some(evaluate) }
    }

    /// The same rule with a way to compute it on the host.
    #[must_use]
    pub const fn with_host(self, evaluate: Evaluate) -> Self {
        Self { host: Some(evaluate), ..self }
    }

    /// The same rule in another domain.
    #[must_use]
    pub const fn in_domain(self, domain: &'static str) -> Self {
        Self { domain, ..self }
    }
}
