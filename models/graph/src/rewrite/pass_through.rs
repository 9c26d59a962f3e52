//! Removes nodes that hand on what they are given: `Identity`, and `Dropout` outside training.

use std::collections::{HashMap, HashSet};

use crate::graph::Graph;
use crate::proto::NodeProto;
use crate::rewrite::{Inner, replace_uses};
use crate::tensor::Values;
use crate::uses::Uses;

/// First version in which `Dropout` does nothing unless told that it trains.
const DROPOUT_INFERS: i64 = 7;

/// Removes such nodes; gives how many. `opset` is the version of the default domain.
///
/// One between a node and an output of the graph goes too: the node then makes the output itself. One between an input
/// or initializer and an output stays.
pub fn remove_pass_through(graph: &mut Graph, opset: i64) -> usize {
    let inner = Inner::of(graph);
    let uses = Uses::of(graph);
    let mut replaced: HashMap<String, String> = HashMap::new();
    let mut renamed: HashMap<String, String> = HashMap::new();
    let mut removed = HashSet::new();
    for (place, node) in graph.nodes.iter().enumerate() {
        if !passes_through(graph, &uses, node, opset) {
            continue;
        }
        let (Some(input), Some(output)) = (node.input_at(0), node.output.first()) else { continue };
        if inner.has(input) || inner.has(output) || output.is_empty() || input == output {
            continue;
        }
        if !uses.is_output(output) {
            replaced.insert(output.clone(), input.to_owned());
            removed.insert(place);
        } else if !renamed.contains_key(input)
            && !uses.is_output(input)
            && let Some(maker) = uses.producer(input)
            && !removed.contains(&maker)
        {
            // The maker takes over the output's name, and who took the old name takes the new one.
            renamed.insert(input.to_owned(), output.clone());
            removed.insert(place);
        }
    }
    let mut places = 0..;
    graph.nodes.retain(|_| places.next().is_none_or(|place| !removed.contains(&place)));
    for name in graph.nodes.iter_mut().flat_map(|node| &mut node.output) {
        if let Some(output) = renamed.get(name.as_str()) {
            name.clone_from(output);
        }
    }
    replaced.extend(renamed);
    graph.value_info.retain(|name, _| !replaced.contains_key(name));
    replace_uses(graph, &replaced);
    removed.len()
}

fn passes_through(graph: &Graph, uses: &Uses, node: &NodeProto, opset: i64) -> bool {
    if node.is("Identity") {
        return node.output.len() == 1;
    }
    let mask_is_used = node
        .output
        .get(1)
        .is_some_and(|mask| !mask.is_empty() && (uses.is_output(mask) || !uses.consumers(mask).is_empty()));
    let trains = node.input_at(2).is_some_and(|mode| {
        let told = graph.initializer(mode).and_then(|tensor| tensor.integers().ok());
        told.is_none_or(|mode| mode != [0])
    });
    node.is("Dropout") && opset >= DROPOUT_INFERS && !mask_is_used && !trains
}
