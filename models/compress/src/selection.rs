//! Which nodes a pass may touch.

use std::collections::BTreeSet;

use onnx_graph::proto::NodeProto;
use serde::{Deserialize, Serialize};

/// Operators and nodes that a pass takes or leaves. Exclusion wins over inclusion; an empty inclusion takes everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// Only these operators, like `Conv`.
    pub operators: BTreeSet<String>,
    /// Only nodes of these names.
    pub nodes: BTreeSet<String>,
    /// Operators that are never changed.
    pub operators_excluded: BTreeSet<String>,
    /// Never nodes of these names.
    pub nodes_excluded: BTreeSet<String>,
}

impl Selection {
    /// Returns whether a pass may touch the node.
    #[must_use]
    pub fn takes(&self, node: &NodeProto) -> bool {
        let wanted = |set: &BTreeSet<String>, name: &str| set.is_empty() || set.contains(name);
        wanted(&self.operators, node.op_type())
            && wanted(&self.nodes, node.name())
            && !self.operators_excluded.contains(node.op_type())
            && !self.nodes_excluded.contains(node.name())
    }
}
