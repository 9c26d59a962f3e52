//! Folds `BatchNormalization` into the weights of the `Conv`, `ConvTranspose` or `Gemm` before it.
//!
//! With `k = scale / sqrt(variance + epsilon)` of a channel, `(w·x + b - mean)·k + shift` is `(w·k)·x + ((b - mean)·k + shift)`.

use std::collections::HashSet;

use crate::attribute::Attributes;
use crate::graph::Graph;
use crate::names::Names;
use crate::proto::{AttributeProto, NodeProto, TensorProto};
use crate::tensor::{ElementType, Values};
use crate::uses::Uses;

/// Default of the attribute in the ONNX specification.
const EPSILON: f32 = 1e-5;

/// Folds every normalization whose parameters and weights are f32 initializers, and whose weight no other node takes; gives
/// how many. `opset` is the version of the default domain.
pub fn fold_batch_norms(graph: &mut Graph, opset: i64) -> usize {
    let uses = Uses::of(graph);
    let mut names = Names::of(graph);
    let mut gone = HashSet::new();
    let mut removed = vec![false; graph.nodes.len()];
    for place in 0..graph.nodes.len() {
        let Some(fold) = Fold::of(graph, &uses, place, opset) else { continue };
        let Fold { maker, weight, bias, output } = fold;
        let Some(node) = graph.nodes.get_mut(maker) else { continue };
        let at = |tail: &str| format!("{output}_{tail}");
        let (weight_name, bias_name) = (names.fresh(&at("weight")), names.fresh(&at("bias")));
        node.input.resize(3, String::new());
        for (place, name) in [(1, &weight_name), (2, &bias_name)] {
            if let Some(input) = node.input.get_mut(place) {
                input.clone_from(name);
            }
        }
        if node.is("Gemm") {
            node.set(AttributeProto::float("beta", 1.0));
        }
        if let Some(old) = node.output.first_mut() {
            gone.insert(std::mem::replace(old, output));
        }
        graph.add_initializer(TensorProto { name: Some(weight_name), ..weight });
        graph.add_initializer(TensorProto::of_floats(&bias_name, &[bias.len()], &bias));
        if let Some(removed) = removed.get_mut(place) {
            *removed = true;
        }
    }
    graph.value_info.retain(|name, _| !gone.contains(name));
    let count = removed.iter().filter(|&&removed| removed).count();
    let mut removed = removed.into_iter();
    graph.nodes.retain(|_| !removed.next().unwrap_or(false));
    count
}

/// A normalization that can go, and what its maker gets in exchange.
struct Fold {
    maker: usize,
    weight: TensorProto,
    bias: Vec<f32>,
    output: String,
}

