//! The operators: for each a rule that infers its outputs' facts and one that lowers it to dispatches.
//!
//! One file per family; each lists its [`Rule`]s. `ops.toml` is the public face of the same list (operator × opset range ×
//! element types × notes): a test holds the two together. Fed by [`crate::facts`] and [`crate::lower`].

mod attention;
pub(crate) mod chain;
mod classical;
mod conv;
mod conv_transpose;
mod einsum;
mod elementwise;
mod epilogue;
mod gelu;
mod generate;
mod island;
mod legacy;
mod matmul;
mod movement;
mod nbits;
mod norm;
mod pool;
mod product;
mod quantized;
mod reduce;
mod resize;
mod rnn;
mod rotary;
mod sample;
pub(crate) mod shape;
mod signal;
mod skip_norm;
pub(crate) mod top;
mod window;

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::error::OpError;
use crate::facts::{Fact, Inputs};
use crate::ir::{Literal, Node};
use crate::lower::Lowering;

/// Infers the facts of a node's outputs, in order.
pub type Infer = fn(&Node, Inputs<'_>) -> Result<Vec<Fact>, OpError>;

/// Computes a node on the host from known inputs.
pub type Evaluate = fn(&Node, &[Option<&Literal>]) -> Result<Vec<Literal>, OpError>;

/// How an operator runs.
#[derive(Debug, Clone, Copy)]
pub enum Run {
    /// On the device.
    Device(fn(&Node, &mut Lowering<'_>) -> Result<(), OpError>),
    /// On the host while planning, and never on request data (`Shape`, `Range`, …).
    HostOnly,
    /// On the host between two halves of the graph, because the shape of its output depends on the data.
    Island,
}

/// One operator.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Domain; empty for ONNX's own.
    pub domain: &'static str,
    /// Operator type.
    pub op: &'static str,
    /// What its outputs are.
    pub infer: Infer,
    /// How it runs.
    pub run: Run,
    /// How the host computes it when all inputs are known: in shape subgraphs and constant folding.
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

/// Every family's rules. A new family is one line here.
const FAMILIES: &[&[Rule]] = &[
    chain::RULES,
    classical::encode::RULES,
    classical::linear::RULES,
    classical::prepare::RULES,
    classical::support::RULES,
    classical::trees::RULES,
    gelu::RULES,
    skip_norm::RULES,
    quantized::affine::RULES,
    quantized::contrib::RULES,
    quantized::conv::RULES,
    quantized::dynamic::RULES,
    quantized::matmul::RULES,
    generate::RULES,
    island::RULES,
    legacy::RULES,
    movement::cache::RULES,
    movement::gather::RULES,
    movement::join::RULES,
    movement::pad::RULES,
    movement::scatter::RULES,
    movement::select::RULES,
    movement::slice::RULES,
    movement::view::RULES,
    top::RULES,
    attention::RULES,
    conv::RULES,
    conv_transpose::RULES,
    pool::RULES,
    resize::RULES,
    nbits::RULES,
    rnn::RULES,
    rotary::RULES,
    sample::RULES,
    matmul::RULES,
    elementwise::activation::RULES,
    elementwise::arithmetic::RULES,
    elementwise::bitwise::RULES,
    elementwise::cast::RULES,
    elementwise::compare::RULES,
    elementwise::transcendental::RULES,
    elementwise::variadic::RULES,
    einsum::RULES,
    signal::fourier::RULES,
    signal::window::RULES,
    norm::batch::RULES,
    norm::local::RULES,
    norm::rows::RULES,
    reduce::arg::RULES,
    reduce::cumulative::RULES,
    reduce::rules::RULES,
    reduce::softmax::RULES,
];

static RULES: LazyLock<HashMap<(&'static str, &'static str), &'static Rule>> =
    LazyLock::new(|| FAMILIES.iter().copied().flatten().map(|rule| ((rule.domain, rule.op), rule)).collect());

/// Every rule.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    FAMILIES.iter().copied().flatten()
}

/// The rule for a node's operator.
#[must_use]
pub fn rule(node: &Node) -> Option<&'static Rule> {
    RULES.get(&(node.domain.as_str(), node.op.as_str())).copied()
}

fn known_rule(node: &Node) -> Result<&'static Rule, OpError> {
    rule(node).ok_or_else(|| OpError::unsupported("this engine does not have the operator"))
}

/// Infers the facts of a node's outputs.
///
/// # Errors
/// When the operator is unknown or refuses its inputs.
pub fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Fact>, OpError> {
    let rule = known_rule(node)?;
    // A kernel is only ever written for the types that are promised.
    if let (Some(row), Some(first)) = (crate::check::row(rule.domain, rule.op), inputs.optional(0))
        && !row.takes(first.dtype)
    {
        return Err(OpError::unsupported(format!("its first input is {}", first.dtype)));
    }
    (rule.infer)(node, inputs)
}

/// Lowers a node to dispatches.
///
/// # Errors
/// When the operator is unknown, only runs on the host, or refuses its inputs.
pub fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    match known_rule(node)?.run {
        Run::Device(lower) => lower(node, cx),
        Run::HostOnly => {
            Err(OpError::unsupported("it is only computed from shapes and constants, never from request data"))
        }
        Run::Island => {
            Err(OpError::unsupported("its output's shape depends on the data, and it stands where no cut is possible"))
        }
    }
}
