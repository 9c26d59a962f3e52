//! How many multiplications with addition a node takes, estimated from shapes.
//!
//! | operator | formula |
//! |---|---|
//! | `Conv`, `ConvInteger`, `QLinearConv`, `FusedConv` | elements of the output × elements of the weight for one output channel |
//! | `ConvTranspose` | elements of the input × elements of the weight for one input channel |
//! | `MatMul`, `Gemm` and their quantized and fused forms | elements of the output × length of the rows of the first factor |
//! | `LSTM`, `GRU`, `RNN` | steps × batch × elements of both weights for all directions |
//! | `Attention`, `MultiHeadAttention`, `Einsum` | not estimated: counted as unknown |
//!
//! Everything else counts as none: it takes memory bandwidth, hardly arithmetic.

use crate::attribute::Attributes;
use crate::infer::Types;
use crate::proto::{GraphProto, NodeProto};
use crate::uses::subgraphs;

/// The estimate; `None` when the node multiplies and its shapes are not known.
pub(super) fn of(node: &NodeProto, types: &Types) -> Option<u64> {
    let counted = Counted { node, types };
    match node.op_type() {
        "Conv" | "ConvInteger" | "FusedConv" => counted.by_output(1),
        "QLinearConv" => counted.by_output(3),
        "ConvTranspose" => {
            let weight = counted.input(1)?;
            Some(elements(&counted.input(0)?).saturating_mul(elements(weight.get(1..)?)))
        }
        "MatMul"
        | "MatMulInteger"
        | "QLinearMatMul"
        | "MatMulNBits"
        | "DynamicQuantizeMatMul"
        | "MatMulIntegerToFloat"
        | "FusedMatMul" => {
            // A transposed first factor has its rows along the axis before the last.
            let is_turned = node.attr_int("transA").unwrap_or(0) != 0;
            counted.by_rows(if is_turned { 2 } else { 1 })
        }
        "Gemm" => counted.by_rows(if node.attr_int("transA").unwrap_or(0) != 0 { 2 } else { 1 }),
        "LSTM" | "GRU" | "RNN" => {
            let [steps, batch, _] = counted.input(0)?.try_into().ok()?;
            let weights = elements(&counted.input(1)?).saturating_add(elements(&counted.input(2)?));
            Some(elements(&[steps, batch]).saturating_mul(weights))
        }
        "Attention" | "MultiHeadAttention" | "GroupQueryAttention" | "QAttention" | "Einsum" => None,
        _ => Some(0),
    }
}

/// Nodes of a subgraph that multiply; no shapes are known there.
pub(super) fn in_subgraph(graph: &GraphProto) -> u64 {
    let types = Types::default();
    let own = graph.node.iter().filter(|node| of(node, &types).is_none()).count();
    let inner: u64 = graph.node.iter().flat_map(subgraphs).map(in_subgraph).sum();
    inner + u64::try_from(own).unwrap_or(0)
}

struct Counted<'node> {
    node: &'node NodeProto,
    types: &'node Types,
}

impl Counted<'_> {
    fn input(&self, place: usize) -> Option<Vec<usize>> {
        self.types.of(self.node.input_at(place)?)?.sizes()
    }

    fn output(&self) -> Option<u64> {
        Some(elements(&self.types.of(self.node.output.first()?)?.sizes()?))
    }

    fn by_output(&self, weight: usize) -> Option<u64> {
        Some(self.output()?.saturating_mul(elements(self.input(weight)?.get(1..)?)))
    }

    fn by_rows(&self, from_end: usize) -> Option<u64> {
        let shape = self.input(0)?;
        let length = *shape.get(shape.len().checked_sub(from_end)?)?;
        Some(self.output()?.saturating_mul(elements(&[length])))
    }
}

fn elements(shape: &[usize]) -> u64 {
    shape.iter().fold(1, |product, &dim| product.saturating_mul(u64::try_from(dim).unwrap_or(u64::MAX)))
}
