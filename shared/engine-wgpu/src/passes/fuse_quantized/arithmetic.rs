//! Arithmetic on dequantized operands.

use super::{Dequantized, Input, MICROSOFT, Replacement, View};
use crate::ir::Node;

impl View<'_> {
    /// Arithmetic that ONNX Runtime has an integer operator for; `bare` where an activation was dropped behind it.
    pub(super) fn arithmetic(&self, at: usize, node: &Node, y: &Dequantized, bare: bool) -> Option<Replacement> {
        if !node.domain.is_empty() || node.outputs.len() != 1 {
            return None;
        }
        let operands: Option<Vec<Dequantized>> =
            node.inputs.iter().map(|id| id.and_then(|id| self.dequantized(id))).collect();
        let op = match (node.op.as_str(), bare) {
            ("Add", _) => "QLinearAdd",
            ("Mul", false) => "QLinearMul",
            ("Concat", false) => "QLinearConcat",
            ("Sigmoid", false) => "QLinearSigmoid",
            ("LeakyRelu", false) => "QLinearLeakyRelu",
            ("AveragePool", false) => "QLinearAveragePool",
            ("GlobalAveragePool", false) => "QLinearGlobalAveragePool",
            _ => return None,
        };
        let operands = operands?;
        let fits = operands.iter().all(|x| x.dtype == y.dtype && self.per_tensor(x).is_some());
        let known = operands.iter().all(|x| self.graph.constants.contains_key(&x.value));
        if !fits || known {
            return None;
        }
        let triple = |x: &Dequantized| [Input::Is(x.value), Input::Is(x.scale), Input::Point(x.point, x.dtype)];
        let last = [Input::Is(y.scale), Input::Point(y.point, y.dtype)];
        let inputs = if op == "QLinearConcat" {
            last.into_iter().chain(operands.iter().flat_map(triple)).collect()
        } else {
            operands.iter().flat_map(triple).chain(last).collect()
        };
        Some(Replacement { at, domain: MICROSOFT, op, inputs, attributes: node.attributes.clone() })
    }
}
