//! Elementwise operators that follow one another become one generated kernel (see [`crate::ops::chain`]).
//!
//! Only where the value between them has one reader and the shape of the answer: nothing is computed twice, and nothing
//! large is written only to be read again.

use super::pattern::{Uses, activation, number, symbolic_infos};
use crate::ir::{Attribute, Attributes, ElementType, Graph, Node, OWN_DOMAIN, ValueId};
use crate::ops::chain::{INPUTS_MAX, Place, RANK_MAX, STEPS_MAX, Step, arity, expression, steps};
use crate::shape::broadcast;
use crate::value_info::ValueInfo;

/// A chain under construction.
#[derive(Debug, Clone)]
struct Chain {
    inputs: Vec<ValueId>,
    steps: Vec<Step>,
}

/// Joins every elementwise operator with those before it.
pub(super) fn fuse(graph: &mut Graph) -> bool {
    let uses = Uses::of(graph);
    let infos = symbolic_infos(graph);
    let mut changed = false;
    for at in 0..graph.nodes.len() {
        let Some(chain) = joined(graph, &uses, &infos, at) else { continue };
        let node = &mut graph.nodes[at];
        let texts = chain.steps.iter().map(Step::to_text).collect();
        node.domain = OWN_DOMAIN.to_owned();
        node.op = "Chain".to_owned();
        node.opset = 1;
        node.inputs = chain.inputs.into_iter().map(Some).collect();
        node.attributes = Attributes::default().with("steps", Attribute::Texts(texts));
        changed = true;
    }
    changed
}

fn shape(infos: &[Option<ValueInfo>], id: ValueId) -> Option<&[usize]> {
    infos.get(id.index())?.as_ref().filter(|info| info.dtype == ElementType::F32).map(|info| info.shape.as_slice())
}

/// The chain that ends in a node, if at least one operator joins it.
fn joined(graph: &Graph, uses: &Uses, infos: &[Option<ValueInfo>], at: usize) -> Option<Chain> {
    let node = &graph.nodes[at];
    let mut chain = single(graph, infos, node)?;
    let answer = shape(infos, node.output(0)?)?;
    if answer.len() > RANK_MAX {
        return None;
    }
    let mut longer = false;
    for id in chain.inputs.clone() {
        let before = uses.producer(graph, id).filter(|_found| uses.reads(id) == 1 && shape(infos, id) == Some(answer));
        let Some(before) = before.and_then(|(_at, before)| single(graph, infos, before)) else { continue };
        if let Some(whole) = chain.behind(&before, id) {
            chain = whole;
            longer = true;
        }
    }
    // Numbers without a binding must not have given the answer its dimensions.
    let reached = chain
        .inputs
        .iter()
        .try_fold(Vec::new(), |reached: Vec<usize>, &id| broadcast(&reached, shape(infos, id)?).ok());
    (longer && reached.as_deref() == Some(answer)).then_some(chain)
}

/// A node as a chain by itself.
fn single(graph: &Graph, infos: &[Option<ValueInfo>], node: &Node) -> Option<Chain> {
    let all_floats = node.inputs.iter().flatten().all(|&id| shape(infos, id).is_some());
    // What is known before the run is computed by the host, operator by operator.
    let answer = infos.get(node.output(0)?.index())?.as_ref()?;
    if !all_floats || answer.dtype != ElementType::F32 || answer.known.is_some() {
        return None;
    }
    if node.domain == OWN_DOMAIN && node.op == "Chain" {
        let inputs: Option<Vec<ValueId>> = node.inputs.iter().copied().collect();
        return Some(Chain { inputs: inputs?, steps: steps(node).ok()? });
    }
    if !node.domain.is_empty() || node.outputs.len() != 1 {
        return None;
    }
    let (op, numbers, operands) = match (node.op.as_str(), activation(graph, node)) {
        (_, Some(found)) => (found.name, found.numbers.map(f32::to_bits), 1),
        ("Pow", None) => {
            let exponent = number(graph, node.input(1)?)?;
            let op =
                [(2.0, "Square"), (3.0, "Cube"), (0.5, "Sqrt")].into_iter().find(|(power, _op)| *power == exponent);
            (op?.1, [0, 0], 1)
        }
        (op, None) => (op, [0, 0], arity(op)),
    };
    expression(op)?;
    if operands == 2 && node.inputs.len() != 2 {
        return None;
    }
    let mut inputs = Vec::new();
    let places: Option<Vec<Place>> = (0..operands)
        .map(|at| {
            let id = node.input(at)?;
            // A constant that is one number needs no binding, unless its dimensions make the answer's.
            let rank = shape(infos, id)?.len();
            if let Some(value) = number(graph, id).filter(|_value| rank <= 1) {
                return Some(Place::Number(value.to_bits()));
            }
            let known = inputs.iter().position(|&known| known == id);
            Some(Place::Input(known.unwrap_or_else(|| {
                inputs.push(id);
                inputs.len() - 1
            })))
        })
        .collect();
    let step = Step { op: op.to_owned(), operands: places?, numbers };
    // The answer of constants alone was folded; of one number and a scalar the rank may be the number's.
    (!inputs.is_empty()).then_some(Chain { inputs, steps: vec![step] })
}

impl Chain {
    /// This chain behind another that makes its input `id`; `None` where that would be too much for one kernel.
    fn behind(&self, before: &Self, id: ValueId) -> Option<Self> {
        let mut inputs = before.inputs.clone();
        let mut places = Vec::with_capacity(self.inputs.len());
        let result = Place::Step(before.steps.len() - 1);
        for &own in &self.inputs {
            if own == id {
                places.push(result);
                continue;
            }
            let known = inputs.iter().position(|&known| known == own);
            places.push(Place::Input(known.unwrap_or_else(|| {
                inputs.push(own);
                inputs.len() - 1
            })));
        }
        let moved = |place: &Place| match *place {
            Place::Input(at) => places.get(at).copied(),
            Place::Step(at) => Some(Place::Step(at + before.steps.len())),
            Place::Number(bits) => Some(Place::Number(bits)),
        };
        let mut steps = before.steps.clone();
        for step in &self.steps {
            let operands: Option<Vec<Place>> = step.operands.iter().map(moved).collect();
            steps.push(Step { operands: operands?, ..step.clone() });
        }
        (inputs.len() <= INPUTS_MAX && steps.len() <= STEPS_MAX).then_some(Self { inputs, steps })
    }
}
