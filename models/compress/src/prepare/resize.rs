//! Writes the scales of `Resize` for all axes where the attribute `axes` names some.
//!
//! ONNX Runtime resizes integers along `axes` wrongly, and refuses to run such a node between two integer convolutions: it moves
//! a transposition over it and indexes the shorter list by the axes of the tensor. Both are right without the attribute. Sizes
//! become scales, because those of the other axes (the batch) are rarely known.

use std::collections::HashMap;

use onnx_graph::infer::{Dim, infer};
use onnx_graph::proto::{NodeProto, TensorProto};
use onnx_graph::{Attributes, Graph, Model, Names, Values};

/// Places of the inputs of `Resize`.
const REGION: usize = 1;
const SCALES: usize = 2;
const SIZES: usize = 3;

/// Longest axis whose length single precision states exactly.
const LENGTH_MAX: i64 = 1 << 24;

/// Rewrites every `Resize` whose scales or sizes are constant, if the lengths are known that its sizes refer to.
pub(super) fn spread_axes(model: &mut Model) {
    if !model.graph.nodes.iter().any(has_axes) {
        return;
    }
    let types = infer(model, &HashMap::new());
    let mut names = Names::of(&model.graph);
    let mut added = Vec::new();
    let mut nodes = std::mem::take(&mut model.graph.nodes);
    for node in nodes.iter_mut().filter(|node| has_axes(node)) {
        let shape = node.input_at(0).and_then(|input| types.shape(input));
        let Some(spread) = shape.and_then(|shape| Spread::of(&model.graph, node, shape)) else { continue };
        let mut constant = |wanted: &str, values: &[f32]| {
            let name = names.fresh(wanted);
            added.push(TensorProto::of_floats(&name, &[values.len()], values));
            name
        };
        let region = spread.region.map(|region| constant("roi", &region)).unwrap_or_default();
        let scales = constant("scales", &spread.scales);
        node.input.truncate(REGION);
        node.input.extend([region, scales]);
        node.attribute.retain(|attribute| !["axes", "keep_aspect_ratio_policy"].contains(&attribute.name()));
    }
    model.graph.nodes = nodes;
    added.into_iter().for_each(|tensor| model.graph.add_initializer(tensor));
}

fn has_axes(node: &NodeProto) -> bool {
    node.is("Resize") && node.attr("axes").is_some()
}

/// Numbers of a `Resize` for all axes.
struct Spread {
    scales: Vec<f32>,
    /// Begins, then ends; only of a node that crops.
    region: Option<Vec<f32>>,
}

impl Spread {
    /// Returns the numbers for all axes of a tensor of this shape; `None` where they are not known or do not fit.
    fn of(graph: &Graph, node: &NodeProto, shape: &[Dim]) -> Option<Self> {
        let rank = i64::try_from(shape.len()).ok()?;
        let stated = node.attr_ints("axes")?;
        let axes: Vec<usize> = stated
            .iter()
            .map(|&axis| usize::try_from(if axis < 0 { axis.checked_add(rank)? } else { axis }).ok())
            .collect::<Option<_>>()?;
        let given = match input(graph, node, SIZES) {
            Some(_sizes) => by_sizes(graph, node, &axes, stated, shape)?,
            None => constant(graph, node, SCALES)?,
        };
        let spread = |given: &[f32], rest: f32| {
            let mut all = vec![rest; shape.len()];
            for (&axis, &value) in axes.iter().zip(given) {
                *all.get_mut(axis)? = value;
            }
            (given.len() == axes.len()).then_some(all)
        };
        let is_cropped = node.attr_str("coordinate_transformation_mode") == Some("tf_crop_and_resize");
        let region = if is_cropped {
            let given = constant(graph, node, REGION)?;
            let (begins, ends) = given.split_at_checked(axes.len())?;
            Some([spread(begins, 0.0)?, spread(ends, 1.0)?].concat())
        } else {
            None
        };
        Some(Self { scales: spread(&given, 1.0)?, region })
    }
}

/// Returns the name of an input; `None` where it is left out or an empty constant, which means the same.
fn input<'n>(graph: &Graph, node: &'n NodeProto, place: usize) -> Option<&'n str> {
    node.input_at(place).filter(|name| graph.initializer(name).is_none_or(|tensor| tensor.dims != [0]))
}

fn constant(graph: &Graph, node: &NodeProto, place: usize) -> Option<Vec<f32>> {
    graph.initializer(input(graph, node, place)?)?.floats().ok()
}

/// Returns the scales that ONNX Runtime makes of sizes; `None` where it would make other sizes of these scales.
fn by_sizes(graph: &Graph, node: &NodeProto, axes: &[usize], stated: &[i64], shape: &[Dim]) -> Option<Vec<f32>> {
    let sizes = graph.initializer(input(graph, node, SIZES)?)?.integers().ok()?;
    let lengths: Vec<f32> = axes.iter().map(|&axis| exact(shape.get(axis)?.known()?)).collect::<Option<_>>()?;
    let sizes: Vec<f32> = sizes.into_iter().map(exact).collect::<Option<_>>()?;
    if sizes.len() != lengths.len() {
        return None;
    }
    let scales: Vec<f32> = sizes.iter().zip(&lengths).map(|(size, length)| size / length).collect();
    let policy = node.attr_str("keep_aspect_ratio_policy").unwrap_or("stretch");
    let (scales, sizes) = match policy {
        "stretch" => (scales, sizes),
        // ONNX Runtime ignores negative axes under a policy: a rewrite would change its answers.
        "not_larger" | "not_smaller" if stated.iter().all(|&axis| axis >= 0) => {
            let choose = if policy == "not_larger" { f32::min } else { f32::max };
            let common = scales.into_iter().reduce(choose)?;
            (vec![common; lengths.len()], lengths.iter().map(|length| (length * common).round()).collect())
        }
        _ => return None,
    };
    let kept = scales.iter().zip(&lengths).zip(&sizes).all(|((scale, length), size)| (length * scale).floor() == *size);
    kept.then_some(scales)
}

/// Returns a length that is not 0 in single precision; `None` where it would be rounded.
#[expect(clippy::cast_precision_loss, reason = "it is bounded")]
fn exact(length: i64) -> Option<f32> {
    (1..LENGTH_MAX).contains(&length).then_some(length as f32)
}
