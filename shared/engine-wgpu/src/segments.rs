//! Cuts a graph where the shape of a result, or which part runs at all, depends on the request's data.
//!
//! `NonMaxSuppression`, `NonZero`, `Unique`, and a `Compress` or large `TopK` on request data run on the host between two
//! plans: a host node. So does the choice of an `If`, whose branches are plans of their own. What comes after waits, since its
//! shapes are not known before. Fed by [`crate::session`]; a graph without host nodes is one segment.

pub mod cycle;
mod stage;

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;

use cycle::is_cycle;
pub use stage::{Branch, Carried, Cycle, ITERATIONS_MAX, Scanned, Stacked, Stage};

use crate::ir::{Graph, Node, ValueId};
use crate::ops::registry::rule;
use crate::ops::rule::Run;
use crate::ops::top::is_long;
use crate::passes::assumed_infos;
use crate::passes::branches::{adopt, branches, hand_on, inline_known, subgraph};
use crate::passes::pattern::symbolic_infos;
use crate::value_info::{DataDependent, ValueInfo, ValueInfos};

/// Most nodes that branches may add to a graph, all together.
const ADOPTED_MAX: usize = 100_000;

/// One host node, for descriptions: each costs a way from the device to the host and back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostNode {
    /// Operator type of the node.
    pub operator: String,
    /// Name of the node.
    pub node: String,
}

/// The nodes inside every `If`, `Loop` and `Scan`, by one of its outputs, in the value numbers of the whole.
type Sides = HashMap<ValueId, Inside>;

/// Nodes inside a node.
enum Inside {
    /// Of an `If`: where the condition is false, and where it is true.
    Sides([Vec<Node>; 2]),
    /// Of a loop: one iteration, and what makes that a part of the graph.
    Body { cycle: Box<Cycle>, nodes: Vec<Node>, bridges: [Vec<Node>; 2] },
}

/// The stages of a graph in the order in which they run.
#[must_use]
pub fn cut(graph: &Graph) -> Vec<Stage> {
    let (whole, sides) = with_branches(graph);
    stages(&whole, &sides)
}

/// The host nodes of a graph.
#[must_use]
pub fn describe(graph: &Graph) -> Vec<HostNode> {
    let flat = flattened(graph);
    let host_node = |at: usize| HostNode { operator: flat.nodes[at].op.clone(), node: flat.nodes[at].name.clone() };
    let choices = graph.nodes.iter().filter(|node| node.is("If") || is_cycle(node));
    let choices = choices.map(|node| HostNode { operator: node.op.clone(), node: node.name.clone() });
    choices.chain(host_nodes(&flat).into_iter().map(host_node)).collect()
}

/// The graph with both sides of every `If` in its place, and its outputs taken from the side for true.
///
/// Computes nonsense; good for looking at every node and at what is known of every value.
#[must_use]
pub(crate) fn flattened(graph: &Graph) -> Graph {
    let (mut whole, sides) = with_branches(graph);
    let mut nodes = Vec::with_capacity(whole.nodes.len());
    for node in std::mem::take(&mut whole.nodes) {
        spread(node, &sides, &mut nodes);
    }
    whole.nodes = nodes;
    whole
}

/// Rounds of deciding one `If` after the other; exporters nest two or three deep.
const DECIDED_ROUNDS_MAX: usize = 16;

/// The graph at these inputs: each `If` whose condition is known then is replaced by the side that is taken, and the others are as
/// in [`flattened`].
#[must_use]
pub(crate) fn decided(graph: &Graph, inputs: &[Option<ValueInfo>]) -> Graph {
    let mut graph = graph.clone();
    for _round in 0..DECIDED_ROUNDS_MAX {
        if !graph.nodes.iter().any(|node| node.is("If")) {
            break;
        }
        let (infos, _refused) = ValueInfos::infer_leniently(&graph, inputs, DataDependent::Assumed);
        if !inline_known(&mut graph, &infos) {
            break;
        }
    }
    flattened(&graph)
}

