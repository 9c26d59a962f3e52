//! Passes in the bodies of `Loop`, `Scan` and `If`.
//!
//! A pass over weights needs no more of a body than its own nodes and constants: each body is handed to it as a small
//! model. Weights that only one body takes move into it first. Fed by [`crate::auto`] with the passes that look at
//! weights alone; ranges of activations inside bodies are never observed.

use std::collections::{HashMap, HashSet};

use onnx_graph::proto::{AttributeProto, GraphProto, NodeProto};
use onnx_graph::rewrite::constants_to_initializers;
use onnx_graph::{Graph, Model, Names, Uses, subgraphs};

use crate::{CompressError, Report};

/// Smallest weight that moves into a body: what passes do not look at may stay where it is.
const ELEMENTS_MIN: i64 = 64;

/// Deepest body that is looked into; the pre-check of models refuses deeper ones.
const DEPTH_MAX: usize = 8;

/// A pass that looks at one graph.
type Pass<'a> = dyn Fn(&Model) -> Result<(Model, Report), CompressError> + 'a;

/// Runs a pass on the main graph and on every body in it.
///
/// # Errors
/// The pass's own; [`CompressError::Nothing`] when it changed neither the main graph nor a body.
pub(crate) fn everywhere(model: &Model, pass: &Pass<'_>) -> Result<(Model, Report), CompressError> {
    within(model, pass, DEPTH_MAX)
}

fn within(model: &Model, pass: &Pass<'_>, depth: usize) -> Result<(Model, Report), CompressError> {
    if depth == 0 || !model.graph.nodes.iter().any(|node| subgraphs(node).next().is_some()) {
        return pass(model);
    }
    let mut moved = model.clone();
    move_into_bodies(&mut moved.graph);
    let (mut made, mut report, nothing) = match pass(&moved) {
        Ok((made, report)) => (made, report, None),
        Err(nothing @ CompressError::Nothing { .. }) => (moved, Report::default(), Some(nothing)),
        Err(error) => return Err(error),
    };
    let mut names = Names::of(&made.graph);
    let mut nodes = std::mem::take(&mut made.graph.nodes);
    let mut bodies = 0;
    for attribute in nodes.iter_mut().flat_map(|node| &mut node.attribute) {
        for body in bodies_of(attribute) {
            let mut graph = Graph::from_proto(body.clone());
            constants_to_initializers(&mut graph);
            let small = Model { graph, rest: made.rest.clone() };
            match within(&small, pass, depth - 1) {
                Ok((changed, told)) => {
                    made.rest = changed.rest;
                    *body = with_own_names(body, changed.graph.into_proto(), &mut names);
                    report.pass.clone_from(&told.pass);
                    report.changed.extend(told.changed);
                    report.skipped.extend(told.skipped);
                    bodies += 1;
                }
                Err(CompressError::Nothing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    made.graph.nodes = nodes;
    match nothing {
        Some(nothing) if bodies == 0 => Err(nothing),
        _ => {
            if bodies > 0 {
                report.notes.retain(|note| !note.starts_with(Report::SUBGRAPHS));
                report.notes.push(format!("weights in {bodies} bodies (If, Loop, Scan) were changed too"));
            }
            Ok((made, report))
        }
    }
}

fn bodies_of(attribute: &mut AttributeProto) -> impl Iterator<Item = &mut GraphProto> {
    attribute.g.iter_mut().chain(&mut attribute.graphs)
}

/// Moves each constant that one body alone takes into that body.
fn move_into_bodies(graph: &mut Graph) {
    let uses = Uses::of(graph);
    let mut moves: Vec<(String, usize)> = Vec::new();
    for (name, tensor) in &graph.initializers {
        let is_large = tensor.dims.iter().product::<i64>() >= ELEMENTS_MIN;
        let &[taker] = uses.consumers(name) else { continue };
        let Some(node) = graph.nodes.get(taker).filter(|_| is_large && !graph.is_output(name)) else { continue };
        let takers = subgraphs(node).filter(|body| takes(body, name)).count();
        if !node.input.contains(name) && takers == 1 {
            moves.push((name.clone(), taker));
        }
    }
    for (name, taker) in moves {
        let Some(tensor) = graph.initializers.shift_remove(&name) else { continue };
        let node = graph.nodes.get_mut(taker);
        let mut bodies = node.into_iter().flat_map(|node| &mut node.attribute).flat_map(bodies_of);
        if let Some(body) = bodies.find(|body| takes(body, &name)) {
            body.initializer.push(tensor);
        }
    }
}

/// Returns whether a body, or one inside it, takes a value of that name.
fn takes(body: &GraphProto, name: &str) -> bool {
    let by_node = |node: &NodeProto| {
        node.input.iter().any(|input| input == name) || subgraphs(node).any(|inner| takes(inner, name))
    };
    body.output.iter().any(|output| output.name() == name) || body.node.iter().any(by_node)
}

/// Gives values that a pass has added to a body names that nothing else in the model has.
fn with_own_names(before: &GraphProto, mut after: GraphProto, names: &mut Names) -> GraphProto {
    let known: HashSet<&str> = defined(before).collect();
    let added: Vec<String> = defined(&after).filter(|name| !known.contains(name)).map(str::to_owned).collect();
    let mut renamed = HashMap::new();
    for name in added {
        let fresh = names.fresh(&name);
        if fresh != name {
            renamed.insert(name, fresh);
        }
    }
    if !renamed.is_empty() {
        rename(&mut after, &renamed);
    }
    after
}

fn defined(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let made = graph.node.iter().flat_map(|node| &node.output).map(String::as_str).filter(|name| !name.is_empty());
    graph.initializer.iter().map(|tensor| tensor.name()).chain(made)
}

fn rename(graph: &mut GraphProto, by: &HashMap<String, String>) {
    let replace = |name: &mut String| {
        if let Some(fresh) = by.get(name.as_str()) {
            name.clone_from(fresh);
        }
    };
    graph.initializer.iter_mut().filter_map(|tensor| tensor.name.as_mut()).for_each(replace);
    graph.output.iter_mut().filter_map(|output| output.name.as_mut()).for_each(replace);
    for node in &mut graph.node {
        node.input.iter_mut().chain(&mut node.output).for_each(replace);
        node.attribute.iter_mut().flat_map(bodies_of).for_each(|inner| rename(inner, by));
    }
}
