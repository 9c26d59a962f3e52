//! A quantized model as the f32 model that it stands for.
//!
//! Constants that are dequantized in the graph become f32 weights, pairs of `QuantizeLinear` and `DequantizeLinear`
//! vanish, integer products with dynamic scales become ordinary ones. Fed by operators who have no f32 file left, and by
//! tests that need one to compare with.

mod constant;
mod product;

use std::collections::HashMap;

use onnx_graph::proto::{NodeProto, TensorProto};
use onnx_graph::rewrite::remove_dead;
use onnx_graph::{Graph, Model, Names, Uses, Values};

use crate::constants::Constants;

use crate::{CompressError, Report};

/// Makes an f32 model of a quantized one.
///
/// What a saturating `QuantizeLinear` did in place of a `Relu` (its smallest code is zero) becomes a `Relu`.
///
/// # Errors
/// When a weight's bytes are broken, or nothing in the model is quantized.
pub fn dequantize(model: &Model) -> Result<(Model, Report), CompressError> {
    let mut report = Report::of("dequantize");
    let mut made = model.clone();
    let uses = Uses::of(&model.graph);
    let mut pass = Pass {
        graph: &model.graph,
        uses: &uses,
        constants: Constants::of(&model.graph, &uses),
        names: Names::of(&model.graph),
        folded: HashMap::new(),
        renamed: HashMap::new(),
        gone: vec![false; model.graph.nodes.len()],
    };
    let mut nodes = Vec::with_capacity(model.graph.nodes.len());
    for node in &model.graph.nodes {
        let replaced = pass.replaced(node, &mut report)?;
        if replaced.is_some() {
            report.changed.push(node.name().to_owned());
        }
        nodes.push(replaced.unwrap_or_else(|| vec![node.clone()]));
    }
    if report.changed.is_empty() {
        let reason = "nothing in it is quantized in a way that this pass knows".to_owned();
        return Err(CompressError::Nothing { pass: "dequantize", reason });
    }
    let gone = std::mem::take(&mut pass.gone);
    let mut nodes: Vec<NodeProto> =
        nodes.into_iter().zip(gone).filter(|(_nodes, gone)| !gone).flat_map(|(nodes, _gone)| nodes).collect();
    nodes.iter_mut().flat_map(|node| &mut node.input).for_each(|input| pass.rename(input));
    made.graph.nodes = nodes;
    for (name, mut tensor) in pass.folded {
        tensor.name = Some(name);
        made.graph.add_initializer(tensor);
    }
    remove_dead(&mut made.graph);
    made.graph.initializers.sort_unstable_keys();
    Ok((made, report))
}

struct Pass<'g> {
    graph: &'g Graph,
    uses: &'g Uses,
    constants: Constants<'g>,
    names: Names,
    /// f32 tensors by the values that they are.
    folded: HashMap<String, TensorProto>,
    /// Values that are now the same as another.
    renamed: HashMap<String, String>,
    /// Nodes that a node before them took the place of.
    gone: Vec<bool>,
}

