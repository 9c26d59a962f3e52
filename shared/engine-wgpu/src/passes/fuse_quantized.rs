//! Quantised models in QDQ form: what stands between `DequantizeLinear` and `QuantizeLinear` is computed on the integers.
//!
//! `DQ → Conv/Gemm/MatMul → (activation) → Q` becomes one integer kernel that requantises as it stores; without the `Q` at
//! the end it scales to floats. Arithmetic between them becomes ONNX Runtime's `QLinear…` operators, and operators that
//! only move values change places with the `DQ` in front of them, until it meets its `Q` and both go.

use super::pattern::{Activation, Uses, activation, number, zero};
use crate::ir::{Attribute, Attributes, ElementType, Graph, Literal, Node, OWN_DOMAIN, Value, ValueId};
use crate::passes::bypass;

/// Domain of ONNX Runtime's own operators.
const MICROSOFT: &str = "com.microsoft";

/// Operators that move or choose values without computing: they may as well do it to integers.
const MOVES: [&str; 9] =
    ["Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "MaxPool", "Slice", "DepthToSpace", "SpaceToDepth"];

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
    uses: Uses,
}

impl<'g> View<'g> {
    fn of(graph: &'g Graph) -> Self {
        Self { graph, uses: Uses::of(graph) }
    }

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

    /// Whether two quantizations have the same scale and zero point.
    fn equal(&self, a: &Dequantized, b: &Dequantized) -> bool {
        let point = |of: &Dequantized| of.point.map_or(Some(0.0), |id| number(self.graph, id));
        a.dtype == b.dtype
            && self.per_tensor(a).is_some()
            && self.per_tensor(a).map(f32::to_bits) == self.per_tensor(b).map(f32::to_bits)
            && point(a).is_some()
            && point(a) == point(b)
    }
}

/// What to put in a node's place.
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
    fn apply(self, graph: &mut Graph) {
        let inputs = self.inputs.into_iter().map(|input| match input {
            Input::Is(id) | Input::Point(Some(id), _) => Some(id),
            Input::Point(None, dtype) => Some(zero(graph, dtype)),
            Input::New(literal) => Some(graph.add_constant("fused", literal)),
            Input::Absent => None,
        });
        let inputs = inputs.collect();
        let node = &mut graph.nodes[self.at];
        node.domain = self.domain.to_owned();
        node.op = self.op.to_owned();
        node.opset = 1;
        node.inputs = inputs;
        node.attributes = self.attributes;
    }
}

/// Moves every `DequantizeLinear` behind operators that only move values, and removes `DQ → Q` pairs that do nothing.
pub(super) fn sink(graph: &mut Graph) -> bool {
    let mut changed = quantize_constants(graph);
    while let Some((at, dq)) = sinkable(graph) {
        let node = &graph.nodes[at];
        let (old, mut linear) = (node.outputs.clone(), graph.nodes[dq].clone());
        let made = graph.add_value(Value { name: format!("{} quantized", node.name), declared: None });
        let node = &mut graph.nodes[at];
        node.inputs[0] = linear.inputs[0];
        node.outputs = vec![Some(made)];
        linear.inputs[0] = Some(made);
        linear.outputs = old;
        graph.nodes.insert(at + 1, linear);
        changed = true;
    }
    changed | remove_pairs(graph)
}

/// A moving operator behind a `DequantizeLinear` per tensor, and that one's position.
fn sinkable(graph: &Graph) -> Option<(usize, usize)> {
    let view = View::of(graph);
    graph.nodes.iter().enumerate().find_map(|(at, node)| {
        let moves = node.domain.is_empty() && MOVES.contains(&node.op.as_str());
        let wanted = node.outputs.iter().flatten().count();
        if !moves || wanted != 1 || node.output(0).is_none() {
            return None;
        }
        let from = view.dequantized(node.input(0)?)?;
        view.per_tensor(&from)?;
        // The padding of a pool is the lowest value of its type; one that sees nothing else would differ.
        let (dq, _node) = view.producer(node.input(0)?)?;
        Some((at, dq))
    })
}

/// `QuantizeLinear` of a constant is computed once.
fn quantize_constants(graph: &mut Graph) -> bool {
    let mut changed = false;
    for at in 0..graph.nodes.len() {
        let node = &graph.nodes[at];
        if !is_linear(node, "QuantizeLinear") {
            continue;
        }
        changed |= fold(graph, at);
    }
    changed
}

/// Replaces a node whose inputs are all constants by its first output.
fn fold(graph: &mut Graph, at: usize) -> bool {
    let node = &graph.nodes[at];
    let inputs: Option<Vec<Option<&Literal>>> =
        (node.inputs.iter()).map(|id| id.map_or(Some(None), |id| graph.constants.get(&id).map(Some))).collect();
    let (Some(inputs), Some(output)) = (inputs, node.output(0)) else { return false };
    let Ok(Some(values)) = crate::host::evaluate(node, &inputs) else { return false };
    let Some(literal) = values.into_iter().next() else { return false };
    graph.constants.insert(output, literal);
    graph.nodes[at].outputs.iter_mut().for_each(|id| *id = None);
    true
}

