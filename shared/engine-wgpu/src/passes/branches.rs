//! Subgraphs: puts the branch of an `If` whose condition is constant in the place of the node, unrolls a `Loop` that goes
//! round a constant number of times, and rewrites the branches that stay.

use std::collections::HashMap;

use crate::ir::{Attribute, Attributes, Graph, Literal, Node, Value, ValueId};
use crate::passes::rewrite;
use crate::value_info::ValueInfos;

/// Most nodes of a graph while subgraphs are put into it, so that nested ones cannot grow it without end.
const NODES_MAX: usize = 100_000;

/// Most rounds of a loop that is unrolled.
const ROUNDS_UNROLLED_MAX: usize = 256;

/// Inlines every decided `If` and every counted `Loop`.
pub(super) fn inline(graph: &mut Graph) -> bool {
    if !graph.nodes.iter().any(|node| node.is("If") || node.is("Loop")) {
        return false;
    }
    let mut waiting = std::mem::take(&mut graph.nodes);
    waiting.reverse();
    let (mut nodes, mut changed) = (Vec::with_capacity(waiting.len()), false);
    while let Some(node) = waiting.pop() {
        let room = NODES_MAX.saturating_sub(nodes.len() + waiting.len());
        let inside = match node.op.as_str() {
            "If" if node.domain.is_empty() => settled(graph, &node, room),
            "Loop" if node.domain.is_empty() => unrolled(graph, &node, room),
            _ => None,
        };
        match inside {
            // What was put in place is looked at again: it may hold a decided `If` of its own.
            Some(inside) => {
                waiting.extend(inside.into_iter().rev());
                changed = true;
            }
            None => nodes.push(node),
        }
    }
    graph.nodes = nodes;
    changed
}

/// Inlines every `If` whose condition these infos know; answers whether there was one.
pub(crate) fn inline_known(graph: &mut Graph, infos: &ValueInfos) -> bool {
    let waiting = std::mem::take(&mut graph.nodes);
    let (mut nodes, mut changed) = (Vec::with_capacity(waiting.len()), false);
    for node in waiting {
        let condition = node.input(0).filter(|_condition| node.is("If")).and_then(|id| infos.find(id));
        let known = condition.and_then(|info| info.known.as_ref()).and_then(flag);
        let room = NODES_MAX.saturating_sub(nodes.len());
        match known.and_then(|then_one| taken(graph, &node, then_one, room)) {
            Some(inside) => {
                nodes.extend(inside);
                changed = true;
            }
            None => nodes.push(node),
        }
    }
    graph.nodes = nodes;
    changed
}

/// Copies a subgraph's values and nodes into a graph; gives the nodes and what the subgraph's outputs are there.
///
/// `inputs` stand in the place of the subgraph's inputs. `constants` remembers what was copied before, so that a weight
/// that each round of a loop reads stays one weight.
pub(crate) fn adopt(
    graph: &mut Graph,
    body: &Graph,
    inputs: &[ValueId],
    prefix: &str,
    constants: &mut HashMap<ValueId, ValueId>,
) -> (Vec<Node>, Vec<ValueId>) {
    for (&id, literal) in &body.constants {
        let name = || format!("{prefix}/{}", body.value(id).name);
        constants.entry(id).or_insert_with(|| graph.add_constant(&name(), literal.clone()));
    }
    let mut outer = constants.clone();
    outer.extend(body.inputs.iter().copied().zip(inputs.iter().copied()));
    let mut place = |id: ValueId| {
        *outer.entry(id).or_insert_with(|| {
            let value = body.value(id);
            graph.add_value(Value { name: format!("{prefix}/{}", value.name), declared: value.declared.clone() })
        })
    };
    let mut nodes = Vec::with_capacity(body.nodes.len());
    for inner in &body.nodes {
        let mut inner = inner.clone();
        inner.name = format!("{prefix}/{}", inner.name);
        inner.inputs.iter_mut().chain(&mut inner.outputs).flatten().for_each(|id| *id = place(*id));
        nodes.push(inner);
    }
    let outputs = body.outputs.iter().map(|&id| place(id)).collect();
    (nodes, outputs)
}

/// A subgraph of a node.
pub(crate) fn subgraph<'a>(node: &'a Node, name: &str) -> Option<&'a Graph> {
    match node.attributes.find(name) {
        Some(Attribute::Graph(graph)) => Some(graph),
        _ => None,
    }
}

