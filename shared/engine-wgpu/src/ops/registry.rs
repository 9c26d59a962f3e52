//! The list of all rules, and what is asked of it: by name, by node.
//!
//! `ops.toml` (see [`super::table`]) is the public face of the same list; a test holds the two together.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::rule::{Rule, Run};
use super::{
    attention, chain, classical, conv, conv_transpose, einsum, elementwise, gelu, generate, host_node, legacy, matmul,
    movement, nbits, norm, pool, quantized, reduce, resize, rnn, rotary, sample, signal, skip_norm, top,
};
use crate::error::OpError;
use crate::ir::Node;
use crate::lower::Lowering;
use crate::value_info::{Inputs, ValueInfo};

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
    host_node::RULES,
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

/// Returns every rule of every family.
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

/// Infers the infos of a node's outputs.
///
/// # Errors
/// When the operator is unknown or refuses its inputs.
pub fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let rule = known_rule(node)?;
    // A kernel is only ever written for the types that are promised.
    if let (Some(row), Some(first)) = (super::table::row(rule.domain, rule.op), inputs.optional(0))
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
        Run::HostNode => {
            Err(OpError::unsupported("its output's shape depends on the data, and it stands where no cut is possible"))
        }
    }
}