fn remove_pairs(graph: &mut Graph) -> bool {
    let mut changed = false;
    for at in 0..graph.nodes.len() {
        let node = &graph.nodes[at];
        if !is_linear(node, "QuantizeLinear") {
            continue;
        }
        let view = View::of(graph);
        let (Some(input), Some(output)) = (node.input(0), node.output(0)) else { continue };
        let (Some(q), Some(dq)) = (view.linear(node), view.dequantized(input)) else { continue };
        if view.equal(&q, &dq) && !graph.constants.contains_key(&dq.value) {
            changed |= bypass(graph, at, dq.value, output);
        }
    }
    changed
}

/// Computes between `DequantizeLinear` and `QuantizeLinear` on the integers.
pub(super) fn sandwich(graph: &mut Graph) -> bool {
    let mut changed = false;
    for at in 0..graph.nodes.len() {
        if !is_linear(&graph.nodes[at], "QuantizeLinear") {
            continue;
        }
        let view = View::of(graph);
        if let Some(replacement) = view.sandwich(at) {
            replacement.apply(graph);
            changed = true;
        }
    }
    changed
}

/// Products of dequantized operands whose result stays a float.
pub(super) fn floating(graph: &mut Graph) -> bool {
    let mut changed = false;
    for at in 0..graph.nodes.len() {
        let node = &graph.nodes[at];
        if !node.domain.is_empty() || !matches!(node.op.as_str(), "Conv" | "Gemm" | "MatMul") {
            continue;
        }
        let view = View::of(graph);
        if let Some(replacement) = view.to_float(at) {
            replacement.apply(graph);
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

/// Operands of a convolution or matrix product, made integer.
struct Product {
    x: Dequantized,
    x_scale: f32,
    w: Dequantized,
    /// The weights transposed, where they must be.
    weights: Option<Literal>,
    channels: usize,
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

    /// A product that requantises.
    fn product(&self, at: usize, node: &Node, y: &Dequantized, between: Option<&Activation>) -> Option<Replacement> {
        let (node, added) = self.with_bias(node)?;
        let product = self.operands(node)?;
        let bias = match added.or_else(|| node.input(2)) {
            None => Input::Absent,
            Some(id) => Input::New(self.integer_bias(id, &product)?),
        };
        let mut attributes = if node.op == "Conv" { node.attributes.clone() } else { Attributes::default() };
        if let Some(Activation { name, numbers }) = between {
            attributes.insert("activation", Attribute::Text((*name).to_owned()));
            attributes.insert("activation_alpha", Attribute::Float(numbers[0]));
            attributes.insert("activation_beta", Attribute::Float(numbers[1]));
        }
        let Product { x, w, weights, .. } = product;
        let inputs = vec![
            Input::Is(x.value),
            Input::Is(x.scale),
            Input::Point(x.point, x.dtype),
            weights.map_or(Input::Is(w.value), Input::New),
            Input::Is(w.scale),
            Input::Point(w.point, w.dtype),
            Input::Is(y.scale),
            Input::Point(y.point, y.dtype),
            bias,
        ];
        let op = if node.op == "Conv" { "QLinearConv" } else { "QLinearMatMul" };
        Some(Replacement { at, domain: OWN_DOMAIN, op, inputs, attributes })
    }

    /// A product whose sum is scaled to a float.
    fn to_float(&self, at: usize) -> Option<Replacement> {
        let node = &self.graph.nodes[at];
        let product = self.operands(node)?;
        let bias = match node.input(2) {
            None => Input::Absent,
            Some(id) => {
                let shape = self.float_bias(id)?;
                (shape == [product.channels]).then_some(Input::Is(id))?
            }
        };
        let attributes = if node.op == "Conv" { node.attributes.clone() } else { Attributes::default() };
        let Product { x, w, weights, .. } = product;
        let inputs = vec![
            Input::Is(x.value),
            weights.map_or(Input::Is(w.value), Input::New),
            Input::Is(x.scale),
            Input::Is(w.scale),
            Input::Point(x.point, x.dtype),
            Input::Point(w.point, w.dtype),
            bias,
        ];
        let op = if node.op == "Conv" { "ConvIntegerToFloat" } else { "MatMulIntegerToFloat" };
        Some(Replacement { at, domain: OWN_DOMAIN, op, inputs, attributes })
    }

    /// Shape of a bias that is a constant or the dequantization of one.
    fn float_bias(&self, id: ValueId) -> Option<Vec<usize>> {
        if let Some(literal) = self.graph.constants.get(&id) {
            return Some(literal.shape().to_vec());
        }
        let (_at, node) = self.producer(id).filter(|(_at, node)| is_linear(node, "DequantizeLinear"))?;
        self.graph.constants.get(&node.input(0)?).map(|literal| literal.shape().to_vec())
    }

    /// A product, or a product and the constant that is added to it.
    fn with_bias<'n>(&'n self, node: &'n Node) -> Option<(&'n Node, Option<ValueId>)> {
        if !node.is("Add") {
            return Some((node, None));
        }
        let (a, b) = super::pattern::pair(node)?;
        let (sum, bias) = if self.float_bias(b).is_some() { (a, b) } else { (b, a) };
        self.float_bias(bias)?;
        let (_at, product) = self.producer(sum).filter(|(_at, node)| node.is("MatMul"))?;
        self.uses.once(sum).then_some((product, Some(bias)))
    }

    /// The operands of `Conv`, `Gemm` or `MatMul`, if both are dequantized and the integer kernels can take them.
    fn operands(&self, node: &Node) -> Option<Product> {
        if !node.domain.is_empty() {
            return None;
        }
        let (x, w) = (self.dequantized(node.input(0)?)?, self.dequantized(node.input(1)?)?);
        let x_scale = self.per_tensor(&x)?;
        if self.graph.constants.contains_key(&x.value) {
            return None;
        }
        let scales = self.scales(&w).len();
        let constant = self.graph.constants.get(&w.value);
        let (channels, axis, weights) = match (node.op.as_str(), constant) {
            ("Conv", Some(literal)) => (*literal.shape().first()?, 0, None),
            ("MatMul", Some(literal)) => {
                let rank = literal.shape().len();
                (*literal.shape().last()?, rank.checked_sub(1).filter(|_axis| rank >= 2)?, None)
            }
            // Two activations: a product of attention.
            ("MatMul", None) => (0, 0, None),
            ("Gemm", Some(literal)) => {
                let attributes = &node.attributes;
                let one =
                    |name: &str| attributes.float(name, 1.0).is_ok_and(|value| (value - 1.0).abs() < f32::EPSILON);
                if !one("alpha") || !one("beta") || attributes.flag("transA", false).ok()? {
                    return None;
                }
                if attributes.flag("transB", false).ok()? {
                    (*literal.shape().first()?, 0, Some(transposed(literal)?))
                } else {
                    (*literal.shape().get(1)?, 1, None)
                }
            }
            _ => return None,
        };
        if scales != 1 {
            let rank = i64::try_from(constant?.shape().len()).ok()?;
            let given = if w.axis < 0 { w.axis + rank } else { w.axis };
            if scales != channels || usize::try_from(given) != Ok(axis) {
                return None;
            }
        }
        Some(Product { x, x_scale, w, weights, channels })
    }

    /// A bias in steps of the product's sums.
    #[expect(clippy::cast_possible_truncation, reason = "checked to be within 32 bits")]
    fn integer_bias(&self, id: ValueId, product: &Product) -> Option<Literal> {
        let scales = self.scales(&product.w);
        let step = |channel: usize| {
            let scale = if scales.len() == 1 { scales[0] } else { scales[channel] };
            f64::from(product.x_scale) * f64::from(scale)
        };
        let (values, own) = match self.graph.constants.get(&id) {
            Some(literal) => (literal.to_f64s(), None),
            None => {
                let (_at, node) = self.producer(id).filter(|(_at, node)| is_linear(node, "DequantizeLinear"))?;
                let point = node.input(2).map(|id| self.graph.constants.get(&id)).map_or(Some(true), |literal| {
                    literal.map(|literal| literal.to_i64s().iter().all(|&value| value == 0))
                })?;
                if !point || node.attributes.int("block_size", 0).ok()? != 0 {
                    return None;
                }
                let scales = self.graph.constants.get(&node.input(1)?)?.to_f64s();
                (self.graph.constants.get(&node.input(0)?)?.to_f64s(), Some(scales))
            }
        };
        if values.len() != product.channels {
            return None;
        }
        let steps = |channel: usize| -> Option<i64> {
            let value = match &own {
                None => values[channel] / step(channel),
                Some(own) => {
                    let scale = *own.get(if own.len() == 1 { 0 } else { channel })?;
                    let ratio = scale / step(channel);
                    // The usual case: the exporter chose the sums' own steps, and the integer is the bias.
                    if (ratio - 1.0).abs() < 1e-4 { values[channel] } else { values[channel] * ratio }
                }
            };
            // Half of the range leaves the sum itself the other half.
            (value.abs() < f64::from(1 << 30)).then(|| value.round_ties_even() as i64)
        };
        let steps: Option<Vec<i64>> = (0..product.channels).map(steps).collect();
        Some(Literal::from_i64s(ElementType::I32, vec![product.channels], &steps?))
    }

    /// Arithmetic that ONNX Runtime has an integer operator for; `bare` where an activation was dropped behind it.
    fn arithmetic(&self, at: usize, node: &Node, y: &Dequantized, bare: bool) -> Option<Replacement> {
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

/// An 8-bit matrix with rows and columns exchanged.
fn transposed(literal: &Literal) -> Option<Literal> {
    let &[rows, columns] = literal.shape() else { return None };
    let bytes = literal.bytes();
    let turned: Vec<u8> = (0..columns).flat_map(|c| (0..rows).map(move |r| bytes[r * columns + c])).collect();
    Literal::new(literal.dtype(), vec![columns, rows], turned.into())
}
