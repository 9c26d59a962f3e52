//! `DequantizeLinear` moves behind operators that only move values, and meets its `QuantizeLinear`.

use std::collections::{BTreeSet, HashMap};

use super::{View, fold, is_linear};
use crate::ir::{Graph, Node, Value, ValueId};
use crate::passes::bypass;
use crate::passes::pattern::Uses;

/// Operators that move or choose values without computing: they may as well do it to integers.
const MOVES: [&str; 9] =
    ["Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "MaxPool", "Slice", "DepthToSpace", "SpaceToDepth"];

/// Moves every `DequantizeLinear` behind operators that only move values, and removes `DQ → Q` pairs that do nothing.
pub(in crate::passes) fn sink(graph: &mut Graph) -> bool {
    let mut changed = quantize_constants(graph);
    changed |= move_behind(graph);
    changed | remove_pairs(graph)
}

/// Puts the nodes down again one by one; where an operator would move floats, it moves the integers instead.
fn move_behind(graph: &mut Graph) -> bool {
    if !graph.nodes.iter().any(moves) {
        return false;
    }
    let waiting = std::mem::take(&mut graph.nodes);
    let (mut uses, mut changed) = (Uses::default(), false);
    for mut node in waiting {
        let behind = from(&View { graph, uses: &uses }, &node).map(|at| graph.nodes[at].clone());
        let linear = behind.map(|mut linear| {
            let name = format!("{} quantized", node.name);
            let made = Some(graph.add_value(Value { name, declared: None }));
            node.inputs[0] = linear.inputs[0];
            linear.inputs[0] = made;
            linear.outputs = std::mem::replace(&mut node.outputs, vec![made]);
            linear
        });
        changed |= linear.is_some();
        for node in std::iter::once(node).chain(linear) {
            uses.added(graph.nodes.len(), &node);
            graph.nodes.push(node);
        }
    }
    changed
}

fn moves(node: &Node) -> bool {
    node.domain.is_empty() && MOVES.contains(&node.op.as_str())
}

/// Returns the position of the `DequantizeLinear` per tensor that a moving operator follows.
fn from(view: &View<'_>, node: &Node) -> Option<usize> {
    let wanted = node.outputs.iter().flatten().count();
    if !moves(node) || wanted != 1 || node.output(0).is_none() {
        return None;
    }
    let from = view.dequantized(node.input(0)?)?;
    view.per_tensor(&from)?;
    // The padding of a pool is the lowest value of its type; one that sees nothing else would differ.
    let (at, _node) = view.producer(node.input(0)?)?;
    Some(at)
}

/// `QuantizeLinear` of a constant is computed once.
fn quantize_constants(graph: &mut Graph) -> bool {
    let mut changed = false;
    for at in 0..graph.nodes.len() {
        let node = &graph.nodes[at];
        if !is_linear(node, "QuantizeLinear") {
            continue;
        }
        changed |= fold(graph, at);
    }
    changed
}

/// Readers of a `QuantizeLinear` that undoes the `DequantizeLinear` before it read the integers in front of both.
fn remove_pairs(graph: &mut Graph) -> bool {
    let uses = Uses::of(graph);
    let outputs: BTreeSet<ValueId> = graph.outputs.iter().copied().collect();
    let (mut handed_on, mut named) = (HashMap::new(), Vec::new());
    for at in 0..graph.nodes.len() {
        for id in graph.nodes[at].inputs.iter_mut().flatten() {
            *id = handed_on.get(id).copied().unwrap_or(*id);
        }
        let node = &graph.nodes[at];
        let (Some(input), Some(output)) = (node.input(0), node.output(0)) else { continue };
        if !is_linear(node, "QuantizeLinear") {
            continue;
        }
        let view = View { graph, uses: &uses };
        let (Some(q), Some(dq)) = (view.linear(node), view.dequantized(input)) else { continue };
        if !view.equal(&q, &dq) || graph.constants.contains_key(&dq.value) {
            continue;
        }
        if outputs.contains(&output) {
            named.push((at, dq.value, output));
        } else {
            handed_on.insert(output, dq.value);
        }
    }
    let mut changed = !handed_on.is_empty();
    for (at, value, output) in named {
        changed |= bypass(graph, at, value, output);
    }
    changed
}
