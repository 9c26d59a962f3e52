//! Brings a model into the form that quantization works on best, without changing what it computes.
//!
//! Exporters write a convolution's bias as an addition behind it, an activation as five operators, constants as nodes.
//! Rounded one by one each of them costs accuracy and time; put together they cost neither.

mod activations;
mod convolutions;
mod resize;

use std::collections::HashMap;

use bytes::Bytes;
use onnx_graph::infer::infer;
use onnx_graph::opset::{OpsetError, upgrade};
use onnx_graph::proto::{NodeProto, TensorProto, TypeProto, ValueInfoProto, type_proto};
use onnx_graph::rewrite::{self, Cycle};
use onnx_graph::{Attributes, ElementType, Model};

/// Oldest operator set that scales by channel can be written in.
const OPSET_NEEDED: i64 = 13;

/// The operator set that older models are brought to: the first with HardSwish.
const OPSET_WANTED: i64 = 14;

/// Reason why a model was not prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Its nodes have no order.
    #[error("put the nodes of the model in order")]
    Cycle(#[from] Cycle),
    /// It is too old, and some of its nodes cannot be converted.
    #[error("bring the model to operator set {OPSET_NEEDED}")]
    Opset(#[source] OpsetError),
}

/// Tidies the model, brings half and double precision to single precision, brings it to operator set 14 if it is older,
/// folds constant sums and products into the convolutions before them, puts activations together that were written out
/// (GELU, HardSwish), and notes the types of its values. Inputs, outputs, shapes and answers stay what they were.
///
/// # Errors
/// [`PrepareError`] when the nodes have no order, or cannot be converted.
pub fn prepare(original: &Model) -> Result<Model, PrepareError> {
    let limits = onnx_graph::fold::FoldLimits::default();
    let (mut model, _tidied) = rewrite::tidy(original, &limits)?;
    if rewrite::to_single(&mut model).is_some() {
        remove_idle_casts(&mut model);
        model = rewrite::tidy(&model, &limits)?.0;
    }
    if model.opset("").is_none() {
        // A model of classical operators alone imports no ai.onnx; what passes add needs it.
        model.import("", OPSET_WANTED);
    }
    let mut model = match upgrade(&model, OPSET_WANTED) {
        Ok(newer) => newer,
        Err(_stuck) if model.opset("").is_some_and(|opset| opset >= OPSET_NEEDED) => model,
        Err(stuck) => return Err(PrepareError::Opset(stuck)),
    };
    resize::spread_axes(&mut model);
    while convolutions::fold_into_convolutions(&mut model.graph) > 0 {}
    activations::put_together(&mut model);
    rewrite::remove_dead(&mut model.graph);
    note_types(&mut model);
    detach(&mut model, original);
    Ok(model)
}

/// Turns casts of f32 to f32 into what passes through: they were there to widen.
fn remove_idle_casts(model: &mut Model) {
    let types = infer(model, &HashMap::new());
    for node in model.graph.nodes.iter_mut().filter(|node| node.is("Cast")) {
        let is_single = |name: &str| types.element(name) == ElementType::Float;
        if node.attr_int("to") == Some(1) && node.input_at(0).is_some_and(is_single) {
            *node = NodeProto::new(
                "Identity",
                node.name(),
                &[node.input_at(0).unwrap_or("")],
                &[node.output.first().map_or("", String::as_str)],
            );
        }
    }
}

/// Copies the weights that are still slices of the original file when they are few: each of them keeps all of it in
/// memory.
fn detach(model: &mut Model, original: &Model) {
    let is_slice = |tensor: &TensorProto| {
        let before = original.graph.initializer(tensor.name()).and_then(|before| before.raw_data.as_ref());
        matches!((&tensor.raw_data, before), (Some(now), Some(before)) if now.as_ptr() == before.as_ptr())
    };
    let length = |tensor: &TensorProto| tensor.raw_data.as_ref().map_or(0, Bytes::len);
    let all: usize = model.graph.initializers.values().map(length).sum();
    let slices: usize = model.graph.initializers.values().filter(|tensor| is_slice(tensor)).map(length).sum();
    if slices.saturating_mul(4) < all {
        for tensor in model.graph.initializers.values_mut().filter(|tensor| is_slice(tensor)) {
            tensor.raw_data = tensor.raw_data.as_deref().map(Bytes::copy_from_slice);
        }
    }
}

/// Writes down the element types that can be inferred, for passes that must tell floats from other numbers.
fn note_types(model: &mut Model) {
    let types = infer(model, &HashMap::new());
    let made = model.graph.nodes.iter().flat_map(|node| &node.output).filter(|name| !name.is_empty());
    let mut notes = Vec::new();
    for name in made {
        let element = types.element(name);
        if element != ElementType::Undefined && !model.graph.value_info.contains_key(name) {
            let tensor = type_proto::Tensor { elem_type: Some(element.into()), shape: None };
            let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
            notes.push(ValueInfoProto { name: Some(name.clone()), r#type: Some(kind), ..ValueInfoProto::default() });
        }
    }
    model.graph.value_info.extend(notes.into_iter().map(|note| (note.name().to_owned(), note)));
}
