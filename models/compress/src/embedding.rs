//! Tables that rows are looked up in, at 8 bits with one scale per column.
//!
//! `Gather` finds the row's codes, `Cast` and `Mul` make floats of it: every engine can, at any operator set. Columns,
//! because a few of them are much larger than the others in every row, and there are far fewer of them than rows.
//! Fed by `weight_only` and `dynamic_int8`.

use onnx_graph::proto::tensor_proto::DataType;
use onnx_graph::proto::{AttributeProto, NodeProto, TensorProto};
use onnx_graph::{Attributes, Graph, Names, Values};

use crate::CompressError;
use crate::constants::Constants;
use crate::nearest::nearest;

/// Tables smaller than this stay: three more nodes cost more than 200 kB of file are worth.
const ELEMENTS_MIN: usize = 65_536;

/// A look-up along the rows of a constant matrix.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Embedding {
    /// The table's name, as the node takes it.
    pub weight: String,
    /// Which rows.
    pub indices: String,
    /// The value that is made.
    pub output: String,
}

/// The names of a packed table's tensors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Packed {
    codes: String,
    scales: String,
}

impl Embedding {
    /// Returns what the node is; `None` when it is no such look-up, or of a table too small to matter.
    pub(crate) fn of(node: &NodeProto, constants: Constants<'_>) -> Option<Self> {
        if !node.is("Gather") || node.attr_int("axis").unwrap_or(0) != 0 {
            return None;
        }
        let weight = node.input_at(0)?;
        let shape = constants.float32(weight)?.shape().ok()?;
        let [output] = node.output.as_slice() else { return None };
        let large = shape.len() == 2 && shape.iter().product::<usize>() >= ELEMENTS_MIN;
        large.then(|| Self {
            weight: weight.to_owned(),
            indices: node.input_at(1).unwrap_or("").to_owned(),
            output: output.clone(),
        })
    }

    /// The nodes that take its place.
    pub(crate) fn nodes(&self, node: &NodeProto, packed: &Packed, names: &mut Names) -> Vec<NodeProto> {
        let mut fresh = |what: &str| names.fresh(&format!("{}_{what}", self.output));
        let (codes, floats) = (fresh("codes"), fresh("floats"));
        let (cast, scale) = (fresh("cast"), fresh("scale"));
        vec![
            NodeProto::new("Gather", node.name(), &[&packed.codes, &self.indices], &[&codes]),
            NodeProto::new("Cast", &cast, &[&codes], &[&floats])
                .with(AttributeProto::int("to", DataType::Float as i64)),
            NodeProto::new("Mul", &scale, &[&floats, &packed.scales], &[&self.output]),
        ]
    }
}

/// Appends a matrix as signed bytes with one scale for each of its columns, and returns the scales.
pub(crate) fn quantize_columns(matrix: &[f32], columns: usize, codes: &mut Vec<u8>) -> Vec<f32> {
    let columns = columns.max(1);
    let mut scales = vec![0.0_f32; columns];
    for row in matrix.chunks(columns) {
        scales.iter_mut().zip(row).for_each(|(most, value)| *most = most.max(value.abs()));
    }
    for scale in &mut scales {
        *scale = if (*scale / 127.0).is_normal() { *scale / 127.0 } else { 1.0 };
    }
    // A row at a time: flattened, they would come one byte at a time.
    for row in matrix.chunks(columns) {
        codes.extend(row.iter().zip(&scales).map(|(value, scale)| signed_byte(value / scale)));
    }
    scales
}

/// Quantizes a table into the graph; `None` when it is not finite.
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
    let width = shape.last().copied().unwrap_or(1).max(1);
    let mut codes = Vec::with_capacity(values.len());
    let scales = quantize_columns(&values, width, &mut codes);
    let packed = Packed { codes: names.fresh(&format!("{name}_q8")), scales: names.fresh(&format!("{name}_scales")) };
    let rows = values.len() / width;
    graph.add_initializer(TensorProto::of_raw(&packed.codes, DataType::Int8, &[rows, width], codes));
    graph.add_initializer(TensorProto::of_floats(&packed.scales, &[width], &scales));
    Ok(Some(packed))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounded, and within -128 to 127 by the clamp"
)]
fn signed_byte(value: f32) -> u8 {
    nearest(value.clamp(-128.0, 127.0)) as i8 as u8
}