impl<'g> Pass<'g> {
    /// The nodes in place of this one; `None` when it stays.
    fn replaced(&mut self, node: &'g NodeProto, report: &mut Report) -> Result<Option<Vec<NodeProto>>, CompressError> {
        if let Some(tensor) = constant::folded(node, self)? {
            let Some(output) = node.output.first() else { return Ok(None) };
            if self.graph.is_output(output) {
                return Ok(None);
            }
            self.folded.insert(output.clone(), tensor);
            return Ok(Some(Vec::new()));
        }
        match (node.op_type(), node.domain()) {
            ("DequantizeLinear", _) => self.pair(node),
            ("MatMulInteger" | "ConvInteger", "" | "ai.onnx") => {
                let made = product::float(node, self)?;
                Ok(self.or_skip(
                    made,
                    node,
                    "what scales its result is not in the form of dynamic quantization",
                    report,
                ))
            }
            ("MatMulNBits", "com.microsoft") => {
                let made = product::of_nbits(node, self)?;
                Ok(self.or_skip(made, node, "its weight is no constant in whole blocks", report))
            }
            (operator, _) if operator.starts_with("QLinear") => {
                report.skip(node, "integer operators with static scales are not taken apart");
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn or_skip(
        &self,
        made: Option<Vec<NodeProto>>,
        node: &NodeProto,
        reason: &str,
        report: &mut Report,
    ) -> Option<Vec<NodeProto>> {
        if made.is_none() {
            report.skip(node, reason);
        }
        made
    }

    /// A `DequantizeLinear` behind a `QuantizeLinear`, or behind a `Gather` from a quantized table.
    fn pair(&mut self, node: &'g NodeProto) -> Result<Option<Vec<NodeProto>>, CompressError> {
        let (Some(input), [output]) = (node.input_at(0), node.output.as_slice()) else { return Ok(None) };
        let Some(before) = self.uses.producer(input).and_then(|place| self.graph.nodes.get(place)) else {
            return Ok(None);
        };
        let Some(source) = before.input_at(0) else { return Ok(None) };
        if before.is("Gather") {
            return self.table(node, before, source, output);
        }
        if before.op_type() != "QuantizeLinear" {
            return Ok(None);
        }
        if self.graph.is_output(output) || self.cuts_below_zero(before, source) {
            let operator = if self.cuts_below_zero(before, source) { "Relu" } else { "Identity" };
            return Ok(Some(vec![NodeProto::new(operator, node.name(), &[source], &[output])]));
        }
        self.renamed.insert(output.clone(), source.to_owned());
        Ok(Some(Vec::new()))
    }

    /// Returns whether quantizing takes away what is negative and nothing before it did.
    fn cuts_below_zero(&self, quantize: &'g NodeProto, source: &str) -> bool {
        let after = |operator| self.uses.producer(source).is_some_and(|at| self.graph.nodes[at].is(operator));
        let Some(point) = quantize.input_at(2).and_then(|name| self.constants.tensor(name)) else {
            // Without a point the type is u8 and zero its smallest code.
            return quantize.input_at(2).is_none() && !after("Relu");
        };
        let smallest = match point.element_type() {
            onnx_graph::ElementType::Uint8 | onnx_graph::ElementType::Uint16 => 0,
            onnx_graph::ElementType::Int8 => i64::from(i8::MIN),
            onnx_graph::ElementType::Int16 => i64::from(i16::MIN),
            _ => return false,
        };
        let lowest = point.integers().is_ok_and(|points| points.iter().all(|&point| point == smallest));
        lowest && !["Relu", "Sigmoid", "Softmax", "HardSigmoid"].into_iter().any(after)
    }

    /// `Gather` then `DequantizeLinear` with one scale: the table is dequantized instead.
    fn table(
        &mut self,
        node: &'g NodeProto,
        gather: &NodeProto,
        table: &'g str,
        output: &str,
    ) -> Result<Option<Vec<NodeProto>>, CompressError> {
        let Some(codes) = self.constants.tensor(table) else { return Ok(None) };
        let Some(tensor) = constant::dequantized(node, codes, self)? else { return Ok(None) };
        let one_scale = node.input_at(1).and_then(|name| self.constants.tensor(name));
        if one_scale.and_then(|scale| scale.floats().ok()).is_none_or(|scale| scale.len() != 1) {
            return Ok(None);
        }
        let name = format!("{table}_dequantized");
        self.folded.insert(name.clone(), tensor);
        let mut found = gather.clone();
        if let Some(first) = found.input.first_mut() {
            first.clone_from(&name);
        }
        found.output = vec![output.to_owned()];
        found.name = Some(self.names.fresh(&format!("{}_floats", gather.name())));
        Ok(Some(vec![found]))
    }

    /// Follows the values that vanished.
    fn rename(&self, name: &mut String) {
        // A value is renamed to an earlier one, so the chain is no longer than the map, unless the graph is a circle.
        for _ in 0..=self.renamed.len() {
            match self.renamed.get(name.as_str()) {
                Some(other) => name.clone_from(other),
                None => return,
            }
        }
    }
}
