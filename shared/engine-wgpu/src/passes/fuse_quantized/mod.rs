//! Quantised models in QDQ form: what stands between `DequantizeLinear` and `QuantizeLinear` is computed on the integers.
//!
//! `DQ → Conv/Gemm/MatMul → (activation) → Q` becomes one integer kernel that requantises as it stores; without the `Q` at
//! the end it scales to floats. Arithmetic between them becomes ONNX Runtime's `QLinear…` operators, and operators that
//! only move values change places with the `DQ` in front of them, until it meets its `Q` and both go.

mod arithmetic;
mod product;
mod sink;

pub(super) use sink::sink;

use super::pattern::{Uses, activation, number, zero};
use crate::ir::{Attributes, ElementType, Graph, Literal, Node, ValueId};

/// Domain of ONNX Runtime's own operators.
const MICROSOFT: &str = "com.microsoft";

/// A value that a `DequantizeLinear` makes.
#[derive(Debug, Clone, Copy)]
struct Dequantized {
    /// The integers.
    value: ValueId,
    /// Their type.
    dtype: ElementType,
    /// Scales: a constant.
    scale: ValueId,
    /// Zero points: a constant, where given.
    point: Option<ValueId>,
    /// Axis of per-axis scales.
    axis: i64,
}

fn is_linear(node: &Node, op: &str) -> bool {
    (node.domain.is_empty() || node.domain == MICROSOFT) && node.op == op
}

/// The graph under rewriting, with what was looked up about it.
struct View<'g> {
    graph: &'g Graph,
    uses: &'g Uses,
}

impl<'g> View<'g> {
    fn producer(&self, id: ValueId) -> Option<(usize, &'g Node)> {
        self.uses.producer(self.graph, id)
    }

    /// The 8-bit integers behind a value.
    fn dequantized(&self, id: ValueId) -> Option<Dequantized> {
        let (_at, node) = self.producer(id).filter(|(_at, node)| is_linear(node, "DequantizeLinear"))?;
        let quantized = self.linear(node)?;
        let value = node.input(0)?;
        let dtype = match self.graph.constants.get(&value) {
            Some(literal) => literal.dtype(),
            None if quantized.point.is_some() => quantized.dtype,
            // Without a zero point only the other half of the pair tells.
            None => {
                let (_at, from) = self.producer(value).filter(|(_at, node)| is_linear(node, "QuantizeLinear"))?;
                self.linear(from)?.dtype
            }
        };
        let bytes = matches!(dtype, ElementType::I8 | ElementType::U8);
        bytes.then_some(Dequantized { value, dtype, ..quantized })
    }

    /// Scale and zero point of a `QuantizeLinear` or `DequantizeLinear`, both constants.
    fn linear(&self, node: &Node) -> Option<Dequantized> {
        let (value, scale, point) = (node.input(0)?, node.input(1)?, node.input(2));
        self.graph.constants.get(&scale)?;
        let dtype = match point {
            Some(point) => self.graph.constants.get(&point)?.dtype(),
            None if node.attributes.find("output_dtype").is_some() => return None,
            None => ElementType::U8,
        };
        if node.attributes.int("block_size", 0).ok()? != 0 {
            return None;
        }
        Some(Dequantized { value, dtype, scale, point, axis: node.attributes.int("axis", 1).ok()? })
    }

    fn scales(&self, of: &Dequantized) -> Vec<f32> {
        self.graph.constants.get(&of.scale).map(Literal::to_f32s).unwrap_or_default()
    }

    fn per_tensor(&self, of: &Dequantized) -> Option<f32> {
        number(self.graph, of.scale)
    }

    /// Returns whether two quantizations have the same scale and zero point.
    fn equal(&self, a: &Dequantized, b: &Dequantized) -> bool {
        let point = |of: &Dequantized| of.point.map_or(Some(0.0), |id| number(self.graph, id));
        a.dtype == b.dtype
            && self.per_tensor(a).is_some()
            && self.per_tensor(a).map(f32::to_bits) == self.per_tensor(b).map(f32::to_bits)
            && point(a).is_some()
            && point(a) == point(b)
    }
}

/// Nodes to put in a node's place.
struct Replacement {
    at: usize,
    domain: &'static str,
    op: &'static str,
    inputs: Vec<Input>,
    attributes: Attributes,
}

/// An input of a replacement.
enum Input {
    /// A value that is there.
    Is(ValueId),
    /// A zero of this type, or this value if it is given.
    Point(Option<ValueId>, ElementType),
    /// A new constant.
    New(Literal),
    /// Left out.
    Absent,
}

