//! Says whether a model can run on this engine, and if not, everything that stands in the way.
//!
//! Needs no device: the hub asks before it offers a variant, the agent before it chooses an engine, and
//! [`crate::WgpuEngine`] when a load has failed, with the same code.

mod guess;
mod kernels;

use std::collections::BTreeMap;

pub use crate::ops::table::{OPS_TOML, Row, Runs, row, rows};
use engine::{ModelLimits, precheck};
use serde::Serialize;

use crate::error::{ModelError, OpError, UnsupportedOperator};
use crate::gpu::BINDING_BYTES_MAX;
use crate::ir::{Graph, Node, OWN_DOMAIN};
use crate::lower::{Lowering, Tuning, WeightPool, part_words};
use crate::ops::rule;
use crate::passes::rewrite;
use crate::segments::cycle::endless;
use crate::segments::{HostNode, ITERATIONS_MAX, describe, flattened, host_nodes};
use crate::value_info::ValueInfos;
pub(crate) use guess::best;
use guess::{Guess, is_open, others};

/// Operators and partitions of a model, and those that this engine refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelReport {
    /// Nodes in the file.
    pub nodes: usize,
    /// Nodes that are left after rewriting.
    pub nodes_rewritten: usize,
    /// Bytes of constants that are left after rewriting.
    pub constant_bytes: u64,
    /// Operators that run on the host between plans; each costs a way from the device and back.
    pub host_nodes: Vec<HostNode>,
    /// Every operator, by form, that this engine does not run. Empty means that the model can be loaded.
    pub unsupported: Vec<UnsupportedOperator>,
    /// Elementary operations of one inference at the declared shapes, open sizes taken as 1; 0 where the model takes no such size.
    pub work: u64,
}

/// Elementary operations a second that no device does: the fastest graphics card of 2026 does 105 in single precision.
pub const OPERATIONS_PER_SECOND_MAX: u64 = 200_000_000_000_000;

impl ModelReport {
    /// Returns whether nothing stands in the way.
    #[must_use]
    pub fn can_run(&self) -> bool {
        self.unsupported.is_empty()
    }

    /// Least number of seconds that one inference takes on any device.
    #[must_use]
    pub const fn seconds_least(&self) -> u64 {
        self.work / OPERATIONS_PER_SECOND_MAX
    }
}

/// Checks a model without a device, after the pre-check of [`engine::precheck`] with its default limits.
///
/// Open sizes are guessed (see `guess`): what no sizes can mend is reported, what a request's own sizes contradict shows at the
/// request. Kernels are made for every kind of device, and parsed and validated as a driver would.
///
/// # Errors
/// [`ModelError::Malformed`] when it cannot be read at all, or is over a limit.
pub fn check(model: &[u8]) -> Result<ModelReport, ModelError> {
    // The reader of messages believes depths and counts.
    let refused = |refusal| ModelError::Malformed(telemetry::chain(&refusal));
    precheck::check(model, &ModelLimits::default()).map_err(refused)?;
    let mut graph = crate::read::read(model)?;
    let nodes = graph.nodes.len();
    rewrite(&mut graph);
    let constant_bytes = graph.constants.values().map(|literal| literal.bytes().len() as u64).sum();
    let (unsupported, work) = judged(&graph, &DEVICES);
    Ok(ModelReport {
        nodes,
        nodes_rewritten: graph.nodes.len(),
        constant_bytes,
        host_nodes: describe(&graph),
        unsupported,
        work,
    })
}

/// Everything in a rewritten graph that this engine does not run, without a look at its kernels: those of the device are compiled.
pub(crate) fn unsupported(graph: &Graph) -> Vec<UnsupportedOperator> {
    judged(graph, &[SOFTWARE]).0
}

/// Everything in a rewritten graph that this engine does not run, and the work of what it does run.
///
/// Kernels are made as for each of these devices, and validated where there is more than one.
fn judged(graph: &Graph, devices: &[Tuning]) -> (Vec<UnsupportedOperator>, u64) {
    let flat = &flattened(graph);
    let mut found = Found::default();
    for node in endless(graph) {
        found.add(node, format!("it makes more than {ITERATIONS_MAX} iterations"));
    }
    for node in &flat.nodes {
        if let Some(reason) = by_name(node) {
            found.add(node, reason);
        }
    }
    for at in host_nodes(flat).into_iter().skip(HOST_NODES_MAX) {
        found.add(&flat.nodes[at], format!("more than {HOST_NODES_MAX} operators of the model run on the host"));
    }
    let work = dry_run(graph, devices, &mut found);
    (found.0.into_values().collect(), work)
}

/// Most operators of a model that run on the host between two plans.
///
/// Each is a way from the device to the host and back, and a plan of its own that knows the whole graph's values: detectors have
/// a handful, and a file of thousands would load for minutes.
const HOST_NODES_MAX: usize = 256;

/// By domain, operator, opset and reason.
#[derive(Default)]
struct Found(BTreeMap<(String, String, i64, String), UnsupportedOperator>);

impl Found {
    fn add(&mut self, node: &Node, reason: String) {
        let domain = if node.domain.is_empty() { "ai.onnx" } else { &node.domain };
        let key = (domain.to_owned(), node.op.clone(), node.opset, reason.clone());
        let entry = self.0.entry(key).or_insert_with(|| UnsupportedOperator {
            operator: node.op.clone(),
            domain: domain.to_owned(),
            opset: node.opset,
            count: 0,
            first_node: node.name.clone(),
            reason,
        });
        entry.count += 1;
    }
}

