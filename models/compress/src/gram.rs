//! What the inputs of each weight look like on real examples: sums of products of every pair of them.
//!
//! Fed with batches of values by `calibrate`; feeds GPTQ, whose Hessian this is, and the reconstruction after channel
//! pruning, whose normal equations it makes. For `y = W·x` it is everything that a squared error of `y` depends on.

mod samples;

use std::collections::HashMap;

use engine::Engine;
use indexmap::IndexMap;
use onnx_graph::proto::NodeProto;
use onnx_graph::{Model, Uses, Values};
use types::NamedTensor;

use crate::constants::Constants;
use crate::dense::Square;
use crate::linear::Linear;
use crate::{CompressError, Examples, Selection, calibrate};
use samples::View;

/// Most inputs of one weight: 4,096 make a matrix of 128 MiB. Larger ones are left out, and the passes do without.
pub const SIDE_MAX: usize = 4_096;

/// The sums for one view of one value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Gram {
    /// `Σ x·xᵀ`, lower triangle.
    pub products: Square,
    /// `Σ x`.
    pub sums: Vec<f64>,
    /// Number of vectors `x`.
    pub count: usize,
}

/// The sums for every product and convolution with a constant weight.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Grams {
    views: IndexMap<(String, View), Gram>,
    /// By the first output of the node, which is the one name that nodes cannot share.
    nodes: HashMap<String, usize>,
}

impl Grams {
    /// Prepares sums for the `MatMul`, `Gemm` and `Conv` nodes that are selected.
    #[must_use]
    pub fn of(model: &Model, selection: &Selection) -> Self {
        let uses = Uses::of(&model.graph);
        let constants = Constants::of(&model.graph, &uses);
        let mut grams = Self::default();
        for node in model.graph.nodes.iter().filter(|node| selection.takes(node)) {
            let Some((value, view)) = looked_at(node, constants) else { continue };
            if view.side() == 0 || view.side() > SIDE_MAX {
                continue;
            }
            let entry = grams.views.entry((value, view));
            let at = entry.index();
            entry.or_insert_with(Gram::empty);
            if let Some(output) = node.output.first() {
                grams.nodes.insert(output.clone(), at);
            }
        }
        grams
    }

    /// Runs the model on the examples and gives the sums of what the selected nodes saw.
    ///
    /// # Errors
    /// When the engine does not run the model, or an example cannot be read.
    pub fn observe(
        engine: &dyn Engine,
        model: &Model,
        examples: &Examples,
        selection: &Selection,
    ) -> Result<Self, CompressError> {
        let mut grams = Self::of(model, selection);
        let values = grams.values();
        calibrate::each(engine, model, examples, &values, &mut |values| grams.add(values))?;
        Ok(grams)
    }

    /// The values that must be seen, each once.
    #[must_use]
    pub fn values(&self) -> Vec<String> {
        let mut names: Vec<String> = self.views.keys().map(|(value, _view)| value.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Adds what the values were in one run. Values that nobody asked for are passed over.
    ///
    /// # Errors
    /// [`CompressError::Examples`] when a value has not the shape that its consumer needs, or is not finite.
    pub fn add(&mut self, values: &[NamedTensor]) -> Result<(), CompressError> {
        for ((name, view), gram) in &mut self.views {
            let Some(found) = values.iter().find(|value| value.name == *name) else { continue };
            let reason = |reason: &str| CompressError::Examples { reason: format!("value {name:?} {reason}") };
            let floats = found.tensor.to_f32().map_err(|_error| reason("is not f32"))?;
            let columns =
                view.columns(found.tensor.shape(), &floats).ok_or_else(|| reason("has an unexpected shape"))?;
            if columns.iter().flatten().any(|value| !value.is_finite()) {
                return Err(reason("is not finite on these examples: look for what overflows in the model"));
            }
            gram.add(&columns);
        }
        Ok(())
    }

    /// The sums of the node's inputs; `None` when there are none.
    pub(crate) fn of_node(&self, node: &NodeProto) -> Option<&Gram> {
        let at = self.nodes.get(node.output.first()?)?;
        self.views.get_index(*at).map(|(_key, gram)| gram).filter(|gram| gram.count > 0)
    }
}

impl Gram {
    fn empty() -> Self {
        Self { products: Square::zeros(0), sums: Vec::new(), count: 0 }
    }

    /// `columns[i]` holds input `i` in each of some samples.
    fn add(&mut self, columns: &[Vec<f32>]) {
        // The matrix is made when it is first needed: a model may have more weights than memory has room.
        if self.count == 0 {
            *self = Self { products: Square::zeros(columns.len()), sums: vec![0.0; columns.len()], count: 0 };
        }
        self.products.add_products(columns);
        for (sum, column) in self.sums.iter_mut().zip(columns) {
            *sum += column.iter().map(|&value| f64::from(value)).sum::<f64>();
        }
        self.count += columns.first().map_or(0, Vec::len);
    }
}

/// The value whose products matter to a node, and how the node looks at it.
fn looked_at(node: &NodeProto, constants: Constants<'_>) -> Option<(String, View)> {
    if let Some(linear) = Linear::of(node, constants) {
        let linear = linear.ok()?;
        let shape = constants.tensor(&linear.weight)?.shape().ok()?;
        let inputs = if linear.transposed { shape.get(1) } else { shape.first() };
        return Some((linear.input.clone(), View::Rows(*inputs?)));
    }
    if !node.is("Conv") {
        return None;
    }
    let shape = constants.float32(node.input_at(1)?)?.shape().ok()?;
    Some((node.input_at(0)?.to_owned(), View::of_conv(node, &shape)?))
}
