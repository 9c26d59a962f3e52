//! Products with a constant matrix, whether the exporter wrote them as `MatMul` or as `Gemm`.
//!
//! Fed by the passes that quantize such matrices; they replace the node by another product and an `Add`.

use onnx_graph::proto::{NodeProto, TensorProto};
use onnx_graph::{Attributes, Graph, Names, Uses, Values};

use crate::CompressError;
use crate::constants::Constants;

/// `y = x · Wᵀ (+ bias)` with a constant `W`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Linear {
    /// The value that is multiplied.
    pub input: String,
    /// The name of the weight, as the node takes it.
    pub weight: String,
    /// Whether the weight is stored as `[outputs, inputs]`.
    pub transposed: bool,
    /// What the product is multiplied by: a `Gemm`'s alpha.
    pub alpha: f32,
    /// What is added, and what it is multiplied by: a `Gemm`'s C and beta.
    pub bias: Option<(String, f32)>,
    /// The value that is made.
    pub output: String,
}

/// A matrix with one row per output.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Matrix {
    /// Outputs: N.
    pub rows: usize,
    /// Inputs: K.
    pub columns: usize,
    /// In row order.
    pub values: Vec<f32>,
}

impl Linear {
    /// Returns what the node is: `None` when it is no product at all, the reason when it is one that a pass must leave alone.
    pub(crate) fn of(node: &NodeProto, constants: Constants<'_>) -> Option<Result<Self, &'static str>> {
        match (node.op_type(), node.domain()) {
            ("MatMul", "" | "ai.onnx") => Some(Self::of_matmul(node, constants)),
            ("Gemm", "" | "ai.onnx") => Some(Self::of_gemm(node, constants)),
            _ => None,
        }
    }

    fn of_matmul(node: &NodeProto, constants: Constants<'_>) -> Result<Self, &'static str> {
        let (input, weight, output) = ends(node)?;
        matrix_shape(weight, constants)?;
        Ok(Self { input, weight: weight.to_owned(), transposed: false, alpha: 1.0, bias: None, output })
    }

    fn of_gemm(node: &NodeProto, constants: Constants<'_>) -> Result<Self, &'static str> {
        let (input, weight, output) = ends(node)?;
        matrix_shape(weight, constants)?;
        if node.attr_int("transA").unwrap_or(0) != 0 {
            return Err("its input is transposed");
        }
        let beta = node.attr_float("beta").unwrap_or(1.0);
        let bias = node.input_at(2).map(|bias| (bias.to_owned(), beta));
        if bias.as_ref().is_some_and(|(name, beta)| *beta != 1.0 && constants.float32(name).is_none()) {
            return Err("its beta scales a bias that is no constant");
        }
        let transposed = node.attr_int("transB").unwrap_or(0) != 0;
        let alpha = node.attr_float("alpha").unwrap_or(1.0);
        Ok(Self { input, weight: weight.to_owned(), transposed, alpha, bias, output })
    }

    /// The weight with one row per output, alpha multiplied in.
    ///
    /// # Errors
    /// When the weight's bytes do not fit its dimensions.
    pub(crate) fn matrix(&self, tensor: &TensorProto) -> Result<Matrix, CompressError> {
        let values = tensor.floats()?;
        let (first, second) = match *tensor.shape()?.as_slice() {
            [first, second] => (first, second),
            // `of` saw two dimensions.
            _ => (0, 0),
        };
        let mut matrix = if self.transposed {
            Matrix { rows: first, columns: second, values }
        } else {
            Matrix { rows: second, columns: first, values: transpose(&values, first, second) }
        };
        if self.alpha.to_bits() != 1.0_f32.to_bits() {
            matrix.values.iter_mut().for_each(|value| *value *= self.alpha);
        }
        Ok(matrix)
    }

    /// Returns what tells matrices apart: weights that several nodes share are quantized once.
    pub(crate) fn key(&self) -> (String, bool, u32) {
        (self.weight.clone(), self.transposed, self.alpha.to_bits())
    }

    /// Returns where the bare product goes, and the `Add` behind it when there is a bias.
    ///
    /// # Errors
    /// When a bias that must be scaled cannot be read.
    pub(crate) fn with_bias(
        &self,
        graph: &mut Graph,
        scaled: Option<&TensorProto>,
        names: &mut Names,
    ) -> Result<(String, Option<NodeProto>), CompressError> {
        let Some((bias, beta)) = &self.bias else { return Ok((self.output.clone(), None)) };
        let bias = match scaled.filter(|_bias| beta.to_bits() != 1.0_f32.to_bits()) {
            None => bias.clone(),
            Some(tensor) => {
                let values: Vec<f32> = tensor.floats()?.iter().map(|value| value * beta).collect();
                let name = names.fresh(&format!("{bias}_scaled"));
                graph.add_initializer(TensorProto::of_floats(&name, &tensor.shape()?, &values));
                name
            }
        };
        let product = names.fresh(&format!("{}_product", self.output));
        let name = names.fresh(&format!("{}_bias", self.output));
        let add = NodeProto::new("Add", &name, &[&product, &bias], &[&self.output]);
        Ok((product, Some(add)))
    }
}

/// Input, weight and output of a product.
fn ends(node: &NodeProto) -> Result<(String, &str, String), &'static str> {
    match (node.input_at(0), node.input_at(1), node.output.as_slice()) {
        (Some(input), Some(weight), [output]) if !output.is_empty() => Ok((input.to_owned(), weight, output.clone())),
        _ => Err("it has not two inputs and one output"),
    }
}

fn matrix_shape(weight: &str, constants: Constants<'_>) -> Result<(), &'static str> {
    let tensor = constants.tensor(weight).ok_or("its second input is no constant")?;
    if tensor.element_type() != onnx_graph::ElementType::Float {
        return Err("its weight is not f32");
    }
    match tensor.shape() {
        Ok(shape) if shape.len() == 2 && !shape.contains(&0) => Ok(()),
        _ => Err("its weight is no matrix"),
    }
}

/// Returns the reason why a weight would stay in the model although these nodes no longer take it; `None` when it would go.
pub(crate) fn kept_by_others(
    weight: &str,
    graph: &Graph,
    uses: &Uses,
    is_taken: impl Fn(usize) -> bool,
) -> Option<&'static str> {
    if graph.is_output(weight) {
        return Some("its weight is an output of the model, so it would be stored twice");
    }
    let others = uses.consumers(weight).iter().any(|&place| !is_taken(place));
    others.then_some("another node takes its weight as it is, so it would be stored twice")
}

/// Tiles of this side keep both matrices in the cache.
const TRANSPOSE_TILE: usize = 32;

/// `[rows, columns]` as `[columns, rows]`.
pub(crate) fn transpose<T: Copy + Default>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    let mut turned = vec![T::default(); values.len()];
    for top in (0..rows).step_by(TRANSPOSE_TILE) {
        for left in (0..columns).step_by(TRANSPOSE_TILE) {
            for row in top..(top + TRANSPOSE_TILE).min(rows) {
                for column in left..(left + TRANSPOSE_TILE).min(columns) {
                    turned[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    turned
}
