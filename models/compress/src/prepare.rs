//! Brings a model into the form that quantization works on best, without changing what it computes.
//!
//! Exporters write a convolution's bias as an addition behind it, an activation as five operators, constants as nodes.
//! Rounded one by one each of them costs accuracy and time; put together they cost neither.

mod activations;
mod convolutions;

use onnx_graph::Model;
use onnx_graph::rewrite::{self, Cycle};

/// Tidies the model, folds constant sums and products into the convolutions before them, and puts activations together
/// that were written out (GELU, HardSwish).
///
/// # Errors
/// [`Cycle`] when the nodes have no order.
pub fn prepare(model: &Model) -> Result<Model, Cycle> {
    let (mut model, _tidied) = rewrite::tidy(model, &onnx_graph::fold::FoldLimits::default())?;
    while convolutions::fold_into_convolutions(&mut model.graph) > 0 {}
    activations::put_together(&mut model);
    rewrite::remove_dead(&mut model.graph);
    Ok(model)
}
