//! Products with a stack of constant matrices (a head each, an expert each), at 8 bits with a scale for each column of
//! each matrix.
//!
//! `Cast` and `Mul` make floats of the codes: every engine can, at any operator set, and ONNX Runtime does it once as it
//! loads. Fed by `weight_only` and `dynamic_int8`.

use onnx_graph::proto::tensor_proto::DataType;
use onnx_graph::proto::{AttributeProto, NodeProto, TensorProto};
use onnx_graph::{Graph, Names, Values};

use crate::CompressError;
use crate::constants::Constants;
use crate::embedding::quantize_columns;

/// Smallest stack that is packed; two more nodes cost more than a smaller one saves.
const ELEMENTS_MIN: usize = 4_096;

/// A product whose second input is a constant of three or more dimensions.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stack {
    /// The weight's name, as the node takes it.
    pub(crate) weight: String,
}

/// The names of a packed stack's tensors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Packed {
    codes: String,
    scales: String,
}

impl Stack {
    /// Reads a node; `None` when it is no such product, or too small to matter.
    pub(crate) fn of(node: &NodeProto, constants: Constants<'_>) -> Option<Self> {
        let weight = node.input_at(1).filter(|_| node.is("MatMul"))?;
        let shape = constants.float32(weight)?.shape().ok()?;
        let is_large = shape.len() >= 3 && shape.iter().product::<usize>() >= ELEMENTS_MIN;
        is_large.then(|| Self { weight: weight.to_owned() })
    }

    /// The nodes that take the place of `node`.
    pub(crate) fn nodes(node: &NodeProto, packed: &Packed, names: &mut Names) -> Vec<NodeProto> {
        let output = node.output.first().map_or("", String::as_str);
        let mut fresh = |what: &str| names.fresh(&format!("{output}_{what}"));
        let (floats, matrices) = (fresh("codes"), fresh("matrices"));
        let (cast, scale) = (fresh("cast"), fresh("scale"));
        let mut product = node.clone();
        if let Some(weight) = product.input.get_mut(1) {
            weight.clone_from(&matrices);
        }
        vec![
            NodeProto::new("Cast", &cast, &[&packed.codes], &[&floats])
                .with(AttributeProto::int("to", DataType::Float as i64)),
            NodeProto::new("Mul", &scale, &[&floats, &packed.scales], &[&matrices]),
            product,
        ]
    }
}

/// Quantizes a stack into the graph; `None` when it is not finite.
///
/// # Errors
/// When its bytes do not fit its dimensions.
pub(crate) fn pack(
    tensor: &TensorProto,
    name: &str,
    graph: &mut Graph,
    names: &mut Names,
) -> Result<Option<Packed>, CompressError> {
    let values = tensor.floats()?;
    if !values.iter().all(|value| value.is_finite()) {
        return Ok(None);
    }
    let shape = tensor.shape()?;
    let [.., rows, columns] = *shape.as_slice() else { return Ok(None) };
    let mut scales = Vec::new();
    let mut codes = Vec::with_capacity(values.len());
    for matrix in values.chunks((rows * columns).max(1)) {
        scales.extend(quantize_columns(matrix, columns, &mut codes));
    }
    let mut scales_shape = shape.clone();
    if let Some(rows) = shape.len().checked_sub(2).and_then(|at| scales_shape.get_mut(at)) {
        *rows = 1;
    }
    let packed = Packed { codes: names.fresh(&format!("{name}_q8")), scales: names.fresh(&format!("{name}_scales")) };
    graph.add_initializer(TensorProto::of_raw(&packed.codes, DataType::Int8, &shape, codes));
    graph.add_initializer(TensorProto::of_floats(&packed.scales, &scales_shape, &scales));
    Ok(Some(packed))
}
