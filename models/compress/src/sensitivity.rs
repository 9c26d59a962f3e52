//! How much each layer loses when it alone is quantized.
//!
//! Layers that hold the same weight go together: quantizing one quantizes the other. Fed by [`crate::auto`] with a way to
//! quantize a selection of nodes; what comes of it is the order in which [`crate::search`] gives layers back to float.

use std::collections::{BTreeMap, BTreeSet};

use engine::{Engine, ModelBytes};
use onnx_graph::Model;
use serde::{Deserialize, Serialize};

use crate::quality::{Judge, Measure, load};
use crate::{CompressError, Selection};

/// Most layers that are measured one by one; the lightest of a larger model stay as they are and count as harmless.
pub const LAYERS_MAX: usize = 400;

/// Most runs of single examples that a ranking takes, over all its layers: at 5 ms each, five minutes.
pub const RUNS_MAX: usize = 60_000;

/// Fewest examples that a layer is judged by, however many layers there are.
pub const EXAMPLES_LEAST: usize = 16;

/// Nodes that are quantized together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Names of the nodes, in the order of the graph.
    pub nodes: Vec<String>,
    /// Operator of the first.
    pub operator: String,
    /// Bytes of the weights they hold.
    pub weight_bytes: u64,
}

/// A layer and what quantizing it alone loses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerLoss {
    /// Layer that this is about.
    pub layer: Layer,
    /// What is lost, in the measure of the ranking; `None` when the layer cannot be quantized alone.
    pub loss: Option<f64>,
}

/// Examples to judge each layer by, so that all layers together stay within [`RUNS_MAX`].
#[must_use]
pub fn examples_for(layers: usize, there: usize) -> usize {
    (RUNS_MAX / layers.max(1)).max(EXAMPLES_LEAST).min(there)
}

/// The layers among the nodes that a pass would change: nodes with the same weight are one layer, and the heaviest
/// [`LAYERS_MAX`] are kept, in the order of the graph.
#[must_use]
pub fn layers(model: &Model, changed: &[String]) -> Vec<Layer> {
    let changed: BTreeSet<&str> = changed.iter().map(String::as_str).collect();
    let mut layers: Vec<Layer> = Vec::new();
    let mut by_weight: BTreeMap<&str, usize> = BTreeMap::new();
    for node in model.graph.nodes.iter().filter(|node| changed.contains(node.name())) {
        let held = node.input.iter().filter_map(|input| model.graph.initializers.get_key_value(input));
        let weights: Vec<(&str, u64)> = held
            .filter(|(_, tensor)| tensor.dims.len() >= 2)
            .map(|(name, tensor)| (name.as_str(), bytes(tensor)))
            .collect();
        let known = weights.iter().find_map(|(name, _)| by_weight.get(name).copied());
        let at = known.unwrap_or(layers.len());
        match layers.get_mut(at) {
            Some(layer) => layer.nodes.push(node.name().to_owned()),
            None => layers.push(Layer {
                nodes: vec![node.name().to_owned()],
                operator: node.op_type().to_owned(),
                weight_bytes: 0,
            }),
        }
        for (name, size) in weights {
            if by_weight.insert(name, at).is_none()
                && let Some(layer) = layers.get_mut(at)
            {
                layer.weight_bytes = layer.weight_bytes.saturating_add(size);
            }
        }
    }
    heaviest(layers)
}

fn heaviest(layers: Vec<Layer>) -> Vec<Layer> {
    let mut order: Vec<usize> = (0..layers.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(layers.get(at).map(|layer| layer.weight_bytes)));
    order.truncate(LAYERS_MAX);
    let kept: BTreeSet<usize> = order.into_iter().collect();
    layers.into_iter().enumerate().filter(|(at, _)| kept.contains(at)).map(|(_, layer)| layer).collect()
}

/// Bytes of a tensor as f32, whatever field holds it.
fn bytes(tensor: &onnx_graph::proto::TensorProto) -> u64 {
    let elements = tensor.dims.iter().map(|&dim| u64::try_from(dim).unwrap_or(0));
    elements.fold(4, u64::saturating_mul)
}

