//! Sets the smallest weights to zero.
//!
//! The model keeps its shape and speed: what it gains is a smaller file once that is compressed (the report says how much
//! smaller), and, with a pattern like 2:4, kernels of hardware that skips zeros.

use std::collections::BTreeMap;

use onnx_graph::proto::{NodeProto, TensorProto};
use onnx_graph::{Attributes, Model, Uses, Values};
use serde::{Deserialize, Serialize};

use crate::constants::Constants;
use crate::{CompressError, Report, Selection};

/// How hard zstd tries for the report: its default, as a registry would compress a file.
const ZSTD_LEVEL: i32 = 3;

/// Which weights become zero.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// The smallest part (0 to 1) of each layer's weights.
    PerLayer(f32),
    /// The smallest part of all selected weights together, each measured against its layer's root mean square.
    Global(f32),
    /// Of every `group` weights along a layer's inputs, the `zeros` smallest: 2 of 4 is what hardware knows.
    Groups {
        /// Number of weights that become zero.
        zeros: usize,
        /// Number of weights in a group.
        group: usize,
    },
}

/// Options of the pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Which weights become zero.
    pub pattern: Pattern,
    /// The nodes that may be changed.
    #[serde(default)]
    pub selection: Selection,
}

/// Sparsity of one weight, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sparsity {
    /// Name of the weight.
    pub weight: String,
    /// Number of its elements.
    pub elements: usize,
    /// Zeros among them, before and after.
    pub zeros: [usize; 2],
    /// Bytes after zstd, before and after.
    pub compressed_bytes: [usize; 2],
}

/// Prunes the weights of the selected `Conv`, `MatMul` and `Gemm` nodes.
///
/// # Errors
/// When the pattern makes no sense, a weight's bytes are broken, or there is no weight to prune.
pub fn prune(model: &Model, options: &Options) -> Result<(Model, Report, Vec<Sparsity>), CompressError> {
    check(options.pattern)?;
    let mut report = Report::of("prune-magnitude");
    report.tell_of_subgraphs(&model.graph);
    let found = weights(model, options, &mut report)?;
    let threshold = match options.pattern {
        Pattern::Global(part) => global_threshold(&found, part),
        Pattern::PerLayer(_) | Pattern::Groups { .. } => 0.0,
    };
    let mut made = model.clone();
    let mut layers = Vec::new();
    for (name, weight) in found {
        let mut values = weight.values.clone();
        match options.pattern {
            Pattern::PerLayer(part) => smallest(&mut values, part),
            Pattern::Global(_) => below(&mut values, threshold * weight.root_mean_square()),
            Pattern::Groups { zeros, group } => weight.in_groups(&mut values, zeros, group),
        }
        let tensor = TensorProto::of_floats(&name, &weight.shape, &values);
        layers.push(sparsity(&name, &weight.values, &values)?);
        made.graph.add_initializer(tensor);
        report.changed.extend(weight.nodes);
    }
    if layers.is_empty() {
        let reason = "it has no Conv, MatMul or Gemm with a constant f32 weight that may be changed".to_owned();
        return Err(CompressError::Nothing { pass: "prune-magnitude", reason });
    }
    Ok((made, report, layers))
}

fn check(pattern: Pattern) -> Result<(), CompressError> {
    let refuse = |value: String, reason: &str| {
        Err(CompressError::Option { option: "pattern", value, reason: reason.to_owned() })
    };
    match pattern {
        Pattern::PerLayer(part) | Pattern::Global(part) if !(0.0..=1.0).contains(&part) => {
            refuse(part.to_string(), "it is a part between 0 and 1")
        }
        Pattern::Groups { zeros, group } if zeros > group || group == 0 => {
            refuse(format!("{zeros}:{group}"), "it takes some weights of a larger group, like 2:4")
        }
        Pattern::PerLayer(_) | Pattern::Global(_) | Pattern::Groups { .. } => Ok(()),
    }
}

/// A weight to be pruned.
struct Weight {
    shape: Vec<usize>,
    values: Vec<f32>,
    /// The axis of the inputs.
    axis: usize,
    /// Names of the nodes that take it.
    nodes: Vec<String>,
}

fn weights(model: &Model, options: &Options, report: &mut Report) -> Result<BTreeMap<String, Weight>, CompressError> {
    let uses = Uses::of(&model.graph);
    let constants = Constants::of(&model.graph, &uses);
    let mut found: BTreeMap<String, Weight> = BTreeMap::new();
    for node in model.graph.nodes.iter().filter(|node| ["Conv", "MatMul", "Gemm"].iter().any(|kind| node.is(kind))) {
        let Some(tensor) = node.input_at(1).and_then(|name| constants.float32(name)) else { continue };
        let name = tensor.name();
        let only_products =
            |at: &usize| model.graph.nodes.get(*at).is_some_and(|other| inputs_axis(other) == inputs_axis(node));
        if !options.selection.takes(node) {
            report.skip(node, "it is not selected");
        } else if !model.graph.initializers.contains_key(name) {
            report.skip(node, "its weight is held by a Constant node: fold constants first");
        } else if model.graph.is_output(name) || !uses.consumers(name).iter().all(only_products) {
            report.skip(node, "its weight is used otherwise too");
        } else if let Some(weight) = found.get_mut(name) {
            weight.nodes.push(node.name().to_owned());
        } else {
            let (shape, values) = (tensor.shape()?, tensor.floats()?);
            if values.is_empty() || shape.len() < 2 || !values.iter().all(|value| value.is_finite()) {
                report.skip(node, "its weight is no matrix of finite numbers");
                continue;
            }
            let axis = inputs_axis(node).unwrap_or(1);
            found.insert(name.to_owned(), Weight { shape, values, axis, nodes: vec![node.name().to_owned()] });
        }
    }
    Ok(found)
}

