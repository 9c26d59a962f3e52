//! Writes the scales of `Resize` for all axes where the attribute `axes` names some.
//!
//! ONNX Runtime resizes integers along `axes` wrongly, and refuses to run such a node between two integer convolutions: it moves
//! a transposition over it and indexes the shorter list by the axes of the tensor. Both are right without the attribute.

use std::collections::HashMap;

use onnx_graph::infer::infer;
use onnx_graph::proto::{NodeProto, TensorProto};
use onnx_graph::{Attributes, Graph, Model, Names, Values};

/// Rewrites every `Resize` whose scales are constant and whose input has a known rank.
pub(super) fn spread_scales(model: &mut Model) {
    if !model.graph.nodes.iter().any(has_axes) {
        return;
    }
    let types = infer(model, &HashMap::new());
    let mut names = Names::of(&model.graph);
    let mut added = Vec::new();
    let mut nodes = std::mem::take(&mut model.graph.nodes);
    for node in nodes.iter_mut().filter(|node| has_axes(node)) {
        let rank = node.input_at(0).and_then(|input| types.shape(input)).map(<[_]>::len);
        if let Some(scales) = rank.and_then(|rank| for_all_axes(&model.graph, node, rank)) {
            let name = names.fresh("scales");
            added.push(TensorProto::of_floats(&name, &[scales.len()], &scales));
            if let Some(input) = node.input.get_mut(2) {
                *input = name;
            }
            node.attribute.retain(|attribute| attribute.name() != "axes");
        }
    }
    model.graph.nodes = nodes;
    added.into_iter().for_each(|tensor| model.graph.add_initializer(tensor));
}

fn has_axes(node: &NodeProto) -> bool {
    node.is("Resize") && node.attr("axes").is_some()
}

/// Returns one scale for each axis; `None` where the node has sizes or a region of interest, or its scales do not fit.
fn for_all_axes(graph: &Graph, node: &NodeProto, rank: usize) -> Option<Vec<f32>> {
    if node.input_at(1).is_some() || node.input_at(3).is_some() {
        return None;
    }
    let (axes, given) = (node.attr_ints("axes")?, graph.initializer(node.input_at(2)?)?.floats().ok()?);
    if axes.len() != given.len() {
        return None;
    }
    let mut scales = vec![1.0; rank];
    for (&axis, scale) in axes.iter().zip(given) {
        let axis = if axis < 0 { axis.checked_add(i64::try_from(rank).ok()?)? } else { axis };
        *scales.get_mut(usize::try_from(axis).ok()?)? = scale;
    }
    Some(scales)
}
