//! Who makes each value and who takes it.

use std::collections::{HashMap, HashSet};

use crate::graph::Graph;
use crate::proto::{GraphProto, NodeProto};

/// An index over the nodes of a graph; made anew after nodes were added or removed.
#[derive(Debug, Default)]
pub struct Uses {
    producers: HashMap<String, usize>,
    consumers: HashMap<String, Vec<usize>>,
    handed_out: HashSet<String>,
}

impl Uses {
    /// Reads every node once. A node whose subgraph takes an outer value is a consumer of that value.
    #[must_use]
    pub fn of(graph: &Graph) -> Self {
        let handed_out = graph.outputs.iter().map(|output| output.name().to_owned()).collect();
        let mut uses = Self { handed_out, ..Self::default() };
        for (place, node) in graph.nodes.iter().enumerate() {
            for output in node.output.iter().filter(|name| !name.is_empty()) {
                uses.producers.insert(output.clone(), place);
            }
            for input in taken_by(node) {
                uses.consumers.entry(input.to_owned()).or_default().push(place);
            }
        }
        uses
    }

    /// The place of the node that makes the value; `None` for inputs and initializers.
    #[must_use]
    pub fn producer(&self, value: &str) -> Option<usize> {
        self.producers.get(value).copied()
    }

    /// The places of the nodes that take the value, each once, in order. The graph's own outputs are not among them.
    #[must_use]
    pub fn consumers(&self, value: &str) -> &[usize] {
        self.consumers.get(value).map_or(&[], Vec::as_slice)
    }

    /// Returns whether the graph hands this value out.
    #[must_use]
    pub fn is_output(&self, value: &str) -> bool {
        self.handed_out.contains(value)
    }

    /// The only taker of a value that the graph does not hand out.
    #[must_use]
    pub fn only_consumer(&self, value: &str) -> Option<usize> {
        match self.consumers(value) {
            [only] if !self.is_output(value) => Some(*only),
            _ => None,
        }
    }
}

/// The graphs in a node's attributes.
pub fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
}

/// The values that a node takes, by itself or in its subgraphs, each once.
pub(crate) fn taken_by(node: &NodeProto) -> Vec<&str> {
    let mut taken: Vec<&str> = node.input.iter().map(String::as_str).collect();
    subgraphs(node).for_each(|graph| mentioned(graph, &mut taken));
    taken.sort_unstable();
    taken.dedup();
    taken.retain(|name| !name.is_empty());
    taken
}

/// Every name that a subgraph takes, its own ones among them: a name that is both is an outer use at worst too many.
fn mentioned<'graph>(graph: &'graph GraphProto, into: &mut Vec<&'graph str>) {
    into.extend(graph.output.iter().map(|output| output.name()));
    for node in &graph.node {
        into.extend(node.input.iter().map(String::as_str));
        subgraphs(node).for_each(|inner| mentioned(inner, into));
    }
}
