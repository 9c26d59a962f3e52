//! Folds constant sums and products into the convolutions before them.

use onnx_graph::proto::{NodeProto, TensorProto};
use onnx_graph::{ElementType, Graph, Names, Uses, Values};

/// Folds what is added to or multiplied with a convolution's result by channel into its weights; gives how often.
pub(super) fn fold_into_convolutions(graph: &mut Graph) -> usize {
    let mut names = Names::of(graph);
    let uses = Uses::of(graph);
    let mut gone = vec![false; graph.nodes.len()];
    for place in 0..graph.nodes.len() {
        let Some(found) = Found::at(graph, &uses, place).filter(|found| gone.get(found.conv) == Some(&false)) else {
            continue;
        };
        if found.apply(graph, &mut names, place).is_some()
            && let Some(gone) = gone.get_mut(place)
        {
            *gone = true;
        }
    }
    let count = gone.iter().filter(|&&gone| gone).count();
    let mut gone = gone.into_iter();
    graph.nodes.retain(|_| !gone.next().unwrap_or(false));
    count
}

/// A sum or product behind a convolution.
struct Found {
    conv: usize,
    weight: TensorProto,
    bias: Option<Vec<f32>>,
    /// One for each channel of the result.
    constant: Vec<f32>,
    multiplies: bool,
}

impl Found {
    fn at(graph: &Graph, uses: &Uses, place: usize) -> Option<Self> {
        let node = graph.nodes.get(place)?;
        let multiplies = node.is("Mul");
        if !(multiplies || node.is("Add")) {
            return None;
        }
        let (left, right) = (node.input_at(0)?, node.input_at(1)?);
        let (value, constant) = match (graph.initializer(left), graph.initializer(right)) {
            (None, Some(constant)) => (left, constant),
            (Some(constant), None) => (right, constant),
            _ => return None,
        };
        uses.only_consumer(value)?;
        let conv = uses.producer(value)?;
        let conv_node = graph.nodes.get(conv).filter(|conv| conv.is("Conv"))?;
        let weight = graph.initializer(conv_node.input_at(1)?)?;
        let bias = match conv_node.input_at(2) {
            Some(name) => Some(floats(graph.initializer(name)?)?),
            None => None,
        };
        let shape = weight.shape().ok()?;
        let channels = *shape.first()?;
        let constant = by_channel(constant, channels, shape.len())?;
        (weight.element_type() == ElementType::Float).then(|| Self {
            conv,
            weight: weight.clone(),
            bias,
            constant,
            multiplies,
        })
    }

    fn apply(mut self, graph: &mut Graph, names: &mut Names, place: usize) -> Option<()> {
        let mut bias = self.bias.take().unwrap_or_else(|| vec![0.0; self.constant.len()]);
        let shape = self.weight.shape().ok()?;
        let output = graph.nodes.get(place)?.output.first()?.clone();
        if self.multiplies {
            let mut values = floats(&self.weight)?;
            let inner = values.len().checked_div(self.constant.len())?.max(1);
            for (run, factor) in values.chunks_mut(inner).zip(&self.constant) {
                run.iter_mut().for_each(|value| *value *= factor);
            }
            bias.iter_mut().zip(&self.constant).for_each(|(bias, factor)| *bias *= factor);
            let name = names.fresh(&format!("{}_scaled", self.weight.name()));
            graph.add_initializer(TensorProto::of_floats(&name, &shape, &values));
            set(graph.nodes.get_mut(self.conv)?, 1, name);
        } else {
            bias.iter_mut().zip(&self.constant).for_each(|(bias, added)| *bias += added);
        }
        let name = names.fresh(&format!("{}_bias", self.weight.name()));
        graph.add_initializer(TensorProto::of_floats(&name, &[bias.len()], &bias));
        let conv = graph.nodes.get_mut(self.conv)?;
        set(conv, 2, name);
        conv.output = vec![output];
        Some(())
    }
}

fn floats(tensor: &TensorProto) -> Option<Vec<f32>> {
    (tensor.element_type() == ElementType::Float).then(|| tensor.floats().ok())?
}

fn set(node: &mut NodeProto, at: usize, name: String) {
    node.input.resize(node.input.len().max(at + 1), String::new());
    if let Some(input) = node.input.get_mut(at) {
        *input = name;
    }
}

/// One number for each channel, of a constant that differs along the second axis at most.
fn by_channel(constant: &TensorProto, channels: usize, rank: usize) -> Option<Vec<f32>> {
    let values = floats(constant)?;
    let shape = constant.shape().ok()?;
    if shape.len() > rank {
        return None;
    }
    if let [only] = values.as_slice() {
        return Some(vec![*only; channels]);
    }
    let axis = shape.len().checked_sub(rank.checked_sub(1)?)?;
    let elsewhere = shape.iter().enumerate().all(|(at, &size)| at == axis || size == 1);
    (elsewhere && shape.get(axis) == Some(&channels)).then_some(values)
}
