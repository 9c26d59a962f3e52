//! Bias, residual and activation after a convolution or matrix product go into the kernel that computes it.
//!
//! The product moves to this engine's own domain, whose operators take them (see [`crate::ops::epilogue`]).

use super::pattern::{Activation, Uses, activation, is_one_of, pair, symbolic_infos};
use crate::ir::{Attribute, Graph, Literal, Node, OWN_DOMAIN, ValueId};
use crate::value_info::ValueInfo;

/// Products that take an epilogue, by domain.
const PRODUCTS: [&str; 3] = ["Conv", "Gemm", "MatMul"];

/// Products of integers that do.
const INTEGER_PRODUCTS: [&str; 2] = ["ConvIntegerToFloat", "MatMulIntegerToFloat"];

/// Returns whether a node is a product with room for an epilogue.
fn is_product(node: &Node) -> bool {
    let own = node.domain == OWN_DOMAIN;
    ((node.domain.is_empty() || own) && PRODUCTS.contains(&node.op.as_str()))
        || (own && INTEGER_PRODUCTS.contains(&node.op.as_str()))
}

/// Input of the bias and of the residual.
fn places(node: &Node) -> (usize, usize) {
    if INTEGER_PRODUCTS.contains(&node.op.as_str()) { (6, 7) } else { (2, 3) }
}

fn set(node: &mut Node, at: usize, id: ValueId) {
    if node.inputs.len() <= at {
        node.inputs.resize(at + 1, None);
    }
    node.inputs[at] = Some(id);
}

/// Takes every bias, residual and activation that follows a product and nothing else reads.
pub(super) fn fuse(graph: &mut Graph) -> bool {
    let uses = Uses::of(graph);
    let infos = symbolic_infos(graph);
    let mut changed = false;
    for at in 0..graph.nodes.len() {
        let fusion = Fusion { graph, uses: &uses, infos: &infos };
        let node = &graph.nodes[at];
        let fused = fusion.bias(node).or_else(|| fusion.residual(node)).or_else(|| fusion.activation(node));
        let Some((mut fused, literal)) = fused.or_else(|| fusion.gated(node)) else { continue };
        if let Some(literal) = literal {
            let id = graph.add_constant("fused bias", literal);
            let (bias, _residual) = places(&fused);
            set(&mut fused, bias, id);
        }
        fused.domain = OWN_DOMAIN.to_owned();
        fused.outputs = vec![graph.nodes[at].output(0)];
        graph.nodes[at] = fused;
        changed = true;
    }
    changed
}

/// Context of the fusion of one node.
struct Fusion<'a> {
    graph: &'a Graph,
    uses: &'a Uses,
    infos: &'a [Option<ValueInfo>],
}

/// The product with what it took, and a bias to give it, if that has to be made.
type Fused = (Node, Option<Literal>);

impl<'a> Fusion<'a> {
    fn shape(&self, id: ValueId) -> Option<&'a [usize]> {
        Some(&self.infos.get(id.index())?.as_ref()?.shape)
    }

    /// The product that makes a value nobody else reads.
    fn product(&self, id: ValueId, reads: usize) -> Option<&'a Node> {
        let (_at, node) = self.uses.producer(self.graph, id)?;
        (is_product(node) && self.uses.reads(id) == reads).then_some(node)
    }

    fn is_plain(node: &Node) -> bool {
        node.attributes.find("activation").is_none()
    }

    /// `Add` of a constant, one a channel.
    fn bias(&self, node: &Node) -> Option<Fused> {
        if !is_one_of(node, &["Add"]) {
            return None;
        }
        let (a, b) = pair(node)?;
        let (sum, bias) = if self.graph.constants.contains_key(&b) { (a, b) } else { (b, a) };
        let literal = self.graph.constants.get(&bias)?;
        let product = self.product(sum, 1)?;
        let (place, residual) = places(product);
        if product.input(place).is_some() || product.input(residual).is_some() || !Self::is_plain(product) {
            return None;
        }
        let y = self.shape(sum)?;
        if !matches!(product.op.as_str(), "Conv" | "ConvIntegerToFloat") && self.shape(product.input(0)?)?.len() < 2 {
            return None;
        }
        let (channels, behind) = match product.op.as_str() {
            "Conv" | "ConvIntegerToFloat" => (*y.get(1)?, y.len() - 2),
            _ => (*y.last()?, 0),
        };
        // Everything but the channels' own dimension is 1, and no dimension is new.
        let own = literal.shape().len().checked_sub(behind + 1)?;
        let fits = literal.shape().len() <= y.len()
            && literal.elements() == channels
            && literal.shape().get(own) == Some(&channels);
        if !fits || (product.op == "Gemm" && product.attributes.find("beta").is_some()) {
            return None;
        }
        Some((product.clone(), Some(literal.reshaped(vec![channels])?)))
    }

    /// `Add`, or `Sum` of two, of something as large as the product.
    fn residual(&self, node: &Node) -> Option<Fused> {
        if !is_one_of(node, &["Add", "Sum"]) {
            return None;
        }
        let (a, b) = pair(node)?;
        let of = |sum: ValueId, other: ValueId| {
            let product = self.product(sum, 1)?;
            let (_bias, place) = places(product);
            let equal = sum != other && self.shape(sum)? == self.shape(other)?;
            let float = self.infos.get(other.index())?.as_ref()?.dtype.is_float();
            let free = product.input(place).is_none() && !self.graph.constants.contains_key(&other);
            if !equal || !float || !free {
                return None;
            }
            let mut fused = product.clone();
            set(&mut fused, place, other);
            fused.attributes.insert("residual_last", Attribute::Int(i64::from(!Self::is_plain(product))));
            Some((fused, None))
        };
        // The product that comes later: the other one is computed by then.
        let position = |id| self.uses.producer(self.graph, id).map(|(at, _node)| at);
        if position(a) > position(b) { of(a, b).or_else(|| of(b, a)) } else { of(b, a).or_else(|| of(a, b)) }
    }

    /// An activation of the product.
    fn activation(&self, node: &Node) -> Option<Fused> {
        let found = activation(self.graph, node)?;
        self.with(self.product(node.input(0)?, 1)?, &found)
    }

    fn with(&self, product: &Node, Activation { name, numbers }: &Activation) -> Option<Fused> {
        let last = product.attributes.flag("residual_last", false).ok()?;
        if !Self::is_plain(product) || last {
            return None;
        }
        let mut fused = product.clone();
        fused.attributes.insert("activation", Attribute::Text((*name).to_owned()));
        fused.attributes.insert("activation_alpha", Attribute::Float(numbers[0]));
        fused.attributes.insert("activation_beta", Attribute::Float(numbers[1]));
        Some((fused, None))
    }

    /// `x * sigmoid(x)` and `x * hard_sigmoid(x)`, where `x` is the product.
    fn gated(&self, node: &Node) -> Option<Fused> {
        if !is_one_of(node, &["Mul"]) {
            return None;
        }
        let (a, b) = pair(node)?;
        let of = |x: ValueId, gate: ValueId| {
            let (_at, gate) = self.uses.producer(self.graph, gate).filter(|_found| self.uses.once(gate))?;
            let found = activation(self.graph, gate)?;
            let near = |value: f32, wanted: f32| (value - wanted).abs() < 1e-4;
            let name = match found.name {
                "Sigmoid" => "Silu",
                "HardSigmoid" if near(found.numbers[0], 1.0 / 6.0) && near(found.numbers[1], 0.5) => "HardSwish",
                _ => return None,
            };
            let product = (gate.input(0) == Some(x)).then(|| self.product(x, 2)).flatten()?;
            self.with(product, &Activation { name, numbers: [0.0, 0.0] })
        };
        of(a, b).or_else(|| of(b, a))
    }
}