/// Quantizes each layer alone, judges it, and puts the layers in order: the worst first, equals in the order of the
/// graph.
///
/// `quantize` makes the model in which only the selection is quantized; a layer that it refuses counts as harmless.
/// `progress` hears how many layers are done.
///
/// # Errors
/// When the examples cannot be read. A layer whose model does not load, run or measure counts as a total loss.
pub fn rank(
    engine: &dyn Engine,
    judge: &mut Judge,
    layers: &[Layer],
    measure: Measure,
    mut quantize: impl FnMut(&Selection) -> Result<Model, CompressError>,
    mut progress: impl FnMut(usize),
) -> Result<Vec<LayerLoss>, CompressError> {
    let mut ranked = Vec::new();
    for (at, layer) in layers.iter().enumerate() {
        let nodes = layer.nodes.iter().cloned().collect();
        let loss = match quantize(&Selection { nodes, ..Selection::default() }) {
            Ok(model) => Some(loss_of(engine, judge, &model, measure)?),
            Err(_alone_it_cannot) => None,
        };
        ranked.push(LayerLoss { layer: layer.clone(), loss });
        progress(at + 1);
    }
    Ok(in_order(ranked))
}

fn loss_of(engine: &dyn Engine, judge: &mut Judge, model: &Model, measure: Measure) -> Result<f64, CompressError> {
    let session = load(engine, ModelBytes::from(model.to_bytes()?), "load one quantized layer");
    match session.and_then(|mut session| judge.judge(&mut *session, |_| {})) {
        Ok(quality) => Ok(quality.loss(measure).unwrap_or(1.0)),
        Err(CompressError::Run { .. }) => Ok(1.0),
        Err(error) => Err(error),
    }
}

/// The worst first; a stable sort keeps the order of the graph among equals.
fn in_order(mut layers: Vec<LayerLoss>) -> Vec<LayerLoss> {
    let harm = |layer: &LayerLoss| {
        layer.loss.map_or(f64::NEG_INFINITY, |loss| if loss.is_nan() { f64::INFINITY } else { loss })
    };
    layers.sort_by(|a, b| harm(b).total_cmp(&harm(a)));
    layers
}

#[cfg(test)]
mod tests {
    use onnx_graph::proto::{NodeProto, TensorProto};
    use onnx_graph::{Graph, Values};

    use super::*;

    fn model() -> Model {
        let mut graph = Graph::default();
        for (name, width) in [("w0", 2_usize), ("w1", 8)] {
            graph.add_initializer(TensorProto::of_floats(name, &[width, width], &vec![0.5; width * width]));
        }
        let matmul =
            |name: &str, from: &str, weight: &str, to: &str| NodeProto::new("MatMul", name, &[from, weight], &[to]);
        graph.nodes = vec![
            matmul("a", "x", "w0", "y"),
            matmul("b", "y", "w1", "z"),
            matmul("c", "z", "w0", "u"),
            matmul("d", "u", "w1", "v"),
        ];
        Model { graph, rest: onnx_graph::proto::ModelProto::default() }
    }

    #[test]
    fn nodes_that_share_a_weight_go_together() {
        let found = layers(&model(), &["a", "b", "c"].map(str::to_owned));
        let nodes: Vec<Vec<String>> = found.iter().map(|layer| layer.nodes.clone()).collect();
        assert_eq!(nodes, [vec!["a".to_owned(), "c".to_owned()], vec!["b".to_owned()]]);
        assert_eq!((found[0].weight_bytes, found[1].weight_bytes), (16, 256), "a shared weight counts once");
    }

    #[test]
    fn the_worst_layer_comes_first_and_ties_keep_the_order_of_the_graph() {
        let layer = |name: &str, loss| LayerLoss {
            layer: Layer { nodes: vec![name.to_owned()], operator: "Conv".to_owned(), weight_bytes: 0 },
            loss,
        };
        let order = in_order(vec![
            layer("fine", Some(0.0)),
            layer("none", None),
            layer("also fine", Some(0.0)),
            layer("worst", Some(f64::NAN)),
            layer("bad", Some(0.2)),
        ]);
        let names: Vec<&str> = order.iter().map(|one| one.layer.nodes[0].as_str()).collect();
        assert_eq!(names, ["worst", "bad", "fine", "also fine", "none"]);
    }

    #[test]
    fn a_ranking_of_many_layers_takes_fewer_examples_each() {
        assert_eq!(examples_for(10, 500), 500);
        assert_eq!(examples_for(1000, 500), 60);
        assert_eq!(examples_for(1_000_000, 500), EXAMPLES_LEAST);
        assert_eq!(examples_for(1_000_000, 3), 3);
    }
}