impl Replacement {
    fn apply(self, graph: &mut Graph, uses: &mut Uses) {
        let inputs = self.inputs.into_iter().map(|input| match input {
            Input::Is(id) | Input::Point(Some(id), _) => Some(id),
            Input::Point(None, dtype) => Some(zero(graph, dtype)),
            Input::New(literal) => Some(graph.add_constant("fused", literal)),
            Input::Absent => None,
        });
        let inputs = inputs.collect();
        let node = &mut graph.nodes[self.at];
        let before = node.clone();
        node.domain = self.domain.to_owned();
        node.op = self.op.to_owned();
        node.opset = 1;
        node.inputs = inputs;
        node.attributes = self.attributes;
        uses.replaced(self.at, &before, node);
    }
}

/// Computes between `DequantizeLinear` and `QuantizeLinear` on the integers.
pub(super) fn sandwich(graph: &mut Graph) -> bool {
    replace(graph, |node| is_linear(node, "QuantizeLinear"), |view, at| view.sandwich(at))
}

/// Products of dequantized operands whose result stays a float.
pub(super) fn floating(graph: &mut Graph) -> bool {
    let is_product = |node: &Node| node.domain.is_empty() && matches!(node.op.as_str(), "Conv" | "Gemm" | "MatMul");
    replace(graph, is_product, |view, at| view.to_float(at))
}

/// Puts what `find` gives for a node in its place, for each node that `wanted` names.
fn replace(
    graph: &mut Graph,
    wanted: impl Fn(&Node) -> bool,
    find: impl Fn(&View<'_>, usize) -> Option<Replacement>,
) -> bool {
    let mut uses = Uses::of(graph);
    let mut changed = false;
    for at in 0..graph.nodes.len() {
        if !wanted(&graph.nodes[at]) {
            continue;
        }
        if let Some(replacement) = find(&View { graph, uses: &uses }, at) {
            replacement.apply(graph, &mut uses);
            changed = true;
        }
    }
    changed
}

/// Turns weights that no fusion took into floats, once.
pub(super) fn leftovers(graph: &mut Graph) -> bool {
    let mut changed = false;
    for at in 0..graph.nodes.len() {
        if is_linear(&graph.nodes[at], "DequantizeLinear") && graph.nodes[at].output(0).is_some() {
            changed |= fold(graph, at);
        }
    }
    changed
}

/// Replaces a node whose inputs are all constants by its first output.
fn fold(graph: &mut Graph, at: usize) -> bool {
    let node = &graph.nodes[at];
    let inputs: Option<Vec<Option<&Literal>>> =
        (node.inputs.iter()).map(|id| id.map_or(Some(None), |id| graph.constants.get(&id).map(Some))).collect();
    let (Some(inputs), Some(output)) = (inputs, node.output(0)) else { return false };
    let Ok(Some(values)) = crate::inference::evaluate(node, &inputs) else { return false };
    let Some(literal) = values.into_iter().next() else { return false };
    graph.constants.insert(output, literal);
    graph.nodes[at].outputs.iter_mut().for_each(|id| *id = None);
    true
}

impl View<'_> {
    fn sandwich(&self, at: usize) -> Option<Replacement> {
        let q = &self.graph.nodes[at];
        let y = self.linear(q)?;
        let bytes = matches!(y.dtype, ElementType::I8 | ElementType::U8);
        let value = q.input(0)?;
        if !bytes || !self.uses.once(value) {
            return None;
        }
        self.per_tensor(&y)?;
        let (_at, node) = self.producer(value)?;
        if let Some(found) = self.arithmetic(at, node, &y, false) {
            return Some(found);
        }
        let Some(between) = activation(self.graph, node) else { return self.product(at, node, &y, None) };
        let input = node.input(0).filter(|&id| self.uses.once(id))?;
        let (_at, inner) = self.producer(input)?;
        // Clamping to the smallest integer is what a rectifier does, if that is zero.
        let lowest = y.point.map_or(0.0, |id| number(self.graph, id).unwrap_or(f32::NAN))
            <= if y.dtype == ElementType::U8 { 0.0 } else { -128.0 };
        if between.name == "Relu" && lowest {
            return self.arithmetic(at, inner, &y, true).or_else(|| self.product(at, inner, &y, None));
        }
        self.product(at, inner, &y, Some(&between))
    }
}
