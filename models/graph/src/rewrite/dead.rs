//! Removes what leads to no output.

use std::collections::HashSet;

use crate::graph::Graph;
use crate::uses::taken_by;

/// Removes nodes, initializers and notes on values that no output of the graph needs; gives how many nodes and initializers
/// went. Outputs of a node that nobody takes stay if another of its outputs is taken.
pub fn remove_dead(graph: &mut Graph) -> usize {
    let before = graph.nodes.len() + graph.initializers.len();
    let mut needed: HashSet<String> = graph.outputs.iter().map(|output| output.name().to_owned()).collect();
    let mut is_live = vec![false; graph.nodes.len()];
    // Backwards: takers come before makers.
    for (node, is_live) in graph.nodes.iter().zip(&mut is_live).rev() {
        *is_live = node.output.iter().any(|output| !output.is_empty() && needed.contains(output));
        if *is_live {
            needed.extend(taken_by(node).into_iter().map(str::to_owned));
        }
    }
    let mut live = is_live.into_iter();
    graph.nodes.retain(|_| live.next().unwrap_or(true));
    graph.initializers.retain(|name, _| needed.contains(name));
    let made: HashSet<&str> = graph.nodes.iter().flat_map(|node| &node.output).map(String::as_str).collect();
    graph.value_info.retain(|name, _| made.contains(name.as_str()));
    before - graph.nodes.len() - graph.initializers.len()
}