/// `MatMulInteger → Cast → Mul` (and its convolution) becomes a product that scales as it stores.
pub(super) fn scale_integers(graph: &mut Graph) -> bool {
    let uses = Uses::of(graph);
    let infos = symbolic_infos(graph);
    let mut changed = false;
    for at in 0..graph.nodes.len() {
        let fusion = Fusion { graph, uses: &uses, infos: &infos };
        let Some(mut fused) = fusion.scaled(&graph.nodes[at]) else { continue };
        fused.outputs = vec![graph.nodes[at].output(0)];
        graph.nodes[at] = fused;
        changed = true;
    }
    changed
}

impl Fusion<'_> {
    fn scaled(&self, node: &Node) -> Option<Node> {
        if !is_one_of(node, &["Mul"]) {
            return None;
        }
        let (a, b) = pair(node)?;
        let cast = |id: ValueId| {
            let (_at, node) = self.uses.producer(self.graph, id)?;
            let single = is_one_of(node, &["Cast"]) && node.attributes.int("to", 0) == Ok(ONNX_FLOAT);
            (single && self.uses.once(id)).then(|| node.input(0)).flatten()
        };
        let (sum, scale) = match (cast(a), cast(b)) {
            (Some(sum), _) => (sum, b),
            (None, Some(sum)) => (sum, a),
            (None, None) => return None,
        };
        let (_at, product) = self.uses.producer(self.graph, sum).filter(|_found| self.uses.once(sum))?;
        let op = match product.op.as_str() {
            "MatMulInteger" if product.domain.is_empty() => "MatMulIntegerToFloat",
            "ConvInteger" if product.domain.is_empty() => "ConvIntegerToFloat",
            _ => return None,
        };
        let y = self.shape(sum)?;
        let channels = if op == "ConvIntegerToFloat" { *y.get(1)? } else { *y.last()? };
        let one = |id: ValueId| self.shape(id).is_some_and(|shape| shape.iter().product::<usize>() == 1);
        // One scale a column; a convolution's would have to be one a row, which exporters do not write.
        let columns = |id: ValueId| op == "MatMulIntegerToFloat" && self.shape(id) == Some(&[channels]);
        let fits = |id: ValueId| (one(id) && self.shape(id).is_some_and(|s| s.len() <= y.len())) || columns(id);
        let factors = self.uses.producer(self.graph, scale).filter(|(_at, node)| is_one_of(node, &["Mul"]));
        let (first, second) = match factors.and_then(|(_at, node)| pair(node)) {
            Some((p, q)) if one(p) && fits(q) && fits(p) => (p, Some(q)),
            Some((p, q)) if one(q) && fits(p) && fits(q) => (q, Some(p)),
            _ => (scale, None),
        };
        if !fits(first) {
            return None;
        }
        let mut fused = product.clone();
        fused.domain = OWN_DOMAIN.to_owned();
        fused.op = op.to_owned();
        let input = |at| product.input(at);
        fused.inputs = vec![input(0), input(1), Some(first), second, input(2), input(3)];
        Some(fused)
    }
}

/// `FLOAT` in ONNX's list of element types.
const ONNX_FLOAT: i64 = 1;