fn spread(node: Node, sides: &Sides, nodes: &mut Vec<Node>) {
    let [other, then] = match sides_of(&node, sides) {
        Some(Inside::Sides(sides)) => sides,
        Some(Inside::Body { nodes: inside, bridges: [before, behind], .. }) => {
            nodes.extend(before.iter().cloned());
            inside.iter().for_each(|inner| spread(inner.clone(), sides, nodes));
            nodes.extend(behind.iter().cloned());
            return;
        }
        None => {
            nodes.push(node);
            return;
        }
    };
    // A value may be defined once: the side for false hands its outputs to nobody.
    let given: BTreeSet<ValueId> = node.outputs.iter().flatten().copied().collect();
    for inner in other.iter().filter(|inner| !inner.outputs.iter().flatten().any(|id| given.contains(id))).chain(then) {
        spread(inner.clone(), sides, nodes);
    }
}

/// The graph with room for the values of every branch, and the branches' nodes.
fn with_branches(graph: &Graph) -> (Graph, Sides) {
    let mut whole = graph.clone();
    let mut sides = Sides::new();
    let has_inside = |node: &&Node| node.is("If") || is_cycle(node);
    let mut waiting: Vec<Node> = graph.nodes.iter().filter(has_inside).cloned().collect();
    let mut adopted = 0;
    while let Some(node) = waiting.pop() {
        if is_cycle(&node) {
            adopted += subgraph(&node, "body").map_or(0, |body| body.nodes.len());
            if adopted > ADOPTED_MAX {
                break;
            }
            let Some(&Some(first)) = node.outputs.iter().find(|id| id.is_some()) else { continue };
            let Some((cycle, nodes)) = cycle::read(&mut whole, &node) else { continue };
            waiting.extend(nodes.iter().filter(has_inside).cloned());
            let bridges = cycle.bridges(&mut whole, &node);
            sides.insert(first, Inside::Body { cycle: Box::new(cycle), nodes, bridges });
            continue;
        }
        let (Some(both), Some(&Some(first))) = (branches(&node), node.outputs.iter().find(|id| id.is_some())) else {
            continue;
        };
        adopted += both.iter().map(|(branch, _captures)| branch.nodes.len()).sum::<usize>();
        if adopted > ADOPTED_MAX {
            break;
        }
        let both = both.map(|(branch, captures)| {
            let (mut nodes, outputs) = adopt(&mut whole, branch, &captures, &node.name, &mut HashMap::new());
            let named = node.outputs.iter().zip(outputs).filter_map(|(to, from)| Some(((*to)?, from)));
            nodes.extend(named.map(|(to, from)| hand_on(&node, from, to)));
            waiting.extend(nodes.iter().filter(has_inside).cloned());
            nodes
        });
        sides.insert(first, Inside::Sides(both));
    }
    (whole, sides)
}

fn sides_of<'a>(node: &Node, sides: &'a Sides) -> Option<&'a Inside> {
    // What hands a side's result on has the same output.
    if node.is("If") || is_cycle(node) { node.outputs.iter().flatten().find_map(|id| sides.get(id)) } else { None }
}

fn stages(graph: &Graph, sides: &Sides) -> Vec<Stage> {
    let host_nodes = host_nodes(graph);
    if host_nodes.is_empty() {
        return vec![Stage::Device(graph.clone())];
    }
    // A host node's outputs stand one level above its inputs; everything else at the level of its highest input.
    let mut levels = vec![0_usize; graph.value_count()];
    let mut level_of = vec![0_usize; graph.nodes.len()];
    for (at, node) in graph.nodes.iter().enumerate() {
        let level = node.inputs.iter().flatten().map(|id| levels[id.index()]).max().unwrap_or(0);
        level_of[at] = level;
        for id in node.outputs.iter().flatten() {
            levels[id.index()] = level + usize::from(host_nodes.contains(&at));
        }
    }
    let top = level_of.iter().copied().max().unwrap_or(0);
    let mut stages = Vec::new();
    for level in 0..=top {
        let here = |at: &usize| level_of[*at] == level && !host_nodes.contains(at);
        let inside: BTreeSet<usize> = (0..graph.nodes.len()).filter(here).collect();
        if !inside.is_empty() {
            stages.push(Stage::Device(part(graph, &inside)));
        }
        let between = host_nodes.iter().filter(|&&at| level_of[at] == level);
        stages.extend(between.map(|&at| host_node(graph, &graph.nodes[at], sides)));
    }
    stages
}

