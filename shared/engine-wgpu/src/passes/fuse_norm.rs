//! Layer normalisation and GELU that an exporter wrote out in small operators become those operators again.

use super::pattern::{Uses, is_one_of, number, other_than, pair, symbolic_infos};
use crate::ir::{Attribute, Attributes, Graph, Node, ValueId};
use crate::value_info::ValueInfo;

/// Opset that has `LayerNormalization` and `Gelu`.
const OPSET: i64 = 20;

/// Recognises both.
pub(super) fn recognise(graph: &mut Graph) -> bool {
    let uses = Uses::of(graph);
    let infos = symbolic_infos(graph);
    let mut changed = false;
    // Sums first: what ends in one is a normalisation with bias, whose product before it is not yet one without.
    let ends = |graph: &Graph, op: &str| -> Vec<usize> {
        (0..graph.nodes.len()).filter(|&at| is_one_of(&graph.nodes[at], &[op])).collect()
    };
    for at in ends(graph, "Add").into_iter().chain(ends(graph, "Mul")) {
        let search = Search { graph, uses: &uses, infos: &infos };
        let node = &graph.nodes[at];
        let found = search.layer_norm(node).or_else(|| search.gelu(node));
        let Some(mut found) = found.filter(|found| crate::ops::rule(found).is_some()) else { continue };
        found.name.clone_from(&node.name);
        found.outputs = vec![node.output(0)];
        graph.nodes[at] = found;
        changed = true;
    }
    changed
}

fn node(op: &str, inputs: Vec<Option<ValueId>>, attributes: Attributes) -> Node {
    Node {
        name: String::new(),
        domain: String::new(),
        op: op.to_owned(),
        opset: OPSET,
        inputs,
        outputs: Vec::new(),
        attributes,
    }
}

struct Search<'a> {
    graph: &'a Graph,
    uses: &'a Uses,
    infos: &'a [Option<ValueInfo>],
}