/// Both branches of an `If`, the one for false first, each with the outer values that it captures.
///
/// Captures follow the formal inputs, attribute by attribute in the order of their names; see [`crate::read`].
pub(crate) fn branches(node: &Node) -> Option<[(&Graph, Vec<ValueId>); 2]> {
    let (other, then) = (subgraph(node, "else_branch")?, subgraph(node, "then_branch")?);
    let first = node.inputs.len().checked_sub(other.inputs.len() + then.inputs.len())?;
    let captured = |from: usize, count: usize| node.inputs.get(from..from + count)?.iter().copied().collect();
    let fits = other.outputs.len() >= node.outputs.len() && then.outputs.len() >= node.outputs.len();
    let (of_other, of_then): (Option<Vec<ValueId>>, Option<Vec<ValueId>>) =
        (captured(first, other.inputs.len()), captured(first + other.inputs.len(), then.inputs.len()));
    fits.then_some([(other, of_other?), (then, of_then?)])
}

/// Hands a value on under another name: keeps the name of an output that a request may ask for.
pub(crate) fn hand_on(node: &Node, from: ValueId, to: ValueId) -> Node {
    Node {
        name: node.name.clone(),
        domain: String::new(),
        op: "Identity".into(),
        opset: node.opset,
        inputs: vec![Some(from)],
        outputs: vec![Some(to)],
        attributes: Attributes::default(),
    }
}

/// Nodes in the place of one whose outputs these values now are.
fn replacing(node: &Node, mut inside: Vec<Node>, outputs: &[ValueId]) -> Vec<Node> {
    let named = node.outputs.iter().zip(outputs).filter_map(|(to, from)| Some(((*to)?, *from)));
    inside.extend(named.map(|(to, from)| hand_on(node, from, to)));
    inside
}

/// Returns the nodes that replace an `If` that a constant decides.
fn settled(graph: &mut Graph, node: &Node, room: usize) -> Option<Vec<Node>> {
    let then_one = flag(graph.constant_input(node, 0)?)?;
    taken(graph, node, then_one, room)
}

/// Returns the nodes that replace an `If` whose condition is known.
fn taken(graph: &mut Graph, node: &Node, then_one: bool, room: usize) -> Option<Vec<Node>> {
    let [other, then] = branches(node)?;
    let (branch, captures) = if then_one { then } else { other };
    if branch.nodes.len() + node.outputs.len() > room {
        return None;
    }
    let (inside, outputs) = adopt(graph, branch, &captures, &node.name, &mut HashMap::new());
    Some(replacing(node, inside, &outputs))
}

fn flag(literal: &Literal) -> Option<bool> {
    literal.to_i64s().first().filter(|_one| literal.elements() == 1).map(|&value| value != 0)
}

/// Number of iterations of a loop whose count is constant and whose condition never ends it early.
pub(crate) fn fixed_count(graph: &Graph, node: &Node, body: &Graph) -> Option<usize> {
    let count = graph.constant_input(node, 0)?.to_i64s().first().copied()?;
    let starts = node.input(1).is_none_or(|id| graph.constants.get(&id).and_then(flag) == Some(true));
    // The condition that comes out must be the one that went in, or constant.
    let mut goes_on = *body.outputs.first()?;
    while let Some(before) = body.nodes.iter().find(|before| before.outputs.contains(&Some(goes_on))) {
        goes_on = before.input(0).filter(|_handed_on| before.is("Identity"))?;
    }
    let unchanged = body.inputs.get(1) == Some(&goes_on);
    let lasts = unchanged || body.constants.get(&goes_on).and_then(flag) == Some(true);
    (starts && lasts).then(|| usize::try_from(count.max(0)).unwrap_or(usize::MAX))
}

/// Rounds of a loop that is short enough to be unrolled.
fn rounds(graph: &Graph, node: &Node, body: &Graph, room: usize) -> Option<usize> {
    let count = fixed_count(graph, node, body).filter(|&count| count <= ROUNDS_UNROLLED_MAX)?;
    // A round adds its nodes and one for each output that it stacks.
    let fits = count.checked_mul(body.nodes.len() + body.outputs.len())? <= room;
    fits.then_some(count)
}

