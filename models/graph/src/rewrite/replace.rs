//! Lets the takers of one value take another.

use std::collections::{HashMap, HashSet};

use crate::graph::Graph;
use crate::proto::{GraphProto, NodeProto};
use crate::uses::subgraphs;

/// Names that subgraphs give to values of their own. A rewrite leaves outer values of such names alone: within the subgraph
/// the name means another value.
#[derive(Debug, Default)]
pub(crate) struct Inner(HashSet<String>);

impl Inner {
    pub(crate) fn of(graph: &Graph) -> Self {
        let mut inner = Self::default();
        graph.nodes.iter().for_each(|node| inner.node(node));
        inner
    }

    fn node(&mut self, node: &NodeProto) {
        subgraphs(node).for_each(|graph| self.graph(graph));
    }

    fn graph(&mut self, graph: &GraphProto) {
        self.0.extend(graph.input.iter().map(|input| input.name().to_owned()));
        self.0.extend(graph.initializer.iter().map(|tensor| tensor.name().to_owned()));
        for node in &graph.node {
            self.0.extend(node.output.iter().cloned());
            self.node(node);
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

/// Replaces values by others wherever nodes, and their subgraphs, take them. A replacement may be replaced in turn.
pub(crate) fn replace_uses(graph: &mut Graph, by: &HashMap<String, String>) {
    if by.is_empty() {
        return;
    }
    graph.nodes.iter_mut().for_each(|node| replace_in(node, by));
}

fn replace_in(node: &mut NodeProto, by: &HashMap<String, String>) {
    node.input.iter_mut().for_each(|input| replace(input, by));
    for attribute in &mut node.attribute {
        for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            // A subgraph may hand out an outer value.
            for output in &mut graph.output {
                if let Some(name) = &mut output.name {
                    replace(name, by);
                }
            }
            graph.node.iter_mut().for_each(|node| replace_in(node, by));
        }
    }
}

fn replace(name: &mut String, by: &HashMap<String, String>) {
    // No chain is longer than there are replacements; more would be a circle.
    for _ in 0..by.len() {
        match by.get(name.as_str()) {
            Some(next) => name.clone_from(next),
            None => break,
        }
    }
}