/// Returns the reason for which a node cannot run whatever its inputs are.
fn by_name(node: &Node) -> Option<String> {
    if node.domain == OWN_DOMAIN {
        return None;
    }
    if node.domain.is_empty() {
        match node.op.as_str() {
            "If" => return Some("its branches do not fit it".into()),
            "Scan" if node.opset < 9 => {
                return Some("its input sequence_lens, of operator set 8: leave it out, or convert the model".into());
            }
            "Loop" | "Scan" => return Some("its body does not fit it".into()),
            _ => {}
        }
    }
    if node.domain == "ai.onnx.ml" && node.op == "ZipMap" {
        return Some(
            "its answer is a list of maps, which no request carries: convert the model with zipmap=False".into(),
        );
    }
    if rule(node).is_none() {
        return Some("this engine does not have the operator".into());
    }
    let [first, last] = row(&node.domain, &node.op)?.opsets;
    let known = (first..=last).contains(&node.opset);
    (!known).then(|| format!("operator set {} is outside those this engine knows, {first} to {last}", node.opset))
}

/// Kernels of software adapters refuse nothing that others run; no size here depends on the device.
const SOFTWARE: Tuning = Tuning {
    workgroup_tiles: false,
    vector_of_eight: false,
    integer_dot: false,
    invocations_max: 256,
    rounds_max: u64::MAX,
    part_words: part_words(BINDING_BYTES_MAX),
};

/// Kinds of devices that kernels are made for.
const DEVICES: [Tuning; 3] = [
    SOFTWARE,
    Tuning { vector_of_eight: true, ..SOFTWARE },
    Tuning { workgroup_tiles: true, integer_dot: true, ..SOFTWARE },
];

/// Infers and lowers every node as far as that goes, without a device; gives the work of the launches.
fn dry_run(graph: &Graph, devices: &[Tuning], found: &mut Found) -> u64 {
    let guess = best(graph);
    let mut refused: BTreeMap<usize, String> = BTreeMap::new();
    for &at in &guess.surely {
        refused.insert(at, guess.refused.get(&at).map(ToString::to_string).unwrap_or_default());
    }
    let open = is_open(graph);
    let mut unsure: BTreeMap<usize, String> = BTreeMap::new();
    let host_nodes = host_nodes(&guess.graph);
    let mut work = 0;
    for (kind, &tuning) in devices.iter().enumerate() {
        // Packing may refuse a constant; once is enough, and the plan of a load does it anyway.
        let (mut weights, mut known) = match kind {
            0 if devices.len() > 1 => (WeightPool::default(), WeightPool::default()),
            _ => (WeightPool::dry(), WeightPool::dry()),
        };
        let mut lowering = Lowering::new(&guess.graph, &guess.infos, tuning, &mut weights, &mut known);
        for (at, node) in guess.graph.nodes.iter().enumerate() {
            let lowers = !host_nodes.contains(&at) && rule(node).is_some() && !guess.refused.contains_key(&at);
            if !lowers || !guess.knows(node) {
                continue;
            }
            if let Err(error) = lowering.node(at, crate::ops::lower) {
                let from_sizes = open && matches!(error, OpError::Invalid(_) | OpError::TooLarge(_));
                if from_sizes { &mut unsure } else { &mut refused }.entry(at).or_insert_with(|| error.to_string());
            }
        }
        let dispatches = &lowering.dispatches;
        if devices.len() > 1 {
            for dispatch in dispatches {
                if let Some(fault) = kernels::fault(dispatch, tuning.part_words) {
                    refused.entry(dispatch.node).or_insert(fault);
                }
            }
        }
        // Of larger sizes than the least a request may know better.
        if kind == 0 && guess.inputs == ValueInfos::declared_inputs(graph) {
            work = dispatches.iter().fold(0, |work: u64, dispatch| work.saturating_add(dispatch.effort.work));
        }
    }
    // A fusion relies on the sizes that the passes assume; under other sizes its shapes say nothing of the model.
    unsure.retain(|at, _why| guess.graph.nodes[*at].domain != OWN_DOMAIN);
    if !unsure.is_empty() {
        let others = others(graph, &guess);
        refused.extend(
            unsure.into_iter().filter(|(at, _why)| !others.iter().any(|other| lowers(other, &guess.graph.nodes[*at]))),
        );
    }
    for (at, reason) in refused.into_iter().filter(|(at, _reason)| !host_nodes.contains(at)) {
        let node = &guess.graph.nodes[at];
        if by_name(node).is_none() {
            found.add(node, reason);
        }
    }
    work
}

/// Returns whether a node can be lowered under a guess.
fn lowers(guess: &Guess, node: &Node) -> bool {
    let Some(at) = guess.position(node).filter(|&at| guess.knows(&guess.graph.nodes[at])) else { return false };
    let (mut weights, mut known) = (WeightPool::dry(), WeightPool::dry());
    Lowering::new(&guess.graph, &guess.infos, SOFTWARE, &mut weights, &mut known).node(at, crate::ops::lower).is_ok()
}
