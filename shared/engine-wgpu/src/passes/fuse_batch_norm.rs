//! `Conv → BatchNormalization` becomes one convolution with other weights and another bias.

use super::pattern::{Uses, is_one_of};
use crate::ir::{ElementType, Graph, Literal, ValueId};

/// Folds every batch normalisation that directly follows a convolution with constant weights.
pub(super) fn fold(graph: &mut Graph) -> bool {
    let uses = Uses::of(graph);
    let mut changed = false;
    for at in 0..graph.nodes.len() {
        let Some((conv, weights, bias)) = folded(graph, &uses, at) else { continue };
        let weights = graph.add_constant("folded weights", weights);
        let bias = graph.add_constant("folded bias", bias);
        let mut node = graph.nodes[conv].clone();
        node.inputs = vec![node.input(0), Some(weights), Some(bias)];
        node.outputs = vec![graph.nodes[at].output(0)];
        graph.nodes[at] = node;
        changed = true;
    }
    changed
}

/// The convolution in front of a batch normalisation, and the weights and bias that do for both.
fn folded(graph: &Graph, uses: &Uses, at: usize) -> Option<(usize, Literal, Literal)> {
    let node = &graph.nodes[at];
    let inference =
        !node.attributes.flag("training_mode", false).ok()? && node.outputs.iter().skip(1).all(Option::is_none);
    if !node.is("BatchNormalization") || !inference {
        return None;
    }
    let input = node.input(0).filter(|&id| uses.once(id))?;
    let (conv, from) = uses.producer(graph, input).filter(|(_at, node)| is_one_of(node, &["Conv"]))?;
    let weights = graph.constant_input(from, 1).filter(|literal| literal.dtype() == ElementType::F32)?;
    let channels = *weights.shape().first()?;
    let values = |id: Option<ValueId>| {
        let literal = graph.constants.get(&id?)?;
        (literal.elements() == channels).then(|| literal.to_f64s())
    };
    let [scale, offset, mean, variance] = [1, 2, 3, 4].map(|place| values(node.input(place)));
    let (scale, offset, mean, variance) = (scale?, offset?, mean?, variance?);
    let epsilon = f64::from(node.attributes.float("epsilon", 1e-5).ok()?);
    let bias = match from.input(2) {
        Some(id) => values(Some(id))?,
        None => vec![0.0; channels],
    };
    let factors: Vec<f64> = scale.iter().zip(&variance).map(|(scale, var)| scale / (var + epsilon).sqrt()).collect();
    let bias: Vec<f64> = (0..channels).map(|c| (bias[c] - mean[c]) * factors[c] + offset[c]).collect();
    let each = (weights.elements() / channels.max(1)).max(1);
    let scaled: Vec<f64> =
        weights.to_f64s().chunks(each).zip(&factors).flat_map(|(row, by)| row.iter().map(move |w| w * by)).collect();
    let finite = factors.iter().all(|factor| factor.is_finite());
    finite.then(|| {
        let weights = Literal::from_f64s(ElementType::F32, weights.shape().to_vec(), &scaled);
        (conv, weights, Literal::from_f64s(ElementType::F32, vec![channels], &bias))
    })
}
