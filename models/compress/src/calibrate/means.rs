//! What values are in the mean, channel by channel.

use std::collections::{BTreeMap, HashMap};

use engine::Engine;
use onnx_graph::proto::NodeProto;
use onnx_graph::{Model, Names};
use serde::{Deserialize, Serialize};
use types::Tensor;

use super::run::in_groups;
use crate::{CompressError, Examples};

/// The mean of each channel (the second dimension) of values, by name.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Means(pub BTreeMap<String, Vec<f32>>);

/// Runs the model on every example and gives the mean of each channel of the values: over the first dimension, and over
/// all behind the second. Values of other types than f32 and of fewer than two dimensions get none.
///
/// # Errors
/// As [`super::each`].
pub fn means(
    engine: &dyn Engine,
    model: &Model,
    examples: &Examples,
    values: &[String],
) -> Result<Means, CompressError> {
    let (pooled, names) = pool(model, values);
    let exposed: Vec<String> = names.keys().cloned().collect();
    let mut sums: BTreeMap<String, (Vec<f64>, f64)> = BTreeMap::new();
    in_groups(engine, &pooled, examples, &exposed, &mut |tensors| {
        for tensor in tensors {
            if let Some(value) = names.get(&tensor.name) {
                add(sums.entry(value.clone()).or_default(), &tensor.tensor);
            }
        }
        Ok(())
    })?;
    #[expect(clippy::cast_possible_truncation, reason = "a mean of f32 is kept as f32")]
    let mean = |(sums, count): (Vec<f64>, f64)| sums.into_iter().map(|sum| (sum / count) as f32).collect();
    let finite = |(_, means): &(String, Vec<f32>)| !means.is_empty() && means.iter().all(|mean| mean.is_finite());
    Ok(Means(sums.into_iter().map(|(name, sums)| (name, mean(sums))).filter(finite).collect()))
}

/// Has the engine average what convolutions take over all places, so that only channels leave it. Gives the model, and
/// for each value to expose the one that it tells of.
fn pool(model: &Model, values: &[String]) -> (Model, HashMap<String, String>) {
    let mut pooled = model.clone();
    let mut names = Names::of(&pooled.graph);
    let mut exposed = HashMap::new();
    for value in values {
        let convolved = model.graph.nodes.iter().any(|node| node.is("Conv") && node.input_at(0) == Some(value));
        if convolved {
            let mean = names.fresh("sanderling_mean");
            let name = names.fresh("sanderling_pool");
            pooled.graph.nodes.push(NodeProto::new("GlobalAveragePool", &name, &[value], &[&mean]));
            exposed.insert(mean, value.clone());
        } else {
            exposed.insert(value.clone(), value.clone());
        }
    }
    (pooled, exposed)
}

fn add((sums, count): &mut (Vec<f64>, f64), tensor: &Tensor) {
    let (Ok(values), Some(&channels)) = (tensor.to_f32(), tensor.shape().get(1)) else { return };
    let inner: usize = tensor.shape().iter().skip(2).product();
    if channels == 0 || inner == 0 || (!sums.is_empty() && sums.len() != channels) {
        return;
    }
    sums.resize(channels, 0.0);
    for (run, channel) in values.chunks(inner).zip((0..channels).cycle()) {
        if let Some(sum) = sums.get_mut(channel) {
            *sum += run.iter().map(|&value| f64::from(value)).sum::<f64>();
        }
    }
    *count += (values.len() / channels) as f64;
}