fn host_node(graph: &Graph, node: &Node, sides: &Sides) -> Stage {
    let side = |nodes: &Vec<Node>, outputs: Vec<ValueId>| {
        let mut side = graph.clone();
        side.nodes = nodes.clone();
        side.outputs = outputs;
        side.inputs = outer_values(&side);
        stages_of_side(&side, sides)
    };
    match (sides_of(node, sides), node.input(0)) {
        (Some(Inside::Sides([other, then])), Some(condition)) => {
            let outputs = || node.outputs.iter().flatten().copied().collect();
            let sides = [side(other, outputs()), side(then, outputs())];
            return Stage::Branch(Branch { name: node.name.clone(), condition, sides });
        }
        (Some(Inside::Body { cycle, nodes, .. }), _) => {
            let mut cycle = cycle.clone();
            cycle.stages = side(nodes, cycle.made());
            let constant = |id: ValueId| Some((id, graph.constants.get(&id)?.clone()));
            cycle.constants = cycle.read().filter_map(constant).collect();
            return Stage::Cycle(cycle);
        }
        (Some(Inside::Sides(_)), None) | (None, _) => {}
    }
    let read = node.inputs.iter().flatten();
    let constants = read.filter_map(|id| Some((*id, graph.constants.get(id)?.clone()))).collect();
    Stage::Host(node.clone(), constants)
}

fn stages_of_side(side: &Graph, sides: &Sides) -> Vec<Stage> {
    let (mut side, constants) = (side.clone(), side.constants.clone());
    side.remove_dead();
    // The branches inside it stand elsewhere, and read constants too.
    side.constants = constants;
    stages(&side, sides)
}

/// Returns the values that the nodes of a graph read and do not define.
fn outer_values(graph: &Graph) -> Vec<ValueId> {
    let made: BTreeSet<ValueId> = graph.nodes.iter().flat_map(|node| node.outputs.iter().flatten()).copied().collect();
    let read: BTreeSet<ValueId> = graph.nodes.iter().flat_map(|node| node.inputs.iter().flatten()).copied().collect();
    read.difference(&made).copied().filter(|id| !graph.constants.contains_key(id)).collect()
}

/// Positions of the nodes that must run on the host on request data.
pub(crate) fn host_nodes(graph: &Graph) -> BTreeSet<usize> {
    let mut from_request: BTreeSet<ValueId> = graph.inputs.iter().copied().collect();
    let mut host_nodes = BTreeSet::new();
    let sorts = graph.nodes.iter().any(|node| node.is("TopK"));
    let looked = sorts.then(|| (assumed_infos(graph), symbolic_infos(graph)));
    let long = |node: &Node| {
        looked.as_ref().is_some_and(|(assumed, symbolic)| node.is("TopK") && is_long(node, graph, assumed, symbolic))
    };
    for (at, node) in graph.nodes.iter().enumerate() {
        // Shapes are known before the run, whatever the data.
        if matches!(node.op.as_str(), "Shape" | "Size") && node.domain.is_empty() {
            continue;
        }
        let reads = |k: usize| node.input(k).is_some_and(|id| from_request.contains(&id));
        let host_node = match rule(node).map(|rule| rule.run) {
            // Whatever decides it, it is decided between two plans.
            _ if node.is("If") || is_cycle(node) => true,
            _ if !(0..node.inputs.len()).any(reads) => continue,
            Some(Run::HostNode) => true,
            // With a condition or a count that is known they run on the device.
            Some(Run::Device(_)) => (node.is("Compress") || node.is("TopK")) && reads(1) || long(node),
            Some(Run::HostOnly) | None => false,
        };
        from_request.extend(node.outputs.iter().flatten());
        if host_node {
            host_nodes.insert(at);
        }
    }
    host_nodes
}

/// The nodes at these positions as a graph of their own, with what they need as inputs and what others need as outputs.
fn part(graph: &Graph, inside: &BTreeSet<usize>) -> Graph {
    let outside = (0..graph.nodes.len()).filter(|at| !inside.contains(at)).map(|at| &graph.nodes[at]);
    let mut needed: BTreeSet<ValueId> = outside.flat_map(|node| node.inputs.iter().flatten()).copied().collect();
    needed.extend(&graph.outputs);
    let mut part = graph.clone();
    part.nodes = inside.iter().map(|&at| graph.nodes[at].clone()).collect();
    part.inputs = outer_values(&part);
    let made: BTreeSet<ValueId> = part.nodes.iter().flat_map(|node| node.outputs.iter().flatten()).copied().collect();
    part.outputs = made.intersection(&needed).copied().collect();
    let read: BTreeSet<ValueId> = part.nodes.iter().flat_map(|node| node.inputs.iter().flatten()).copied().collect();
    part.constants.retain(|id, _literal| read.contains(id));
    part
}