/// Returns the nodes that replace a `Loop` with a known count.
fn unrolled(graph: &mut Graph, node: &Node, room: usize) -> Option<Vec<Node>> {
    let body = subgraph(node, "body")?;
    let count = rounds(graph, node, body, room)?;
    // Inputs: count, condition, carried values, captures; the body: round, condition, carried values, captures.
    let carried = body.inputs.len().checked_sub(2 + body.captured)?;
    let fits = node.inputs.len() == body.inputs.len()
        && body.outputs.len() > carried
        && node.outputs.len() < body.outputs.len();
    if !fits {
        return None;
    }
    let scanned = body.outputs.len() - 1 - carried;
    if scanned > 0 && count == 0 {
        return None;
    }
    let mut values: Vec<ValueId> = node.inputs[2..].iter().copied().collect::<Option<_>>()?;
    let (mut inside, mut constants, mut stacks) = (Vec::new(), HashMap::new(), vec![Vec::new(); scanned]);
    let yes = Literal::from_i64s(crate::ir::ElementType::Bool, Vec::new(), &[1]);
    let condition = node.input(1).unwrap_or_else(|| graph.add_constant("", yes));
    let axis = graph.add_constant("", Literal::i64_vector(&[0]));
    for round in 0..count {
        let number = i64::try_from(round).unwrap_or(i64::MAX);
        let number = Literal::from_i64s(crate::ir::ElementType::I64, Vec::new(), &[number]);
        let mut inputs = vec![graph.add_constant("", number), condition];
        inputs.extend(&values);
        let prefix = format!("{}[{round}]", node.name);
        let (nodes, outputs) = adopt(graph, body, &inputs, &prefix, &mut constants);
        inside.extend(nodes);
        values[..carried].copy_from_slice(&outputs[1..=carried]);
        for (stack, &slice) in stacks.iter_mut().zip(&outputs[1 + carried..]) {
            let row = graph.add_value(Value { name: String::new(), declared: None });
            inside.push(Node {
                op: "Unsqueeze".into(),
                inputs: vec![Some(slice), Some(axis)],
                ..hand_on(node, slice, row)
            });
            stack.push(Some(row));
        }
    }
    let mut outputs = values[..carried].to_vec();
    for stack in stacks {
        let whole = graph.add_value(Value { name: String::new(), declared: None });
        let attributes = Attributes::default().with("axis", Attribute::Int(0));
        inside.push(Node { op: "Concat".into(), inputs: stack, attributes, ..hand_on(node, whole, whole) });
        outputs.push(whole);
    }
    Some(replacing(node, inside, &outputs))
}

/// Number of a node's inputs before those that its subgraphs capture; name, graph and captures of each subgraph.
type Inner<'a> = (usize, Vec<(&'a str, &'a Graph, Vec<ValueId>)>);

/// Rewrites the branches that no constant decides and the bodies of loops: each becomes a plan of its own.
pub(super) fn rewrite_inner(graph: &mut Graph) {
    for at in 0..graph.nodes.len() {
        let node = &graph.nodes[at];
        let inner: Option<Inner<'_>> = match node.op.as_str() {
            "If" if node.domain.is_empty() => branches(node)
                .map(|[other, then]| (1, vec![("else_branch", other.0, other.1), ("then_branch", then.0, then.1)])),
            "Loop" | "Scan" if node.domain.is_empty() => body(node),
            _ => None,
        };
        let Some((own, inner)) = inner else { continue };
        let mut inputs: Vec<_> = node.inputs.iter().copied().take(own).collect();
        let mut attributes = node.attributes.clone();
        for (name, branch, captures) in inner {
            let mut branch = branch.clone();
            // A captured constant is the branch's own: fusions look for weights.
            let formal = branch.inputs.len() - captures.len();
            let outer = branch.inputs.split_off(formal).into_iter().zip(captures);
            let (known, open): (Vec<_>, Vec<_>) =
                outer.partition(|(_inner, outer)| graph.constants.contains_key(outer));
            let constants =
                known.into_iter().filter_map(|(inner, outer)| Some((inner, graph.constants.get(&outer)?.clone())));
            branch.constants.extend(constants.collect::<Vec<_>>());
            branch.inputs.extend(open.iter().map(|&(inner, _outer)| inner));
            branch.captured = open.len();
            rewrite(&mut branch);
            inputs.extend(open.into_iter().map(|(_inner, outer)| Some(outer)));
            attributes.insert(name, Attribute::Graph(Box::new(branch)));
        }
        graph.nodes[at].inputs = inputs;
        graph.nodes[at].attributes = attributes;
    }
}

/// The body of a loop with the outer values that it captures, and how many inputs of the node stand before those.
fn body(node: &Node) -> Option<Inner<'_>> {
    let body = subgraph(node, "body")?;
    let own = node.inputs.len().checked_sub(body.captured)?;
    let captures = node.inputs[own..].iter().copied().collect::<Option<_>>()?;
    (body.captured <= body.inputs.len()).then(|| (own, vec![("body", body, captures)]))
}
