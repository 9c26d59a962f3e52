//! Constants held by nodes become initializers.
//!
//! Some exporters (PP-OCR's among them) keep every weight in a `Constant` node, often behind an `Identity`; passes look for
//! weights among the initializers.

use std::collections::{HashMap, HashSet};

use crate::attribute::Attributes;
use crate::graph::Graph;
use crate::proto::{NodeProto, TensorProto};
use crate::rewrite::{Inner, replace_uses};
use crate::tensor::{ElementType, Values};

/// Turns `Constant` nodes into initializers, and `Identity` of an initializer into that initializer; gives how many.
///
/// A node whose value the graph hands out stays.
pub fn constants_to_initializers(graph: &mut Graph) -> usize {
    let inner = Inner::of(graph);
    let handed_out: HashSet<String> = graph.outputs.iter().map(|output| output.name().to_owned()).collect();
    let before = graph.nodes.len();
    let mut replaced = HashMap::new();
    let mut kept = Vec::with_capacity(before);
    for node in std::mem::take(&mut graph.nodes) {
        let [output] = node.output.as_slice() else {
            kept.push(node);
            continue;
        };
        let is_free = !output.is_empty() && !handed_out.contains(output) && !inner.has(output);
        if is_free
            && !graph.initializers.contains_key(output)
            && let Some(mut tensor) = constant(&node)
        {
            tensor.name = Some(output.clone());
            graph.add_initializer(tensor);
            continue;
        }
        let source = node.input_at(0).map(|name| replaced.get(name).map_or(name, String::as_str));
        match source {
            Some(source)
                if is_free && node.is("Identity") && graph.initializers.contains_key(source) && !inner.has(source) =>
            {
                replaced.insert(output.clone(), source.to_owned());
            }
            _ => kept.push(node),
        }
    }
    graph.nodes = kept;
    replace_uses(graph, &replaced);
    graph.value_info.retain(|name, _| !graph.initializers.contains_key(name) && !replaced.contains_key(name));
    before - graph.nodes.len()
}

/// The numbers of a `Constant` node; `None` for text, sparse numbers and other nodes.
pub(crate) fn constant(node: &NodeProto) -> Option<TensorProto> {
    if !node.is("Constant") {
        return None;
    }
    let scalar = |element, raw: Vec<u8>| TensorProto::of_raw("", element, &[], raw);
    if let Some(tensor) = node.attr_tensor("value") {
        return Some(tensor.clone());
    }
    if let Some(value) = node.attr_float("value_float") {
        return Some(scalar(ElementType::Float, value.to_le_bytes().to_vec()));
    }
    if let Some(value) = node.attr_int("value_int") {
        return Some(scalar(ElementType::Int64, value.to_le_bytes().to_vec()));
    }
    if let Some(values) = node.attr_ints("value_ints") {
        return Some(TensorProto::of_int64("", &[values.len()], values));
    }
    let floats = node.attr("value_floats")?;
    Some(TensorProto::of_floats("", &[floats.floats.len()], &floats.floats))
}
