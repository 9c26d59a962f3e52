//! Brings a model to a newer version of the default operator set.
//!
//! Passes need it: per-channel `QuantizeLinear` exists since version 13. Each node goes through every version between, by the
//! changes that `Changelog.md` of the ONNX project lists; most only added element types and need nothing.

mod steps;

use indexmap::IndexMap;

use crate::graph::Graph;
use crate::infer::{Types, infer};
use crate::model::Model;
use crate::names::Names;
use crate::proto::{GraphProto, NodeProto, TensorProto};
use crate::rewrite::constants_to_initializers;
use crate::uses::{Uses, taken_by};

/// Oldest version that is converted: before it, broadcasting had other rules.
pub const OPSET_MIN: i64 = 7;

/// Newest version that can be asked for.
pub const OPSET_MAX: i64 = 21;

/// A node that has no form in the newer version, or none that is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The node's name.
    pub node: String,
    /// Name of its operator.
    pub operator: String,
    /// The version of the operator set at which it does not go on.
    pub version: i64,
    /// Reason, in one clause.
    pub reason: &'static str,
}

/// Reason why a model was not converted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpsetError {
    /// Too old, too new, or without the default domain.
    #[error(
        "the model is of operator set {from}, asked for is {to}: {OPSET_MIN} to {OPSET_MAX} can be converted, upward only"
    )]
    Range {
        /// The model's version; 0 when it imports none.
        from: i64,
        /// The version asked for.
        to: i64,
    },
    /// Functions have operator sets of their own.
    #[error("the model defines functions of its own: export it again with them written out")]
    Functions,
    /// Some nodes cannot be converted.
    #[error("{} nodes cannot be converted: {}", .0.len(), told(.0))]
    Nodes(Vec<Stuck>),
}

/// The first few, for a message.
fn told(stuck: &[Stuck]) -> String {
    const TOLD_MAX: usize = 5;
    let one = |stuck: &Stuck| format!("{} {:?} at {}, {}", stuck.operator, stuck.node, stuck.version, stuck.reason);
    stuck.iter().take(TOLD_MAX).map(one).collect::<Vec<_>>().join("; ")
}

/// The model in operator set `to`; one that is there or beyond comes back as it is.
///
/// Constants held by nodes become initializers on the way.
///
/// # Errors
/// [`OpsetError`], with every node that cannot be converted.
pub fn upgrade(model: &Model, to: i64) -> Result<Model, OpsetError> {
    let from = model.opset("").unwrap_or(0);
    let is_known = from >= OPSET_MIN && to <= OPSET_MAX;
    if from >= to && from > 0 {
        return Ok(model.clone());
    }
    if !is_known {
        return Err(OpsetError::Range { from, to });
    }
    if !model.rest.functions.is_empty() {
        return Err(OpsetError::Functions);
    }
    let mut model = model.clone();
    constants_to_initializers(&mut model.graph);
    let types = infer(&model, &std::collections::HashMap::new());
    let mut converter = Converter {
        names: Names::of(&model.graph),
        uses: Uses::of(&model.graph),
        types: &types,
        graph: &model.graph,
        added: IndexMap::new(),
        stuck: Vec::new(),
        from,
        to,
    };
    let nodes = converter.nodes(&model.graph.nodes);
    let Converter { added, stuck, .. } = converter;
    if !stuck.is_empty() {
        return Err(OpsetError::Nodes(stuck));
    }
    model.graph.nodes = nodes;
    add_used(&mut model.graph, added);
    model.import("", to);
    Ok(model)
}

/// Some constants are made for one version and not needed by the next.
fn add_used(graph: &mut Graph, added: IndexMap<String, TensorProto>) {
    let used: std::collections::HashSet<String> = graph.nodes.iter().flat_map(taken_by).map(str::to_owned).collect();
    graph.initializers.extend(added.into_iter().filter(|(name, _)| used.contains(name)));
}

/// What the steps need to know, and what they make.
struct Converter<'model> {
    names: Names,
    uses: Uses,
    types: &'model Types,
    graph: &'model Graph,
    /// Constants that were attributes.
    added: IndexMap<String, TensorProto>,
    stuck: Vec<Stuck>,
    from: i64,
    to: i64,
}

impl Converter<'_> {
    fn nodes(&mut self, nodes: &[NodeProto]) -> Vec<NodeProto> {
        nodes.iter().flat_map(|node| self.node(node.clone())).collect()
    }

    /// Nodes that replace it, in order.
    fn node(&mut self, mut node: NodeProto) -> Vec<NodeProto> {
        for attribute in &mut node.attribute {
            for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                self.subgraph(graph);
            }
        }
        if !matches!(node.domain(), "" | "ai.onnx") {
            return vec![node];
        }
        let mut made = vec![node];
        for version in self.from + 1..=self.to {
            let before = std::mem::take(&mut made);
            for node in before {
                let (name, operator) = (node.name().to_owned(), node.op_type().to_owned());
                match steps::step(self, node, version) {
                    Ok(after) => made.extend(after),
                    Err(reason) => self.stuck.push(Stuck { node: name, operator, version, reason }),
                }
            }
        }
        made
    }

    fn subgraph(&mut self, graph: &mut GraphProto) {
        let nodes = std::mem::take(&mut graph.node);
        graph.node = self.nodes(&nodes);
    }

    /// Adds a constant; gives its name. Constants of subgraphs stand in the top graph, where they are seen too.
    fn constant(&mut self, wanted: &str, make: impl FnOnce(&str) -> TensorProto) -> String {
        let name = self.names.fresh(wanted);
        self.added.insert(name.clone(), make(&name));
        name
    }

    /// A constant of the graph or one that was added.
    fn known(&self, name: &str) -> Option<&TensorProto> {
        self.graph.initializer(name).or_else(|| self.added.get(name))
    }
}
