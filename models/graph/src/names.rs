//! Names that nothing in a graph has yet.

use std::collections::HashSet;

use crate::graph::Graph;
use crate::proto::GraphProto;
use crate::uses::subgraphs;

/// Hands out names; every value and node of the graph, and of its subgraphs, is taken.
#[derive(Debug)]
pub struct Names(HashSet<String>);

impl Names {
    /// Notes every name in the graph.
    #[must_use]
    pub fn of(graph: &Graph) -> Self {
        let mut names = Self(HashSet::new());
        names.0.extend(graph.initializers.keys().cloned());
        let sparse = graph.rest.sparse_initializer.iter().filter_map(|sparse| sparse.values.as_ref());
        names.0.extend(sparse.map(|values| values.name().to_owned()));
        names.0.extend(graph.inputs.iter().chain(&graph.outputs).map(|value| value.name().to_owned()));
        for node in &graph.nodes {
            names.node(node);
        }
        names
    }

    fn node(&mut self, node: &crate::proto::NodeProto) {
        self.0.extend(node.input.iter().chain(&node.output).cloned());
        self.0.insert(node.name().to_owned());
        subgraphs(node).for_each(|graph| self.subgraph(graph));
    }

    fn subgraph(&mut self, graph: &GraphProto) {
        self.0.extend(graph.initializer.iter().map(|tensor| tensor.name().to_owned()));
        self.0.extend(graph.input.iter().chain(&graph.output).map(|value| value.name().to_owned()));
        graph.node.iter().for_each(|node| self.node(node));
    }

    /// `wanted`, or `wanted_1`, `wanted_2`, … when it is taken; taken from now on.
    pub fn fresh(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut number = 0_u64;
        while !self.0.insert(name.clone()) {
            number += 1;
            name = format!("{wanted}_{number}");
        }
        name
    }
}
