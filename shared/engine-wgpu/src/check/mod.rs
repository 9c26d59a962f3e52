//! Says whether a model can run on this engine, and if not, everything that stands in the way.
//!
//! Needs no device: the hub asks before it offers a variant, the agent before it chooses an engine, and
//! [`crate::WgpuEngine`] when a load has failed, with the same code.

mod table;

use std::collections::BTreeMap;

use serde::Serialize;
pub use table::{OPS_TOML, Row, Runs, row, rows};
use types::Dim;

use crate::error::{ModelError, OpError, UnsupportedOperator};
use crate::facts::{Facts, Islands};
use crate::gpu::BINDING_BYTES_MAX;
use crate::ir::{Graph, Node, OWN_DOMAIN};
use crate::lower::{Lowering, Tuning, WeightPool, part_words};
use crate::ops::rule;
use crate::passes::rewrite;
use crate::segments::{Island, describe, flattened, islands};

/// What a model asks of this engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelReport {
    /// Nodes in the file.
    pub nodes: usize,
    /// Nodes that are left after rewriting.
    pub nodes_rewritten: usize,
    /// Bytes of constants that are left after rewriting.
    pub constant_bytes: u64,
    /// Operators that run on the host between plans; each costs a way from the device and back.
    pub islands: Vec<Island>,
    /// Every operator, by form, that this engine does not run. Empty means that the model can be loaded.
    pub unsupported: Vec<UnsupportedOperator>,
    /// Elementary operations of one inference at the declared shapes, open sizes taken as 1.
    pub work: u64,
}

/// Elementary operations a second that no device does: the fastest graphics card of 2026 does 105 in single precision.
pub const OPERATIONS_PER_SECOND_MAX: u64 = 200_000_000_000_000;

impl ModelReport {
    /// Whether nothing stands in the way.
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

/// Looks at a model that was pre-checked already, without a device.
///
/// Symbolic sizes are taken as 1: that a request's sizes contradict a node shows only at the request.
///
/// # Errors
/// [`ModelError::Malformed`] when it cannot be read at all.
pub fn check(model: &[u8]) -> Result<ModelReport, ModelError> {
    let mut graph = crate::read::read(model)?;
    let nodes = graph.nodes.len();
    rewrite(&mut graph);
    let constant_bytes = graph.constants.values().map(|literal| literal.bytes().len() as u64).sum();
    let (unsupported, work) = judged(&graph);
    Ok(ModelReport {
        nodes,
        nodes_rewritten: graph.nodes.len(),
        constant_bytes,
        islands: describe(&graph),
        unsupported,
        work,
    })
}

/// Everything in a rewritten graph that this engine does not run.
pub(crate) fn unsupported(graph: &Graph) -> Vec<UnsupportedOperator> {
    judged(graph).0
}

/// Everything in a rewritten graph that this engine does not run, and the work of what it does run.
fn judged(graph: &Graph) -> (Vec<UnsupportedOperator>, u64) {
    let graph = &flattened(graph);
    let mut found = Found::default();
    for node in &graph.nodes {
        if let Some(reason) = by_name(node) {
            found.add(node, reason);
        }
    }
    for at in islands(graph).into_iter().skip(ISLANDS_MAX) {
        found.add(&graph.nodes[at], format!("more than {ISLANDS_MAX} operators of the model run on the host"));
    }
    let work = dry_run(graph, &mut found);
    (found.0.into_values().collect(), work)
}

/// Whether some operator is refused by its name or version alone, or there are too many islands.
pub(crate) fn refused_by_name(graph: &Graph) -> bool {
    let flat = flattened(graph);
    flat.nodes.iter().any(|node| by_name(node).is_some()) || islands(&flat).len() > ISLANDS_MAX
}

/// Most operators of a model that run on the host between two plans.
///
/// Each is a way from the device to the host and back, and a plan of its own that knows the whole graph's values: detectors have
/// a handful, and a file of thousands would load for minutes.
const ISLANDS_MAX: usize = 256;

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

/// Why a node cannot run whatever its inputs are.
fn by_name(node: &Node) -> Option<String> {
    if node.domain == OWN_DOMAIN {
        return None;
    }
    if node.domain.is_empty() {
        match node.op.as_str() {
            "If" => return Some("its branches do not fit it".into()),
            "Loop" | "Scan" => return Some("a device runs no loops over operators: export the model unrolled".into()),
            _ => {}
        }
    }
    if rule(node).is_none() {
        return Some("this engine does not have the operator".into());
    }
    let [first, last] = row(&node.domain, &node.op)?.opsets;
    let known = (first..=last).contains(&node.opset);
    (!known).then(|| format!("operator set {} is outside those this engine knows, {first} to {last}", node.opset))
}

/// Infers and lowers every node as far as that goes, without a device; gives the work of the launches.
fn dry_run(graph: &Graph, found: &mut Found) -> u64 {
    let fixed = |dim: &Dim| matches!(dim, Dim::Fixed(_));
    let symbolic = !graph.inputs.iter().all(|&id| match &graph.value(id).declared {
        Some((_dtype, Some(dims))) => dims.iter().all(fixed),
        Some((_, None)) | None => false,
    });
    let (facts, refused) = Facts::infer_leniently(graph, &Facts::declared_inputs(graph), Islands::Assumed);
    // Kernels of real GPUs refuse nothing that others run; no size here depends on the device.
    let tuning = Tuning {
        workgroup_tiles: false,
        vector_of_eight: false,
        integer_dot: false,
        invocations_max: 256,
        rounds_max: u64::MAX,
        part_words: part_words(BINDING_BYTES_MAX),
    };
    let (mut weights, mut known) = (WeightPool::default(), WeightPool::default());
    let mut lowering = Lowering::new(graph, &facts, tuning, &mut weights, &mut known);
    let mut refused: BTreeMap<usize, OpError> = refused.into_iter().collect();
    let islands = islands(graph);
    for (at, node) in graph.nodes.iter().enumerate() {
        let mut ends = node.inputs.iter().chain(&node.outputs).flatten();
        if !islands.contains(&at)
            && rule(node).is_some()
            && !refused.contains_key(&at)
            && ends.all(|&id| facts.find(id).is_some())
            && let Err(error) = lowering.node(at)
        {
            refused.insert(at, error);
        }
    }
    let work = lowering.dispatches.iter().fold(0, |work: u64, dispatch| work.saturating_add(dispatch.effort.work));
    for (at, error) in refused.into_iter().filter(|(at, _error)| !islands.contains(at)) {
        let node = &graph.nodes[at];
        let counts = match &error {
            OpError::Unsupported(_) | OpError::DataDependent(_) | OpError::Fault(_) => true,
            // May come from the assumed sizes.
            OpError::Attribute(_) | OpError::Invalid(_) | OpError::TooLarge(_) => !symbolic,
        };
        if counts && by_name(node).is_none() {
            found.add(node, error.to_string());
        }
    }
    work
}