impl<'a> Search<'a> {
    /// The node of one of these operators that makes a value.
    fn from(&self, id: ValueId, ops: &[&str]) -> Option<&'a Node> {
        self.uses.producer(self.graph, id).map(|(_at, node)| node).filter(|node| is_one_of(node, ops))
    }

    /// The same, where nothing else reads the value.
    fn only(&self, id: ValueId, ops: &[&str]) -> Option<&'a Node> {
        self.from(id, ops).filter(|_node| self.uses.once(id))
    }

    fn shape(&self, id: ValueId) -> Option<&'a [usize]> {
        Some(&self.infos.get(id.index())?.as_ref()?.shape)
    }

    /// The two inputs, the constant last.
    fn with_constant(&self, node: &Node) -> Option<(ValueId, ValueId)> {
        let (a, b) = pair(node)?;
        match (self.graph.constants.contains_key(&a), self.graph.constants.contains_key(&b)) {
            (false, true) => Some((a, b)),
            (true, false) => Some((b, a)),
            (true, true) | (false, false) => None,
        }
    }

    /// `(x - mean) / sqrt(variance + epsilon) * scale (+ bias)` over the last dimension.
    fn layer_norm(&self, last: &Node) -> Option<Node> {
        let (scaled, bias) = if is_one_of(last, &["Add"]) {
            let (scaled, bias) = self.with_constant(last)?;
            (self.only(scaled, &["Mul"])?, Some(bias))
        } else if is_one_of(last, &["Mul"]) {
            (last, None)
        } else {
            return None;
        };
        let (normal, scale) = self.with_constant(scaled)?;
        let divided = self.only(normal, &["Div", "Mul"])?;
        let (a, b) = pair(divided)?;
        let (centred, deviation) = if divided.op == "Div" {
            (a, self.only(b, &["Sqrt"])?)
        } else {
            let (centred, inverse) = match self.only(b, &["Reciprocal"]) {
                Some(inverse) => (a, inverse),
                None => (b, self.only(a, &["Reciprocal"])?),
            };
            (centred, self.only(inverse.input(0)?, &["Sqrt"])?)
        };
        let (variance, epsilon) = self.with_constant(self.only(deviation.input(0)?, &["Add"])?)?;
        let epsilon = number(self.graph, epsilon)?;
        let mean_of_squares = self.only(variance, &["ReduceMean"])?;
        let squares = self.only(mean_of_squares.input(0)?, &["Pow", "Mul"])?;
        let (base, exponent) = pair(squares)?;
        let squared = if squares.op == "Pow" { number(self.graph, exponent)? == 2.0 } else { base == exponent };
        // Some exporters centre twice.
        let x = self.centred(centred)?;
        if !squared || self.centred(base)? != x {
            return None;
        }
        let rank = self.shape(x)?.len();
        let width = *self.shape(x)?.last()?;
        let fits = |id: ValueId| self.shape(id) == Some(&[width]);
        if !fits(scale) || bias.is_some_and(|bias| !fits(bias)) || !self.over_last(mean_of_squares, rank)? {
            return None;
        }
        let attributes =
            Attributes::default().with("axis", Attribute::Int(-1)).with("epsilon", Attribute::Float(epsilon));
        Some(node("LayerNormalization", vec![Some(x), Some(scale), bias], attributes))
    }

    /// Returns `x` of a value that is `x - mean(x)` over the last dimension.
    fn centred(&self, id: ValueId) -> Option<ValueId> {
        let (x, mean) = pair(self.from(id, &["Sub"])?)?;
        let mean = self.from(mean, &["ReduceMean"])?;
        let rank = self.shape(x)?.len();
        (mean.input(0) == Some(x) && self.over_last(mean, rank)?).then_some(x)
    }

    /// Returns whether a reduction keeps every dimension and runs over the last alone.
    fn over_last(&self, node: &Node, rank: usize) -> Option<bool> {
        let axes = match node.input(1) {
            Some(id) => self.graph.constants.get(&id)?.to_i64s(),
            None => node.attributes.ints("axes").ok()??.to_vec(),
        };
        let last = i64::try_from(rank).ok()? - 1;
        Some(node.attributes.flag("keepdims", true).ok()? && (axes == [-1] || axes == [last]))
    }

    /// `x * (1 + erf(x / √2)) / 2`, or the same with `tanh`, in whatever order it is multiplied.
    fn gelu(&self, last: &Node) -> Option<Node> {
        if !is_one_of(last, &["Mul"]) {
            return None;
        }
        let mut factors = Vec::new();
        self.factors(last, &mut factors, 0);
        let constant: f32 = factors.iter().filter_map(|&id| number(self.graph, id)).product();
        factors.retain(|id| number(self.graph, *id).is_none());
        let &[a, b] = factors.as_slice() else { return None };
        if (constant - 0.5).abs() > 1e-4 {
            return None;
        }
        let of = |x: ValueId, gate: ValueId| {
            let one_more = other_than(self.graph, self.only(gate, &["Add"])?, 1.0)?;
            let inner = self.only(one_more, &["Erf", "Tanh"])?;
            let argument = inner.input(0)?;
            let (fits, kind) = if inner.op == "Erf" {
                (self.is_scaled(argument, x, std::f32::consts::FRAC_1_SQRT_2), "none")
            } else {
                (self.is_cubic(argument, x), "tanh")
            };
            fits.then(|| Attributes::default().with("approximate", Attribute::Text(kind.to_owned())))
                .map(|attributes| node("Gelu", vec![Some(x)], attributes))
        };
        of(a, b).or_else(|| of(b, a))
    }

    /// The factors of a product of products.
    fn factors(&self, node: &Node, into: &mut Vec<ValueId>, depth: usize) {
        let Some((a, b)) = pair(node) else { return };
        for id in [a, b] {
            match self.only(id, &["Mul"]) {
                Some(inner) if depth < 2 => self.factors(inner, into, depth + 1),
                _ => into.push(id),
            }
        }
    }

    /// Returns whether a value is `x * by`.
    fn is_scaled(&self, id: ValueId, x: ValueId, by: f32) -> bool {
        let Some(node) = self.only(id, &["Mul", "Div"]) else { return false };
        if node.op == "Mul" {
            return other_than(self.graph, node, by) == Some(x);
        }
        let Some((over, under)) = pair(node) else { return false };
        over == x && number(self.graph, under).is_some_and(|value| (value * by - 1.0).abs() < 1e-3)
    }

    /// Returns whether a value is `√(2/π) (x + 0.044715 x³)`.
    fn is_cubic(&self, id: ValueId, x: ValueId) -> bool {
        let check = || {
            let sum = other_than(self.graph, self.only(id, &["Mul"])?, 0.797_884_6)?;
            let (a, b) = pair(self.only(sum, &["Add"])?)?;
            let cubic = if a == x { b } else { a };
            if a != x && b != x {
                return None;
            }
            let mut factors = Vec::new();
            self.factors(self.only(cubic, &["Mul"])?, &mut factors, 0);
            let mut power = 0.0;
            let mut constant = 1.0;
            for id in factors {
                if id == x {
                    power += 1.0;
                } else if let Some(value) = number(self.graph, id) {
                    constant *= value;
                } else {
                    let (base, exponent) = pair(self.only(id, &["Pow"])?)?;
                    power += (base == x).then(|| number(self.graph, exponent)).flatten()?;
                }
            }
            Some(power == 3.0 && (constant - 0.044_715_f32).abs() < 1e-5)
        };
        check().unwrap_or(false)
    }
}
