//! `Loop` and `Scan` whose number of iterations only the run tells: the host runs the body's stages once for each iteration.
//!
//! Loops with a small constant count never come here; [`crate::passes`] unrolls them.

use std::collections::HashMap;

use super::stage::{Carried, Cycle, ITERATIONS_MAX, Scanned, Stacked};
use crate::ir::{Attribute, Attributes, ElementType, Graph, Literal, Node, Value, ValueId};
use crate::passes::branches::{adopt, fixed_count, hand_on, subgraph};

/// First operator set of `Scan` without a batch of its own.
const SCAN_OPSET_MIN: i64 = 9;

/// Returns whether this is a node that [`read`] reads.
pub(super) fn is_cycle(node: &Node) -> bool {
    node.is("Loop") || node.is("Scan")
}

/// The loops of a graph that make more iterations than a run may, by constants alone.
pub(crate) fn endless(graph: &Graph) -> impl Iterator<Item = &Node> {
    graph.nodes.iter().filter(|node| {
        let count =
            subgraph(node, "body").filter(|_body| node.is("Loop")).and_then(|body| fixed_count(graph, node, body));
        count.is_some_and(|count| count > ITERATIONS_MAX)
    })
}

/// Numbers of an attribute, one for each of `count` tensors; 0 where it is left out.
fn numbers(node: &Node, name: &str, count: usize) -> Option<Vec<i64>> {
    match node.attributes.ints(name).ok()? {
        None => Some(vec![0; count]),
        Some(given) => (given.len() == count).then(|| given.to_vec()),
    }
}

/// Puts the body's values into `whole`; gives the loop without stages, and the nodes of one iteration.
///
/// `None` where node and body do not fit together.
pub(super) fn read(whole: &mut Graph, node: &Node) -> Option<(Cycle, Vec<Node>)> {
    let body = subgraph(node, "body")?;
    let formal = body.inputs.len().checked_sub(body.captured)?;
    let own = node.inputs.len().checked_sub(body.captured)?;
    if own != formal {
        return None;
    }
    let captures: Vec<ValueId> = node.inputs[own..].iter().copied().collect::<Option<_>>()?;
    let is_loop = node.is("Loop");
    let (before, scans) = match is_loop {
        true => (2, 0),
        false if node.opset < SCAN_OPSET_MIN => return None,
        false => (0, usize::try_from(node.attributes.int("num_scan_inputs", 0).ok()?).ok()?),
    };
    let states = formal.checked_sub(before + scans)?;
    // A loop's body hands out its condition first.
    let results = body.outputs.len().checked_sub(states + usize::from(is_loop))?;
    if node.outputs.len() > states + results {
        return None;
    }
    let inside: Vec<ValueId> = (body.inputs[..formal].iter())
        .map(|&id| {
            let value = body.value(id);
            whole.add_value(Value { name: format!("{}/{}", node.name, value.name), declared: value.declared.clone() })
        })
        .collect();
    let outer: Vec<ValueId> = inside.iter().copied().chain(captures).collect();
    let (mut nodes, made) = adopt(whole, body, &outer, &node.name, &mut HashMap::new());
    let mut outputs = Vec::with_capacity(made.len());
    for (&from, &id) in made.iter().zip(&body.outputs) {
        let declared = body.value(id).declared.clone();
        let to = whole.add_value(Value { name: format!("{}/{}", node.name, body.value(id).name), declared });
        nodes.push(hand_on(node, from, to));
        outputs.push(to);
    }
    let (condition_next, outputs) = match is_loop {
        true => (outputs.first().copied(), &outputs[1..]),
        false => (None, &outputs[..]),
    };
    let carried = (0..states).map(|at| {
        let (initial, inside) = (node.input(before + at)?, inside[before + at]);
        Some(Carried { initial, inside, next: outputs[at], last: node.output(at) })
    });
    let carried = carried.collect::<Option<Vec<_>>>()?;
    let input = |name| numbers(node, name, scans);
    let (axes, directions) = (input("scan_input_axes")?, input("scan_input_directions")?);
    let scanned = (0..scans).map(|at| {
        let (whole, inside) = (node.input(states + at)?, inside[states + at]);
        Some(Scanned { whole, inside, axis: axes[at], reversed: directions[at] != 0 })
    });
    let scanned = scanned.collect::<Option<Vec<_>>>()?;
    let output = |name| if is_loop { Some(vec![0; results]) } else { numbers(node, name, results) };
    let (axes, directions) = (output("scan_output_axes")?, output("scan_output_directions")?);
    let stacked = (0..results).map(|at| {
        let slice = outputs[states + at];
        let size = |dim: &types::Dim| if let types::Dim::Fixed(size) = dim { *size } else { 0 };
        let declared = whole.value(slice).declared.as_ref();
        let declared = declared.and_then(|(dtype, dims)| Some((*dtype, dims.as_ref()?.iter().map(size).collect())));
        Stacked { slice, whole: node.output(states + at), axis: axes[at], reversed: directions[at] != 0, declared }
    });
    let stacked = stacked.collect();
    let at = |position: usize| if is_loop { inside.get(position).copied() } else { None };
    let cycle = Cycle {
        name: node.name.clone(),
        operator: node.op.clone(),
        count: if is_loop { node.input(0) } else { None },
        condition: if is_loop { node.input(1) } else { None },
        number: at(0),
        condition_inside: at(1),
        condition_next,
        carried,
        scanned,
        stacked,
        constants: HashMap::new(),
        stages: Vec::new(),
    };
    Some((cycle, nodes))
}

