//! Equalization between a layer normalization and the products behind it.

use std::collections::BTreeMap;

use engine::Engine;
use onnx_graph::proto::TensorProto;
use onnx_graph::{Attributes, Graph, Model, Uses, Values};

use super::{is_sound, own, unshare};
use crate::{CompressError, Examples, Report, calibrate};

/// The greatest magnitude in each place of the last dimension of values, by name.
pub type Magnitudes = BTreeMap<String, Vec<f32>>;

/// Sees on examples how large each channel of the layer normalizations' results becomes.
///
/// # Errors
/// As [`calibrate::each`].
pub fn magnitudes(engine: &dyn Engine, model: &Model, examples: &Examples) -> Result<Magnitudes, CompressError> {
    let norms = model.graph.nodes.iter().filter(|node| node.is("LayerNormalization"));
    let values: Vec<String> = norms.filter_map(|node| node.output.first().cloned()).collect();
    let mut found = Magnitudes::new();
    calibrate::each(engine, model, examples, &values, &mut |tensors| {
        for tensor in tensors {
            let (Ok(values), Some(&channels)) = (tensor.tensor.to_f32(), tensor.tensor.shape().last()) else {
                continue;
            };
            let largest = found.entry(tensor.name.clone()).or_insert_with(|| vec![0.0; channels]);
            for row in values.chunks(channels.max(1)) {
                largest.iter_mut().zip(row).for_each(|(largest, value)| *largest = largest.max(value.abs()));
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// Moves scale out of a normalization's channels that are large into the weights behind: each channel is divided by
/// `magnitude^alpha / weight^(1 - alpha)`. An `alpha` of 0.5 shares the difficulty evenly; 0 changes weights least.
///
/// Only where every reader of the normalization is a product with constant weights; the report says where not.
///
/// # Errors
/// [`CompressError::Option`] when `alpha` is not from 0 to 1.
pub fn smooth(model: &Model, magnitudes: &Magnitudes, alpha: f32) -> Result<(Model, Report), CompressError> {
    if !(0.0..=1.0).contains(&alpha) {
        let reason = "use a number from 0 to 1, like 0.5".to_owned();
        return Err(CompressError::Option { option: "alpha", value: alpha.to_string(), reason });
    }
    let mut model = model.clone();
    let mut report = Report::of("smooth");
    unshare(&mut model.graph, &["LayerNormalization", "MatMul", "Gemm"]);
    let uses = Uses::of(&model.graph);
    for place in 0..model.graph.nodes.len() {
        let Some(node) = model.graph.nodes.get(place).filter(|node| node.is("LayerNormalization")).cloned() else {
            continue;
        };
        match move_scale(&mut model.graph, &uses, place, magnitudes, alpha) {
            Some(()) => report.changed.push(node.name().to_owned()),
            None => report.skip(&node, "not all that read it are products with constant weights of their own"),
        }
    }
    Ok((model, report))
}

/// Weights behind a normalization, and whether their rows are outputs.
struct Behind {
    name: String,
    values: Vec<f32>,
    shape: Vec<usize>,
    transposed: bool,
}

impl Behind {
    fn of(graph: &Graph, uses: &Uses, place: usize, value: &str) -> Option<Self> {
        let node = graph.nodes.get(place)?;
        let once = node.input.iter().filter(|input| *input == value).count() == 1;
        let product = (node.is("MatMul") || node.is("Gemm")) && node.input_at(0) == Some(value) && once;
        if !product || node.attr_int("transA").unwrap_or_default() != 0 {
            return None;
        }
        let name = node.input_at(1)?.to_owned();
        let (values, shape) = own(graph, uses, &name, place)?;
        let transposed = node.attr_int("transB").unwrap_or_default() != 0;
        (shape.len() == 2).then_some(Self { name, values, shape, transposed })
    }

    /// Which channel of what comes in an element multiplies.
    fn channel(&self, at: usize) -> usize {
        let columns = self.shape.get(1).copied().unwrap_or(1).max(1);
        if self.transposed { at % columns } else { at / columns }
    }

    fn channels(&self) -> Option<usize> {
        self.shape.get(usize::from(self.transposed)).copied()
    }
}

fn move_scale(graph: &mut Graph, uses: &Uses, place: usize, magnitudes: &Magnitudes, alpha: f32) -> Option<()> {
    let norm = graph.nodes.get(place)?;
    let value = norm.output.first()?.clone();
    let seen = magnitudes.get(&value)?;
    if graph.is_output(&value) {
        return None;
    }
    let (gain, shift) = (norm.input_at(1)?.to_owned(), norm.input_at(2).map(str::to_owned));
    let (mut gains, gain_shape) = own(graph, uses, &gain, place)?;
    let mut shifts = match &shift {
        Some(name) => Some(own(graph, uses, name, place)?),
        None => None,
    };
    let channels = gains.len();
    let consumers = uses.consumers(&value).iter();
    let mut behind: Vec<Behind> =
        consumers.map(|&consumer| Behind::of(graph, uses, consumer, &value)).collect::<Option<_>>()?;
    let fits = seen.len() == channels && behind.iter().all(|weights| weights.channels() == Some(channels));
    if behind.is_empty() || !fits {
        return None;
    }
    let mut largest = vec![0.0_f32; channels];
    for weights in &behind {
        for (at, weight) in weights.values.iter().enumerate() {
            if let Some(largest) = largest.get_mut(weights.channel(at)) {
                *largest = largest.max(weight.abs());
            }
        }
    }
    let factor = |(seen, weight): (&f32, &f32)| seen.powf(alpha) / weight.powf(1.0 - alpha);
    let factors = seen.iter().zip(&largest).map(factor).map(|factor| if is_sound(factor) { factor } else { 1.0 });
    let factors: Vec<f32> = factors.collect();
    gains.iter_mut().zip(&factors).for_each(|(gain, factor)| *gain /= factor);
    if let Some((values, _)) = &mut shifts {
        values.iter_mut().zip(&factors).for_each(|(value, factor)| *value /= factor);
    }
    for weights in &mut behind {
        let Behind { transposed, shape, .. } = weights;
        let columns = shape.get(1).copied().unwrap_or(1).max(1);
        for (at, value) in weights.values.iter_mut().enumerate() {
            let channel = if *transposed { at % columns } else { at / columns };
            *value *= factors.get(channel).copied().unwrap_or(1.0);
        }
    }
    graph.add_initializer(TensorProto::of_floats(&gain, &gain_shape, &gains));
    if let (Some(name), Some((values, shape))) = (shift, shifts) {
        graph.add_initializer(TensorProto::of_floats(&name, &shape, &values));
    }
    for Behind { name, values, shape, .. } in behind {
        graph.add_initializer(TensorProto::of_floats(&name, &shape, &values));
    }
    Some(())
}