/// The axis of a weight along which its inputs stand; `None` for nodes that are not pruned.
fn inputs_axis(node: &NodeProto) -> Option<usize> {
    match node.op_type() {
        "Conv" => Some(1),
        "MatMul" => Some(0),
        "Gemm" => Some(usize::from(node.attr_int("transB").unwrap_or(0) != 0)),
        _ => None,
    }
}

impl Weight {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a mean, back in the type of weights"
    )]
    fn root_mean_square(&self) -> f32 {
        let sum: f64 = self.values.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
        (sum / self.values.len() as f64).sqrt() as f32
    }

    /// Zeroes the smallest of each group along the axis of the inputs; a last, shorter group loses its part.
    fn in_groups(&self, values: &mut [f32], zeros: usize, group: usize) {
        let length = self.shape[self.axis];
        let inner: usize = self.shape[self.axis + 1..].iter().product();
        for outer in 0..values.len() / (length * inner).max(1) {
            for column in 0..inner {
                for start in (0..length).step_by(group) {
                    let count = group.min(length - start);
                    let place = |nth: usize| (outer * length + start + nth) * inner + column;
                    let mut places: Vec<usize> = (0..count).map(place).collect();
                    places.sort_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs()).then(a.cmp(&b)));
                    places.iter().take(zeros * count / group).for_each(|&at| values[at] = 0.0);
                }
            }
        }
    }
}

/// How many of `count` a part is.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of a count, between 0 and it"
)]
fn part_of(count: usize, part: f32) -> usize {
    (count as f64 * f64::from(part)) as usize
}

/// Zeroes exactly this part of the weights; of equal ones the first.
fn smallest(values: &mut [f32], part: f32) {
    let mut places: Vec<usize> = (0..values.len()).collect();
    let count = part_of(values.len(), part);
    if count == 0 {
        return;
    }
    places.select_nth_unstable_by(count - 1, |&a, &b| values[a].abs().total_cmp(&values[b].abs()).then(a.cmp(&b)));
    places[..count].iter().for_each(|&at| values[at] = 0.0);
}

fn below(values: &mut [f32], threshold: f32) {
    values.iter_mut().filter(|value| value.abs() < threshold).for_each(|value| *value = 0.0);
}

/// The multiple of a layer's root mean square below which this part of all weights lies.
fn global_threshold(weights: &BTreeMap<String, Weight>, part: f32) -> f32 {
    let mut all: Vec<f32> = Vec::new();
    for weight in weights.values() {
        let scale = weight.root_mean_square().max(f32::MIN_POSITIVE);
        all.extend(weight.values.iter().map(|value| value.abs() / scale));
    }
    match part_of(all.len(), part) {
        0 => 0.0,
        count if count == all.len() => f32::INFINITY,
        count => *all.select_nth_unstable_by(count, f32::total_cmp).1,
    }
}

fn sparsity(name: &str, before: &[f32], after: &[f32]) -> Result<Sparsity, CompressError> {
    let zeros = |values: &[f32]| values.iter().filter(|value| **value == 0.0).count();
    let compressed = |values: &[f32]| {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        zstd::bulk::compress(&raw, ZSTD_LEVEL).map(|bytes| bytes.len())
    };
    let failed = |error: std::io::Error| CompressError::Option {
        option: "pattern",
        value: name.to_owned(),
        reason: format!("zstd did not compress the weight: {error}"),
    };
    Ok(Sparsity {
        weight: name.to_owned(),
        elements: after.len(),
        zeros: [zeros(before), zeros(after)],
        compressed_bytes: [compressed(before).map_err(failed)?, compressed(after).map_err(failed)?],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_of_four_along_the_inputs_become_zero() {
        let values: Vec<f32> = vec![1.0, -8.0, 2.0, 7.0, -3.0, 6.0, 4.0, 5.0];
        // [4, 2]: inputs stand in the first axis.
        let weight = Weight { shape: vec![4, 2], values: values.clone(), axis: 0, nodes: Vec::new() };
        let mut made = values;
        weight.in_groups(&mut made, 2, 4);
        assert_eq!(made, [0.0, -8.0, 0.0, 7.0, -3.0, 0.0, 4.0, 0.0]);
    }

    #[test]
    fn the_part_is_exact_with_equal_weights() {
        let mut values = vec![1.0; 10];
        smallest(&mut values, 0.35);
        assert_eq!(values.iter().filter(|value| **value == 0.0).count(), 3);
    }
}
