//! Brings nodes into an order in which every value is made before it is used.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::graph::Graph;
use crate::proto::NodeProto;
use crate::uses::Uses;

/// Nodes that wait for each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{count} nodes wait for each other in a circle, one of them makes {value:?}")]
pub struct Cycle {
    /// How many nodes are in circles or behind them.
    pub count: usize,
    /// A value that one of them makes.
    pub value: String,
}

/// Sorts the nodes; those that are in order already stay where they are. Gives how many moved.
///
/// # Errors
/// [`Cycle`] when there is no order; the graph is then as it was.
pub fn sort(graph: &mut Graph) -> Result<usize, Cycle> {
    let uses = Uses::of(graph);
    let outputs = |node: &NodeProto| node.output.iter().filter(|name| !name.is_empty()).cloned().collect::<Vec<_>>();
    // How many values each node waits for, by producers other than itself counted per value.
    let mut waiting = vec![0_usize; graph.nodes.len()];
    for node in &graph.nodes {
        for value in outputs(node) {
            for &taker in uses.consumers(&value) {
                if let Some(count) = waiting.get_mut(taker) {
                    *count += 1;
                }
            }
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        waiting.iter().enumerate().filter(|&(_, &count)| count == 0).map(|(place, _)| Reverse(place)).collect();
    let mut order = Vec::with_capacity(graph.nodes.len());
    while let Some(Reverse(place)) = ready.pop() {
        order.push(place);
        for value in graph.nodes.get(place).map(outputs).unwrap_or_default() {
            for &taker in uses.consumers(&value) {
                let Some(count) = waiting.get_mut(taker) else { continue };
                *count -= 1;
                if *count == 0 {
                    ready.push(Reverse(taker));
                }
            }
        }
    }
    if order.len() < graph.nodes.len() {
        let stuck = waiting.iter().zip(&graph.nodes).find(|&(&count, _)| count > 0);
        let value = stuck.and_then(|(_, node)| node.output.first()).cloned().unwrap_or_default();
        return Err(Cycle { count: graph.nodes.len() - order.len(), value });
    }
    let moved = order.iter().enumerate().filter(|&(place, &from)| place != from).count();
    let mut nodes: Vec<Option<NodeProto>> = std::mem::take(&mut graph.nodes).into_iter().map(Some).collect();
    graph.nodes = order.into_iter().filter_map(|place| nodes.get_mut(place)?.take()).collect();
    Ok(moved)
}
