//! Equalization between convolutions that follow each other.

use onnx_graph::proto::TensorProto;
use onnx_graph::{Attributes, Graph, Model, Uses, Values};

use super::{is_sound, own, unshare};
use crate::Report;

/// Rounds over all pairs: a channel's scale moves one convolution further in each. Three come within a percent.
const ROUNDS: usize = 3;

/// Operators between two convolutions that a factor above 0 passes through, channel by channel.
const PASSED: [&str; 5] = ["Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool"];

/// Gives each channel between two convolutions the factor that makes its weights equally large in both.
///
/// Only where nothing but [operators that keep factors](PASSED) stand between and nobody else looks on.
#[must_use]
pub fn cross_layer(model: &Model) -> (Model, Report) {
    let mut model = model.clone();
    let mut report = Report::of("cross-layer-equalization");
    unshare(&mut model.graph, &["Conv"]);
    let uses = Uses::of(&model.graph);
    let pairs: Vec<(usize, usize)> =
        (0..model.graph.nodes.len()).filter_map(|first| Some((first, next(&model.graph, &uses, first)?))).collect();
    for _ in 0..ROUNDS {
        for &(first, second) in &pairs {
            let changed = equalize(&mut model.graph, &uses, first, second).is_some();
            let name = model.graph.nodes.get(first).map(|node| node.name().to_owned()).unwrap_or_default();
            if changed && !report.changed.contains(&name) {
                report.changed.push(name);
            }
        }
    }
    (model, report)
}

/// The convolution that alone takes what this one gives.
fn next(graph: &Graph, uses: &Uses, first: usize) -> Option<usize> {
    let mut node = graph.nodes.get(first).filter(|node| node.is("Conv"))?;
    for _ in 0..graph.nodes.len() {
        let place = uses.only_consumer(node.output.first()?)?;
        let follower = graph.nodes.get(place)?;
        if follower.is("Conv") {
            return (follower.input_at(0) == node.output.first().map(String::as_str)).then_some(place);
        }
        node = Some(follower).filter(|node| PASSED.iter().any(|name| node.is(name)) && node.output.len() == 1)?;
    }
    None
}

/// Moves scale in one pair; `None` when it does not fit.
fn equalize(graph: &mut Graph, uses: &Uses, first: usize, second: usize) -> Option<()> {
    let names = |place: usize, at: usize| graph.nodes.get(place)?.input_at(at).map(str::to_owned);
    let (from, to) = (names(first, 1)?, names(second, 1)?);
    let bias = names(first, 2);
    let (mut from_values, from_shape) = own(graph, uses, &from, first)?;
    let (mut to_values, to_shape) = own(graph, uses, &to, second)?;
    let mut bias_values = match &bias {
        Some(name) => Some(own(graph, uses, name, first)?),
        None => None,
    };
    let channels = *from_shape.first()?;
    let groups = usize::try_from(graph.nodes.get(second)?.attr_int("group").unwrap_or(1)).ok()?;
    let walk = Walk::of(&to_shape, groups, channels)?;
    let given = largest(&from_values, channels, |at, length| at / (length / channels).max(1));
    let taken = largest(&to_values, channels, |at, _| walk.channel(at));
    // Both become sqrt(given * taken).
    let factors: Vec<f32> = given
        .iter()
        .zip(&taken)
        .map(|(given, taken)| (given / taken).sqrt())
        .map(|factor| if is_sound(factor) { factor } else { 1.0 })
        .collect();
    let inner = (from_values.len() / channels.max(1)).max(1);
    for (run, factor) in from_values.chunks_mut(inner).zip(&factors) {
        run.iter_mut().for_each(|value| *value /= factor);
    }
    for (at, value) in to_values.iter_mut().enumerate() {
        *value *= factors.get(walk.channel(at)).copied().unwrap_or(1.0);
    }
    if let Some((values, _)) = &mut bias_values {
        values.iter_mut().zip(&factors).for_each(|(value, factor)| *value /= factor);
    }
    graph.add_initializer(TensorProto::of_floats(&from, &from_shape, &from_values));
    graph.add_initializer(TensorProto::of_floats(&to, &to_shape, &to_values));
    if let (Some(name), Some((values, shape))) = (bias, bias_values) {
        graph.add_initializer(TensorProto::of_floats(&name, &shape, &values));
    }
    Some(())
}

/// Which input channel an element of the second convolution's weights multiplies.
struct Walk {
    inner: usize,
    inputs: usize,
    outputs_per_group: usize,
}

impl Walk {
    fn of(shape: &[usize], groups: usize, channels: usize) -> Option<Self> {
        let (&outputs, &inputs) = (shape.first()?, shape.get(1)?);
        let fits = inputs.checked_mul(groups) == Some(channels) && outputs > 0 && inputs > 0;
        let inner: usize = shape.iter().skip(2).product();
        (fits && inner > 0).then(|| Self { inner, inputs, outputs_per_group: (outputs / groups).max(1) })
    }

    fn channel(&self, at: usize) -> usize {
        let (output, input) = (at / self.inner / self.inputs, at / self.inner % self.inputs);
        output / self.outputs_per_group * self.inputs + input
    }
}

fn largest(values: &[f32], channels: usize, channel: impl Fn(usize, usize) -> usize) -> Vec<f32> {
    let mut largest = vec![0.0_f32; channels];
    for (at, value) in values.iter().enumerate() {
        if let Some(largest) = largest.get_mut(channel(at, values.len())) {
            *largest = largest.max(value.abs());
        }
    }
    largest
}