impl Cycle {
    /// The values that the body computes.
    pub(super) fn made(&self) -> Vec<ValueId> {
        let carried = self.carried.iter().map(|carried| carried.next);
        self.condition_next.into_iter().chain(carried).chain(self.stacked.iter().map(|stacked| stacked.slice)).collect()
    }

    /// The values that the loop reads before it begins.
    pub(super) fn read(&self) -> impl Iterator<Item = ValueId> {
        let carried = self.carried.iter().map(|carried| carried.initial);
        let scanned = self.scanned.iter().map(|scanned| scanned.whole);
        self.count.into_iter().chain(self.condition).chain(carried).chain(scanned)
    }

    /// Nodes around those of one iteration that make it a part of the graph: before it and behind it.
    ///
    /// That is the loop with one iteration, good for looking at every node and at what is known of every value.
    pub(super) fn bridges(&self, whole: &mut Graph, node: &Node) -> [Vec<Node>; 2] {
        let (mut before, mut behind) = (Vec::new(), Vec::new());
        let zero = whole.add_constant("", Literal::from_i64s(ElementType::I64, Vec::new(), &[0]));
        let yes = whole.add_constant("", Literal::from_i64s(ElementType::Bool, Vec::new(), &[1]));
        let axis_node = |op: &str, axis: i64, from: ValueId, to: ValueId| Node {
            op: op.into(),
            opset: 13,
            attributes: Attributes::default().with("axis", Attribute::Int(axis)),
            ..hand_on(node, from, to)
        };
        before.extend(self.number.map(|inside| hand_on(node, zero, inside)));
        before.extend(self.condition_inside.map(|inside| hand_on(node, yes, inside)));
        before.extend(self.carried.iter().map(|carried| hand_on(node, carried.initial, carried.inside)));
        for scanned in &self.scanned {
            let gather = axis_node("Gather", scanned.axis, scanned.whole, scanned.inside);
            before.push(Node { inputs: vec![Some(scanned.whole), Some(zero)], ..gather });
        }
        behind.extend(self.carried.iter().filter_map(|carried| Some(hand_on(node, carried.next, carried.last?))));
        for stacked in &self.stacked {
            let Some(to) = stacked.whole else { continue };
            let axis = whole.add_constant("", Literal::i64_vector(&[stacked.axis]));
            let mut fresh = || whole.add_value(Value { name: String::new(), declared: None });
            let row = if self.scanned.is_empty() { to } else { fresh() };
            let unsqueeze = hand_on(node, stacked.slice, row);
            let inputs = vec![Some(stacked.slice), Some(axis)];
            behind.push(Node { op: "Unsqueeze".into(), opset: 13, inputs, ..unsqueeze });
            // A scan makes a slice for each that it takes: the one slice as often as that.
            let Some(scanned) = self.scanned.first() else { continue };
            let (shape, length, places) = (fresh(), fresh(), fresh());
            let at = whole.add_constant("", Literal::i64_vector(&[scanned.axis]));
            let zeros = Attribute::Tensor(Literal::i64_vector(&[0]));
            behind.push(Node { op: "Shape".into(), opset: 13, ..hand_on(node, scanned.whole, shape) });
            behind.push(Node { inputs: vec![Some(shape), Some(at)], ..axis_node("Gather", 0, shape, length) });
            behind.push(Node {
                op: "ConstantOfShape".into(),
                opset: 13,
                attributes: Attributes::default().with("value", zeros),
                ..hand_on(node, length, places)
            });
            behind.push(Node { inputs: vec![Some(row), Some(places)], ..axis_node("Gather", stacked.axis, row, to) });
        }
        [before, behind]
    }
}
