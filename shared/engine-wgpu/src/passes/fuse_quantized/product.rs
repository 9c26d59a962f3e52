//! Convolutions and matrix products of dequantized operands.

use super::{Dequantized, Input, Replacement, View, is_linear};
use crate::ir::{Attribute, Attributes, ElementType, Literal, Node, OWN_DOMAIN, ValueId};
use crate::passes::pattern::{Activation, pair};

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
    /// A product that requantises.
    pub(super) fn product(
        &self,
        at: usize,
        node: &Node,
        y: &Dequantized,
        between: Option<&Activation>,
    ) -> Option<Replacement> {
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
    pub(super) fn to_float(&self, at: usize) -> Option<Replacement> {
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
        let (a, b) = pair(node)?;
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
}

/// An 8-bit matrix with rows and columns exchanged.
fn transposed(literal: &Literal) -> Option<Literal> {
    let &[rows, columns] = literal.shape() else { return None };
    let bytes = literal.bytes();
    let turned: Vec<u8> = (0..columns).flat_map(|c| (0..rows).map(move |r| bytes[r * columns + c])).collect();
    Literal::new(literal.dtype(), vec![columns, rows], turned.into())
}