impl Fold {
    fn of(graph: &Graph, uses: &Uses, place: usize, opset: i64) -> Option<Self> {
        let norm = graph.nodes.get(place).filter(|node| is_inference(node, opset))?;
        let source = norm.input_at(0)?;
        let maker = uses.producer(source)?;
        // Folded already: the producer of that name is another node now.
        let node = graph.nodes.get(maker).filter(|node| node.output.first().is_some_and(|made| made == source))?;
        if uses.only_consumer(source) != Some(place) || node.output.len() != 1 {
            return None;
        }
        let weight_name = node.input_at(1)?;
        if uses.consumers(weight_name) != [maker] || uses.is_output(weight_name) {
            return None;
        }
        let weight = graph.initializer(weight_name).filter(|weight| weight.element_type() == ElementType::Float)?;
        let layout = Layout::of(node, &weight.shape().ok()?)?;
        let channels = layout.channels;
        let parameter = |at| {
            let tensor = graph.initializer(norm.input_at(at)?)?;
            let is_fitting =
                tensor.element_type() == ElementType::Float && tensor.dims == [i64::try_from(channels).ok()?];
            is_fitting.then(|| tensor.floats().ok()).flatten()
        };
        let (scale, shift, mean, variance) = (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
        let epsilon = norm.attr_float("epsilon").unwrap_or(EPSILON);
        let factors: Vec<f64> = scale
            .iter()
            .zip(&variance)
            .map(|(&scale, &variance)| f64::from(scale) / (f64::from(variance) + f64::from(epsilon)).sqrt())
            .collect();
        if !factors.iter().all(|factor| factor.is_finite()) {
            return None;
        }
        let bias = bias_of(graph, node, channels)?;
        #[expect(clippy::cast_possible_truncation, reason = "rounded to the type of the weights")]
        let bias = (0..channels)
            .map(|at| {
                let (bias, mean, shift) = (*bias.get(at)?, f64::from(*mean.get(at)?), f64::from(*shift.get(at)?));
                Some(((bias - mean) * factors.get(at)? + shift) as f32)
            })
            .collect::<Option<Vec<f32>>>()?;
        let weight = scaled(weight, &layout, &factors)?;
        Some(Self { maker, weight, bias, output: norm.output.first()?.clone() })
    }
}

fn is_inference(node: &NodeProto, opset: i64) -> bool {
    let statistics_are_used = node.output.iter().skip(1).any(|output| !output.is_empty());
    let trains = node.attr_int("training_mode").unwrap_or(0) != 0 || (opset < 7 && node.attr_int("is_test") != Some(1));
    node.is("BatchNormalization") && !statistics_are_used && !trains && node.attr_int("spatial").unwrap_or(1) == 1
}

/// Which output channel an element of the weight belongs to: channels are counted within each outer part, `inner` elements
/// each; outer part `o` begins with channel `o · within` when `outer` parts are groups.
struct Layout {
    channels: usize,
    /// Channels along the axis.
    within: usize,
    /// Elements after the axis.
    inner: usize,
    /// Elements of one group.
    group: usize,
}

impl Layout {
    fn of(node: &NodeProto, shape: &[usize]) -> Option<Self> {
        let (axis, groups) = match (node.op_type(), shape.len()) {
            ("Conv", 3..) if node.is("Conv") => (0, 1),
            ("ConvTranspose", 3..) if node.is("ConvTranspose") => {
                (1, usize::try_from(node.attr_int("group").unwrap_or(1)).ok()?)
            }
            ("Gemm", 2) if node.is("Gemm") => (usize::from(node.attr_int("transB").unwrap_or(0) == 0), 1),
            _ => return None,
        };
        let within = *shape.get(axis)?;
        let inner = shape.get(axis + 1..)?.iter().product();
        let elements: usize = shape.iter().product();
        let group = elements.checked_div(groups)?;
        (elements > 0).then_some(Self { channels: within.checked_mul(groups)?, within, inner, group })
    }

    fn channel(&self, element: usize) -> usize {
        (element / self.group) * self.within + (element / self.inner) % self.within
    }
}

fn bias_of(graph: &Graph, node: &NodeProto, channels: usize) -> Option<Vec<f64>> {
    let Some(name) = node.input_at(2) else { return Some(vec![0.0; channels]) };
    let tensor = graph.initializer(name).filter(|bias| bias.element_type() == ElementType::Float)?;
    let shape = tensor.shape().ok()?;
    let values = tensor.floats().ok()?;
    let beta = if node.is("Gemm") { f64::from(node.attr_float("beta").unwrap_or(1.0)) } else { 1.0 };
    // A bias by rows, (M, 1) or (M, N), is another thing.
    let is_by_channel = shape.iter().rev().skip(1).all(|&dim| dim == 1);
    match values.as_slice() {
        [one] if node.is("Gemm") && is_by_channel => Some(vec![f64::from(*one) * beta; channels]),
        values if values.len() == channels && is_by_channel => {
            Some(values.iter().map(|&value| f64::from(value) * beta).collect())
        }
        _ => None,
    }
}

fn scaled(weight: &TensorProto, layout: &Layout, factors: &[f64]) -> Option<TensorProto> {
    let mut values = weight.floats().ok()?;
    #[expect(clippy::cast_possible_truncation, reason = "rounded to the type of the weights")]
    for (at, value) in values.iter_mut().enumerate() {
        *value = (f64::from(*value) * factors.get(layout.channel(at))?) as f32;
    }
    Some(TensorProto::of_floats("", &weight.shape().ok()?, &values))
}
