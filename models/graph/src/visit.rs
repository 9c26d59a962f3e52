//! Goes through every constant tensor of a graph, with those in attributes and subgraphs.

use crate::proto::{GraphProto, NodeProto, TensorProto};

/// Shows each tensor of the graph.
pub(crate) fn tensors(graph: &GraphProto, show: &mut impl FnMut(&TensorProto)) {
    graph.initializer.iter().for_each(&mut *show);
    for sparse in &graph.sparse_initializer {
        sparse.values.iter().chain(&sparse.indices).for_each(&mut *show);
    }
    graph.node.iter().for_each(|node| node_tensors(node, show));
}

/// Shows each tensor in the attributes of the node.
pub(crate) fn node_tensors(node: &NodeProto, show: &mut impl FnMut(&TensorProto)) {
    for attribute in &node.attribute {
        attribute.t.as_deref().into_iter().chain(&attribute.tensors).for_each(&mut *show);
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            tensors_of(graph, show);
        }
    }
}

/// Breaks the circle of generic functions for the compiler.
fn tensors_of(graph: &GraphProto, show: &mut dyn FnMut(&TensorProto)) {
    tensors(graph, &mut |tensor| show(tensor));
}
