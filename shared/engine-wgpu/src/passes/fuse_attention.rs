//! Attention that a model wrote out in small operators: what stands around its two products goes into them.
//!
//! Exporters surround the products of queries with keys, and of probabilities with values, by factors, a mask and moves of
//! heads. A product reads and stores with any strides, scales and adds as it stores: none of these needs a launch, nor
//! a copy in memory. The softmax between takes over the guard against rows that are masked as a whole.

use super::pattern::{Uses, is_one_of, number, pair, symbolic_infos};
use super::transpose::order;
use crate::ir::{Attribute, Graph, Node, OWN_DOMAIN, ValueId};
use crate::shape::broadcast;
use crate::value_info::ValueInfo;

/// Moves heads in front of places, or back.
const TURN: [usize; 4] = [0, 2, 1, 3];

/// The attribute of each operand of a product that says its heads stand behind its places.
const TURNED: [&str; 2] = ["turnA", "turnB"];

/// Input of what is added to a product.
const ADDEND: usize = 2;

/// Takes factors, masks and moves of heads into products of two activations, and guards into softmax.
pub(super) fn fuse(graph: &mut Graph) -> bool {
    let uses = Uses::of(graph);
    let infos = symbolic_infos(graph);
    let mut changed = false;
    for at in 0..graph.nodes.len() {
        let search = Search { graph, uses: &uses, infos: &infos };
        let node = &graph.nodes[at];
        let found = search.inputs(node).or_else(|| search.factor(node)).or_else(|| search.mask(node));
        let Some(mut found) = found.or_else(|| search.output(node)).or_else(|| search.guard(node)) else { continue };
        found.domain = OWN_DOMAIN.to_owned();
        found.outputs = vec![node.output(0)];
        graph.nodes[at] = found;
        changed = true;
    }
    changed
}

struct Search<'a> {
    graph: &'a Graph,
    uses: &'a Uses,
    infos: &'a [Option<ValueInfo>],
}

impl<'a> Search<'a> {
    fn shape(&self, id: ValueId) -> Option<&'a [usize]> {
        Some(&self.infos.get(id.index())?.as_ref()?.shape)
    }

    /// Returns whether it is a product of two stacks of float matrices that are no constants.
    fn multiplies(&self, node: &Node) -> bool {
        let stack = |at: usize| {
            let id = node.input(at).filter(|id| !self.graph.constants.contains_key(id));
            let info = id.and_then(|id| self.infos.get(id.index())?.as_ref());
            info.is_some_and(|info| info.dtype.is_float() && info.shape.len() > 2)
        };
        node.op == "MatMul" && (node.domain.is_empty() || node.domain == OWN_DOMAIN) && stack(0) && stack(1)
    }

    /// The product that makes a value nobody else reads, and that does nothing behind it yet.
    fn product(&self, id: ValueId) -> Option<&'a Node> {
        let (_at, node) = self.uses.producer(self.graph, id).filter(|_found| self.uses.once(id))?;
        let is_bare = node.inputs.len() <= ADDEND && node.attributes.find("activation").is_none();
        (is_bare && self.multiplies(node)).then_some(node)
    }

    /// Returns the value of which this node is a multiple of the same shape, and the factor.
    fn multiple(&self, node: &Node) -> Option<(ValueId, f32)> {
        let (a, b) = pair(node).filter(|_pair| is_one_of(node, &["Mul", "Div"]))?;
        let (of, by) = match (number(self.graph, a), number(self.graph, b)) {
            (None, Some(by)) if node.op == "Div" => (a, 1.0 / by),
            (None, Some(by)) => (a, by),
            (Some(by), None) if node.op == "Mul" => (b, by),
            _ => return None,
        };
        let same = self.shape(of)? == self.shape(node.output(0)?)?;
        (same && by.is_finite()).then_some((of, by))
    }

    fn scaled(product: &Node, by: f32) -> Option<Node> {
        let mut scaled = product.clone();
        let alpha = product.attributes.float("alpha", 1.0).ok()? * by;
        scaled.attributes.insert("alpha", Attribute::Float(alpha));
        alpha.is_finite().then_some(scaled)
    }

    /// Factors of operands, and moves of their heads.
    fn inputs(&self, node: &Node) -> Option<Node> {
        let mut fused = None;
        while let Some(more) = self.input(fused.as_ref().unwrap_or(node)) {
            fused = Some(more);
        }
        fused
    }

    fn input(&self, node: &Node) -> Option<Node> {
        let product = Some(node).filter(|node| self.multiplies(node))?;
        TURNED.iter().enumerate().find_map(|(at, turned)| {
            let (_at, before) = self.uses.producer(self.graph, product.input(at)?)?;
            let free = !product.attributes.flag(turned, false).ok()?;
            let (of, mut fused) = match self.multiple(before) {
                Some((of, by)) => (of, Self::scaled(product, by)?),
                None if free && order(before).is_some_and(|order| order == TURN) => {
                    let mut fused = product.clone();
                    fused.attributes.insert(turned, Attribute::Int(1));
                    (before.input(0)?, fused)
                }
                None => return None,
            };
            fused.inputs[at] = Some(of);
            Some(fused)
        })
    }

    /// A factor of a product.
    fn factor(&self, node: &Node) -> Option<Node> {
        let (product, by) = self.multiple(node)?;
        Self::scaled(self.product(product)?, by)
    }

    /// `Add` of a mask that repeats over some of the product's dimensions.
    fn mask(&self, node: &Node) -> Option<Node> {
        let (a, b) = pair(node).filter(|_pair| is_one_of(node, &["Add"]))?;
        [(a, b), (b, a)].into_iter().find_map(|(sum, mask)| {
            let (product, of) = (self.product(sum)?, self.shape(sum)?);
            let info = self.infos.get(mask.index())?.as_ref()?;
            let fits = info.dtype.is_float() && broadcast(&info.shape, of).is_ok_and(|whole| whole == of);
            if !fits || product.attributes.flag("turnY", false).ok()? {
                return None;
            }
            let mut masked = product.clone();
            masked.inputs.push(Some(mask));
            Some(masked)
        })
    }

    /// A move of heads behind a product.
    fn output(&self, node: &Node) -> Option<Node> {
        let product = self.product(node.input(0)?).filter(|_product| order(node).is_some_and(|order| order == TURN))?;
        let mut turned = Some(product.clone()).filter(|product| product.attributes.find("turnY").is_none())?;
        turned.attributes.insert("turnY", Attribute::Int(1));
        Some(turned)
    }

    /// `Where(IsNaN(p), 0, p)` behind a softmax.
    fn guard(&self, node: &Node) -> Option<Node> {
        let [Some(asked), Some(zero), Some(kept)] = *node.inputs.as_slice() else { return None };
        let (_at, asks) = self.uses.producer(self.graph, asked).filter(|_found| self.uses.once(asked))?;
        let (_at, softmax) = self.uses.producer(self.graph, kept)?;
        let is_guard = is_one_of(node, &["Where"])
            && is_one_of(asks, &["IsNaN"])
            && asks.input(0) == Some(kept)
            && number(self.graph, zero) == Some(0.0)
            && is_one_of(softmax, &["Softmax"])
            && self.uses.reads(kept) == 2
            && self.shape(kept)? == self.shape(node.output(0)?)?;
        is_guard.then(|| softmax.clone())
    }
}
