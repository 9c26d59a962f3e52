//! Removes operators that hand their input on unchanged.

use std::collections::{BTreeSet, HashMap};

use crate::ir::{Attribute, ElementType, Graph, Node, ValueId};
use crate::passes::transpose::order;
use crate::passes::{bypass, element_types};

/// Takes every `Identity`, inference `Dropout`, `Cast` to the same type and `Transpose` into the same order out of use.
pub(super) fn remove(graph: &mut Graph) -> bool {
    let types = element_types(graph);
    let outputs: BTreeSet<ValueId> = graph.outputs.iter().copied().collect();
    let read: BTreeSet<ValueId> = graph.nodes.iter().flat_map(|node| node.inputs.iter().flatten()).copied().collect();
    let mut handed_on: HashMap<ValueId, ValueId> = HashMap::new();
    let mut named = Vec::new();
    for at in 0..graph.nodes.len() {
        let node = &mut graph.nodes[at];
        for id in node.inputs.iter_mut().flatten() {
            *id = handed_on.get(id).copied().unwrap_or(*id);
        }
        let (Some(input), Some(output)) = (node.input(0), node.output(0)) else { continue };
        let idle = match node.op.as_str() {
            "Identity" => true,
            // A third input may turn training on, and its mask may be read.
            "Dropout" => {
                node.input(2).is_none()
                    && node.output(1).is_none_or(|mask| !read.contains(&mask) && !outputs.contains(&mask))
            }
            "Cast" => cast_to(node).is_some_and(|to| types.get(input.index()) == Some(&Some(to))),
            "Transpose" => order(node).is_some_and(|order| order.iter().copied().eq(0..order.len())),
            _ => false,
        };
        if !idle || !node.domain.is_empty() {
            continue;
        }
        if outputs.contains(&output) {
            named.push((at, output));
        } else {
            handed_on.insert(output, input);
        }
    }
    let mut changed = !handed_on.is_empty();
    for (at, output) in named {
        // Asked again: another output may have taken the input's place.
        let input = graph.nodes[at].input(0);
        changed |= input.is_some_and(|input| bypass(graph, at, input, output));
    }
    changed
}

fn cast_to(node: &Node) -> Option<ElementType> {
    match node.attributes.find("to") {
        Some(Attribute::Int(number)) => i32::try_from(*number).ok().and_then(ElementType::from_onnx),
        _ => None,
    }
}
