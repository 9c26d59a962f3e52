//! Keeps one of several equal initializers.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use crate::graph::Graph;
use crate::proto::TensorProto;
use crate::rewrite::{Inner, replace_uses};

/// Lets the takers of equal initializers take the first of them; gives how many copies went. Initializers that the graph
/// hands out stay.
pub fn merge_duplicates(graph: &mut Graph) -> usize {
    let inner = Inner::of(graph);
    let handed_out: HashSet<&str> = graph.outputs.iter().map(|output| output.name()).collect();
    // Nobody can choose weights that meet in one place of the table; which are merged does not depend on it.
    let keys = RandomState::new();
    let mut by_content: HashMap<u64, Vec<&str>> = HashMap::new();
    let mut replaced = HashMap::new();
    for (name, tensor) in &graph.initializers {
        // Text, and what was never read, is left alone.
        let Some(raw) = &tensor.raw_data else { continue };
        if inner.has(name) {
            continue;
        }
        let alike = by_content.entry(keys.hash_one((tensor.data_type(), &tensor.dims, raw))).or_default();
        let first = alike.iter().find(|first| graph.initializer(first).is_some_and(|first| is_equal(first, tensor)));
        match first {
            Some(first) if !handed_out.contains(name.as_str()) => {
                replaced.insert(name.clone(), (*first).to_owned());
            }
            Some(_) => {}
            None => alike.push(name),
        }
    }
    graph.initializers.retain(|name, _| !replaced.contains_key(name));
    replace_uses(graph, &replaced);
    replaced.len()
}

fn is_equal(one: &TensorProto, other: &TensorProto) -> bool {
    one.data_type() == other.data_type() && one.dims == other.dims && one.raw_data == other.raw_data
}
