//! Values of a graph that are the same in every run, wherever the exporter put them.

use onnx_graph::proto::TensorProto;
use onnx_graph::{Attributes, ElementType, Graph, Uses, Values};

/// Finds constants by the names of values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Constants<'g> {
    graph: &'g Graph,
    uses: &'g Uses,
}

impl<'g> Constants<'g> {
    pub(crate) fn of(graph: &'g Graph, uses: &'g Uses) -> Self {
        Self { graph, uses }
    }

    /// The tensor behind a value: an initializer, what a `Constant` holds, or either through `Identity`s.
    pub(crate) fn tensor(&self, value: &'g str) -> Option<&'g TensorProto> {
        let mut value = value;
        // A chain cannot be longer than the graph, unless it is a circle.
        for _ in 0..=self.graph.nodes.len() {
            if let Some(found) = self.graph.initializer(value) {
                return Some(found);
            }
            let node = self.graph.nodes.get(self.uses.producer(value)?)?;
            if node.is("Constant") {
                return node.attr_tensor("value");
            }
            if !node.is("Identity") {
                return None;
            }
            value = node.input_at(0)?;
        }
        None
    }

    /// The same when it is f32 and has as many elements as its dimensions say.
    pub(crate) fn float32(&self, value: &'g str) -> Option<&'g TensorProto> {
        self.tensor(value).filter(|tensor| tensor.element_type() == ElementType::Float && is_whole(tensor))
    }

    /// The whole numbers of a small constant.
    pub(crate) fn whole_numbers(&self, value: &'g str) -> Option<Vec<i64>> {
        self.tensor(value)?.integers().ok()
    }
}

/// Returns whether an f32 tensor holds what its dimensions promise: dimensions alone may promise anything.
fn is_whole(tensor: &TensorProto) -> bool {
    let held = tensor.raw_data.as_ref().map_or(tensor.float_data.len(), |raw| raw.len() / size_of::<f32>());
    tensor.shape().is_ok_and(|shape| shape.iter().product::<usize>() == held)
}
