//! Which nodes compute in integers, and which values are rounded for them.
//!
//! Read from the graph alone, so that calibration and rewriting agree about it.

use std::collections::{BTreeMap, BTreeSet};

use onnx_graph::proto::NodeProto;
use onnx_graph::{Attributes, Graph, Model, Uses, Values};

use super::operators::{Role, data_inputs, role, weight, wrong_kernel};
use super::weights::is_plain;
use crate::calibrate::is_float;
use crate::{Report, Selection, logarithm};

/// Elements from which on a looked-up table is worth rounding: below, its bytes are lost among the names.
const TABLE_ELEMENTS_MIN: usize = 16 * 1024;

/// Nodes and values to rewrite.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Nodes, by place, and their role.
    pub(super) nodes: BTreeMap<usize, Role>,
    /// Rounded values, and the value whose range they take.
    pub(super) values: BTreeMap<String, String>,
    /// Nodes that go, because the range of their output does their work.
    pub(super) absorbed: BTreeSet<usize>,
}

impl Plan {
    /// Reads the graph. `usable` says of each value whether it may be rounded; nodes that need another are left alone.
    pub(super) fn of(
        model: &Model,
        selection: &Selection,
        absorbs: bool,
        usable: &dyn Fn(&str) -> Result<(), String>,
        report: &mut Report,
    ) -> Self {
        for node in model.graph.nodes.iter().filter(|node| selection.takes(node)) {
            if let Some(reason) = wrong_kernel(node) {
                report.skip(node, reason);
            }
        }
        let before_logarithms = logarithm::products_before(&model.graph, &Uses::of(&model.graph));
        let exact = before_logarithms.into_iter().filter(|&place| {
            let node = model.graph.nodes.get(place).filter(|node| selection.takes(node));
            node.is_some_and(|node| weight(&model.graph, Role::Product, node).is_some())
        });
        let mut excluded: BTreeSet<usize> = exact.collect();
        for node in excluded.iter().filter_map(|&place| model.graph.nodes.get(place)) {
            report.skip(node, logarithm::REASON);
        }
        loop {
            let draft = Draft::of(model, selection, absorbs, &excluded);
            let plan = draft.plan();
            let mut refused = Vec::new();
            for (&place, &role) in &plan.nodes {
                let Some(node) = model.graph.nodes.get(place) else { continue };
                if let Some(reason) = plan.refusal(model, node, role, usable) {
                    refused.push((place, reason));
                }
            }
            if refused.is_empty() {
                return plan;
            }
            for (place, reason) in refused {
                excluded.insert(place);
                if let Some(node) = model.graph.nodes.get(place) {
                    report.skip(node, reason);
                }
            }
        }
    }

    /// Returns the reason why a node cannot be computed in integers after all.
    fn refusal(
        &self,
        model: &Model,
        node: &NodeProto,
        role: Role,
        usable: &dyn Fn(&str) -> Result<(), String>,
    ) -> Option<String> {
        let graph = &model.graph;
        let inputs = data_inputs(role, node).filter_map(|place| node.input_at(place));
        for name in inputs.chain(node.output.iter().map(String::as_str)) {
            match graph.initializer(name) {
                Some(constant) if role == Role::Joins && !is_plain(constant) => {
                    return Some(format!("its constant {name:?} is empty, not f32 or not finite"));
                }
                Some(_) => {}
                None => {
                    if let Some(root) = self.values.get(name)
                        && let Err(reason) = usable(root)
                    {
                        return Some(reason);
                    }
                }
            }
        }
        None
    }

    /// The values whose ranges are needed.
    pub(super) fn roots(&self) -> BTreeSet<&str> {
        self.values.values().map(String::as_str).collect()
    }
}

struct Draft<'model> {
    graph: &'model Graph,
    uses: Uses,
    /// Roles of all nodes that could take part.
    roles: BTreeMap<usize, Role>,
    /// Nodes that give integers, or take them.
    taken: BTreeSet<usize>,
    absorbs: bool,
}

