//! Operators on the host: for constant folding, shape-computing subgraphs and islands. Also the oracle of kernel tests.
//!
//! Plain and slow on purpose; never on the path of a request's tensors except in islands.

mod rearrange;
mod words;

pub use rearrange::rearrange;
pub use words::{device_bytes, from_words, pack_bytes, to_words};

use crate::error::OpError;
use crate::ir::{Literal, Node};

/// Computes a node whose inputs are all known; `None` where the host does not do this operator.
///
/// # Errors
/// When the operator refuses its inputs.
pub fn evaluate(node: &Node, inputs: &[Option<&Literal>]) -> Result<Option<Vec<Literal>>, OpError> {
    let host = crate::ops::rule(node).and_then(|rule| rule.host);
    host.map(|evaluate| evaluate(node, inputs)).transpose()
}
