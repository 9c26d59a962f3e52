//! Moves scale between operators so that rounding finds channels of like size; what a model computes stays the same.
//!
//! [`cross_layer`] works between convolutions (Nagel et al., "Data-Free Quantization Through Weight Equalization and
//! Bias Correction", 2019), [`smooth`] between a layer normalization and the products behind it (Xiao et al.,
//! "SmoothQuant", 2023). Both run before quantization, on a prepared model.

mod convolutions;
mod smooth;

pub use convolutions::cross_layer;
pub use smooth::{Magnitudes, magnitudes, smooth};

use onnx_graph::proto::TensorProto;
use onnx_graph::{ElementType, Graph, Names, Uses, Values};

/// A constant of f32 that one node alone takes, once: it may be changed in place.
fn own(graph: &Graph, uses: &Uses, name: &str, place: usize) -> Option<(Vec<f32>, Vec<usize>)> {
    let tensor = graph.initializer(name)?;
    let taken = graph.nodes.get(place)?.input.iter().filter(|input| *input == name).count();
    let alone = uses.consumers(name) == [place] && taken == 1 && !graph.is_output(name);
    if !alone || tensor.element_type() != ElementType::Float {
        return None;
    }
    let (values, shape) = (tensor.floats().ok()?, tensor.shape().ok()?);
    values.iter().all(|value| value.is_finite()).then_some((values, shape))
}

/// Gives a node constants of its own where it shares them, so that they may be changed.
fn unshare(graph: &mut Graph, operators: &[&str]) {
    let uses = Uses::of(graph);
    let mut names = Names::of(graph);
    let Graph { nodes, initializers, .. } = graph;
    for node in nodes.iter_mut().filter(|node| operators.iter().any(|operator| node.is(operator))) {
        for input in node.input.iter_mut().skip(1).filter(|input| uses.consumers(input).len() > 1) {
            let Some(copy) = initializers.get(input.as_str()).cloned() else { continue };
            let name = names.fresh(input);
            initializers.insert(name.clone(), TensorProto { name: Some(name.clone()), ..copy });
            *input = name;
        }
    }
}

/// Returns whether a factor is one that can be divided by without harm.
fn is_sound(factor: f32) -> bool {
    // A hundred thousand times is what no trained channel needs; beyond it the other side loses its digits.
    (1e-5..=1e5).contains(&factor)
}
