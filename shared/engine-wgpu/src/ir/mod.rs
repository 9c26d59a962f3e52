//! The graph as this engine sees it: values, constants and nodes in an order that can be run.
//!
//! Made by [`crate::read`] from an ONNX file, rewritten by [`crate::passes`], walked by [`crate::value_info`] and
//! [`crate::lower`]. Holds no device object and no shape that depends on a request.

mod attribute;
mod dtype;
mod literal;

use std::collections::{BTreeMap, BTreeSet};

pub use attribute::{Attribute, AttributeError, Attributes};
pub use dtype::ElementType;
pub use literal::Literal;
use types::Dim;

/// A value of one [`Graph`]: an input, a constant or the output of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(u32);

impl ValueId {
    /// Position among the graph's values.
    #[must_use]
    pub fn index(self) -> usize {
        // A graph is refused above `NODES_MAX` nodes, so its values always fit; usize is at least 32 bits wide here.
        self.0 as usize
    }
}

/// Name and declared type of a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// Name in the model file; made up for values that a pass introduced.
    pub name: String,
    /// Element type and shape as declared, where declared.
    pub declared: Option<(ElementType, Option<Vec<Dim>>)>,
}

/// Name of the domain of operators that only our own passes introduce.
pub const OWN_DOMAIN: &str = "sanderling";

/// One operator at work.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Name in the model file, for errors and profiles; may be empty.
    pub name: String,
    /// Operator domain; the default domain is the empty text (`ai.onnx` is normalised to it).
    pub domain: String,
    /// Operator type, like `Conv`.
    pub op: String,
    /// Operator set version of the domain that the model imports.
    pub opset: i64,
    /// Inputs in the operator's order; `None` where an optional one is left out.
    pub inputs: Vec<Option<ValueId>>,
    /// Outputs in the operator's order; `None` where nobody asked.
    pub outputs: Vec<Option<ValueId>>,
    /// Attributes of the node by name.
    pub attributes: Attributes,
}

impl Node {
    /// The input at this place, if it is there and given.
    #[must_use]
    pub fn input(&self, at: usize) -> Option<ValueId> {
        self.inputs.get(at).copied().flatten()
    }

    /// The output at this place, if it is there and wanted.
    #[must_use]
    pub fn output(&self, at: usize) -> Option<ValueId> {
        self.outputs.get(at).copied().flatten()
    }

    /// Returns whether this is that operator of the default ONNX domain.
    #[must_use]
    pub fn is(&self, op: &str) -> bool {
        self.domain.is_empty() && self.op == op
    }
}

/// A model as a list of nodes in topological order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Graph {
    values: Vec<Value>,
    /// Values that do not depend on a request.
    pub constants: BTreeMap<ValueId, Literal>,
    /// Nodes; each uses only values that inputs, constants or earlier nodes define.
    pub nodes: Vec<Node>,
    /// Values that a request must bring, in the model's order.
    pub inputs: Vec<ValueId>,
    /// Of a subgraph, how many of the last inputs stand for values of the graph around it.
    pub captured: usize,
    /// Values that a request may ask for, in the model's order.
    pub outputs: Vec<ValueId>,
}

impl Graph {
    /// Adds a value that nothing defines yet.
    pub fn add_value(&mut self, value: Value) -> ValueId {
        // Cannot overflow: `read` and `passes` stay under 4 values a node and `NODES_MAX` nodes.
        let id = ValueId(u32::try_from(self.values.len()).unwrap_or(u32::MAX));
        self.values.push(value);
        id
    }

    /// Adds a constant value.
    pub fn add_constant(&mut self, name: &str, literal: Literal) -> ValueId {
        let shape = literal.shape().iter().map(|&size| Dim::Fixed(size)).collect();
        let declared = Some((literal.dtype(), Some(shape)));
        let id = self.add_value(Value { name: name.to_owned(), declared });
        self.constants.insert(id, literal);
        id
    }

    /// Returns name and declared type of a value.
    ///
    /// # Panics
    /// When the id is of another graph.
    #[must_use]
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// Number of values of the graph.
    #[must_use]
    pub fn value_count(&self) -> usize {
        self.values.len()
    }

    /// The constant that a node reads at this input, if it is one.
    #[must_use]
    pub fn constant_input(&self, node: &Node, at: usize) -> Option<&Literal> {
        node.input(at).and_then(|id| self.constants.get(&id))
    }

    /// For each value, the positions of the nodes that read it.
    #[must_use]
    pub fn consumers(&self) -> Vec<Vec<usize>> {
        let mut consumers = vec![Vec::new(); self.values.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            for id in node.inputs.iter().flatten() {
                consumers[id.index()].push(at);
            }
        }
        consumers
    }

    /// For each value, the position of the node that defines it.
    #[must_use]
    pub fn producers(&self) -> Vec<Option<usize>> {
        let mut producers = vec![None; self.values.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            for id in node.outputs.iter().flatten() {
                producers[id.index()] = Some(at);
            }
        }
        producers
    }

    /// Drops nodes whose outputs nobody needs and constants that nobody reads.
    pub fn remove_dead(&mut self) {
        let mut needed: BTreeSet<ValueId> = self.outputs.iter().copied().collect();
        let mut keep = vec![false; self.nodes.len()];
        for (at, node) in self.nodes.iter().enumerate().rev() {
            if node.outputs.iter().flatten().any(|id| needed.contains(id)) {
                keep[at] = true;
                needed.extend(node.inputs.iter().flatten());
            }
        }
        let mut keep = keep.into_iter();
        self.nodes.retain(|_node| keep.next().unwrap_or(true));
        self.constants.retain(|id, _literal| needed.contains(id));
    }
}