impl<'model> Draft<'model> {
    fn of(model: &'model Model, selection: &Selection, absorbs: bool, excluded: &BTreeSet<usize>) -> Self {
        let graph = &model.graph;
        let opset = model.opset("").unwrap_or_default();
        let roles = graph.nodes.iter().enumerate().filter_map(|(place, node)| {
            let role = role(graph, node, opset).filter(|_| selection.takes(node) && !excluded.contains(&place))?;
            fits(model, node, role).then_some((place, role))
        });
        let mut draft = Self { graph, uses: Uses::of(graph), roles: roles.collect(), taken: BTreeSet::new(), absorbs };
        draft.take();
        draft
    }

    /// Those that multiply are always taken; those between them when integers come in and are wanted behind.
    fn take(&mut self) {
        let anchors = |role: Role| matches!(role, Role::Convolution | Role::Product | Role::WeightOnly | Role::Lookup);
        let mut forwards: BTreeSet<usize> = BTreeSet::new();
        for (place, node) in self.graph.nodes.iter().enumerate() {
            let Some(&role) = self.roles.get(&place) else { continue };
            if anchors(role) || self.is_fed(node, role, &forwards) {
                forwards.insert(place);
            }
        }
        for (place, node) in self.graph.nodes.iter().enumerate().rev() {
            let Some(&role) = self.roles.get(&place).filter(|_| forwards.contains(&place)) else { continue };
            if anchors(role) || self.is_wanted_of(node, role) {
                self.taken.insert(place);
            }
        }
        // What was wanted may now lack a neighbour that was not taken.
        loop {
            let lost: Vec<usize> = self.taken.iter().copied().filter(|&place| !self.still(place)).collect();
            if lost.is_empty() {
                break;
            }
            lost.iter().for_each(|place| {
                self.taken.remove(place);
            });
        }
    }

    fn still(&self, place: usize) -> bool {
        let (Some(node), Some(&role)) = (self.graph.nodes.get(place), self.roles.get(&place)) else { return false };
        matches!(role, Role::Convolution | Role::Product | Role::WeightOnly | Role::Lookup)
            || (self.is_fed(node, role, &self.taken) && self.is_wanted_of(node, role))
    }

    /// Returns whether every value that the node takes is a constant or comes in integers.
    fn is_fed(&self, node: &NodeProto, role: Role, givers: &BTreeSet<usize>) -> bool {
        let mut inputs = data_inputs(role, node).filter_map(|place| node.input_at(place)).peekable();
        let mut any = false;
        inputs.peek().is_some()
            && inputs.all(|name| {
                if self.graph.initializer(name).is_some() {
                    return role == Role::Joins;
                }
                any = true;
                let Some(giver) = self.uses.producer(name).filter(|giver| givers.contains(giver)) else { return false };
                match self.roles.get(&giver) {
                    // A product gives floats at no cost, and better ones: only what vanishes into it asks for integers.
                    Some(Role::Product) => role == Role::Cuts && self.vanishes(node, role),
                    Some(Role::WeightOnly) | None => false,
                    Some(_) => true,
                }
            })
            && any
    }

    /// Returns whether what a node gives is wanted in integers. A convolution gives nothing else, so that what cuts its result
    /// off may as well vanish, whoever reads it.
    fn is_wanted_of(&self, node: &NodeProto, role: Role) -> bool {
        let convolved = || {
            let feeder = node.input_at(0).and_then(|name| self.uses.producer(name));
            feeder.and_then(|feeder| self.roles.get(&feeder)) == Some(&Role::Convolution)
        };
        (self.vanishes(node, role) && convolved()) || node.output.iter().any(|value| self.is_wanted(value))
    }

    /// Returns whether some node that is taken takes the value in integers.
    fn is_wanted(&self, value: &str) -> bool {
        self.uses.consumers(value).iter().any(|&consumer| self.takes_integers(consumer, value))
    }

    fn takes_integers(&self, consumer: usize, value: &str) -> bool {
        let (Some(node), Some(&role)) = (self.graph.nodes.get(consumer), self.roles.get(&consumer)) else {
            return false;
        };
        let here = |place: usize| node.input_at(place) == Some(value);
        self.taken.contains(&consumer) && role != Role::WeightOnly && data_inputs(role, node).any(here)
    }

    /// Returns whether a cutting node can be left out: nobody else sees what it takes.
    fn vanishes(&self, node: &NodeProto, role: Role) -> bool {
        let only = |name: &str| self.uses.only_consumer(name).is_some();
        self.absorbs && role == Role::Cuts && node.input_at(0).is_some_and(only)
    }

    fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        for &place in &self.taken {
            let (Some(node), Some(&role)) = (self.graph.nodes.get(place), self.roles.get(&place)) else { continue };
            plan.nodes.insert(place, role);
            if self.vanishes(node, role) {
                plan.absorbed.insert(place);
            }
        }
        for &place in &self.taken {
            let (Some(node), Some(&role)) = (self.graph.nodes.get(place), self.roles.get(&place)) else { continue };
            self.mark(&mut plan, place, node, role);
        }
        plan
    }

    /// Notes the values that a node takes and gives in integers.
    fn mark(&self, plan: &mut Plan, place: usize, node: &NodeProto, role: Role) {
        if role == Role::WeightOnly {
            return;
        }
        let own = |plan: &mut Plan, name: &str| {
            plan.values.entry(name.to_owned()).or_insert_with(|| name.to_owned());
        };
        if !plan.absorbed.contains(&place) {
            for name in data_inputs(role, node).filter_map(|place| node.input_at(place)) {
                if self.graph.initializer(name).is_none() {
                    own(plan, name);
                }
            }
        }
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            match role {
                Role::Moves => {
                    let source = node.input_at(0).and_then(|input| plan.values.get(input)).cloned();
                    plan.values.insert(name.clone(), source.unwrap_or_else(|| name.clone()));
                }
                Role::Product if !self.gives_integers(name) => {}
                _ if self.is_absorbed_behind(plan, name) => {}
                _ => own(plan, name),
            }
        }
    }

    /// Returns whether a product's result is wanted in integers only.
    fn gives_integers(&self, value: &str) -> bool {
        let consumers = self.uses.consumers(value);
        !consumers.is_empty()
            && !self.graph.is_output(value)
            && consumers.iter().all(|&consumer| self.takes_integers(consumer, value))
    }

    fn is_absorbed_behind(&self, plan: &Plan, value: &str) -> bool {
        self.uses.only_consumer(value).is_some_and(|consumer| plan.absorbed.contains(&consumer))
    }
}

/// Returns whether weights, bias and types of a node are such that integers can stand for them.
fn fits(model: &Model, node: &NodeProto, role: Role) -> bool {
    let graph = &model.graph;
    let float = |name: &str| is_float(model, name) != Some(false);
    if !node.output.iter().all(|name| float(name)) {
        return false;
    }
    let weight = weight(graph, role, node);
    let constant = |place: usize| node.input_at(place).and_then(|name| graph.initializer(name));
    match role {
        Role::Convolution => weight.and_then(constant).is_some_and(is_plain) && has_plain_bias(graph, node, 0),
        Role::WeightOnly => weight.and_then(constant).is_some_and(is_plain),
        Role::Product => match weight {
            Some(1) if node.is("Gemm") => {
                let axis = usize::from(node.attr_int("transB").unwrap_or_default() == 0);
                constant(1).is_some_and(is_plain) && has_plain_bias(graph, node, axis)
            }
            Some(place) => constant(place).is_some_and(is_plain),
            // Of two values nobody knows whether they are floats, unless the file says so.
            None => (0..2).all(|place| node.input_at(place).and_then(|name| is_float(model, name)) == Some(true)),
        },
        Role::Lookup => {
            let table = node.input_at(0).and_then(|name| graph.initializer(name));
            let large = |shape: Vec<usize>| shape.iter().product::<usize>() >= TABLE_ELEMENTS_MIN;
            table.is_some_and(|table| is_plain(table) && table.shape().is_ok_and(large))
        }
        Role::Joins | Role::Computes | Role::Cuts | Role::Moves => true,
    }
}

/// Returns whether the third input is left out, or a constant with one number for each channel of the second.
fn has_plain_bias(graph: &Graph, node: &NodeProto, axis: usize) -> bool {
    let shape = |place: usize| node.input_at(place).and_then(|name| graph.initializer(name))?.shape().ok();
    let Some(bias) = node.input_at(2) else { return true };
    let channels = shape(1).and_then(|shape| shape.get(axis).copied());
    graph.initializer(bias).is_some_and(is_plain) && shape(2).map(|shape| shape.iter().product()) == channels
}
