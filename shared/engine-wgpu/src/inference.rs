//! Facts of every value of a graph, node by node: each operator's rule tells what its outputs are.
//!
//! Shape-computing subgraphs (`Shape` → `Gather` → `Concat` → …) are never run on the device: their values are known here, by
//! [`evaluate`], before a plan is made.

use crate::error::{ModelError, OpError};
use crate::facts::{Fact, Facts, IMAGINED_BYTES_MAX, INPUT, Inputs, Islands, TENSOR_BYTES_MAX, check_size};
use crate::ir::{Graph, Literal, Node};
use crate::ops::registry::{infer, rule};
use crate::ops::rule::Run;

/// Most elements a value may have to be computed on the host while planning.
///
/// Shapes, axes, pads and position tables are far below; weights were folded at load and are constants already.
const KNOWN_ELEMENTS_MAX: usize = 64 * 1024;

/// Computes a node whose inputs are all known; `None` where the host does not do this operator.
///
/// # Errors
/// When the operator refuses its inputs.
pub fn evaluate(node: &Node, inputs: &[Option<&Literal>]) -> Result<Option<Vec<Literal>>, OpError> {
    let host = rule(node).and_then(|rule| rule.host);
    host.map(|evaluate| evaluate(node, inputs)).transpose()
}

impl Facts {
    /// Walks the graph from the facts of its inputs.
    ///
    /// # Errors
    /// [`ModelError::Node`] for the first node whose rule refuses its inputs.
    pub fn infer(graph: &Graph, inputs: &[Fact]) -> Result<Self, ModelError> {
        let mut facts = Self(vec![None; graph.value_count()]);
        for (&id, literal) in &graph.constants {
            facts.0[id.index()] = Some(Fact::known(literal.clone()));
        }
        for (&id, fact) in graph.inputs.iter().zip(inputs) {
            check_size(fact, TENSOR_BYTES_MAX).map_err(|source| ModelError::Node {
                node: graph.value(id).name.clone(),
                operator: INPUT.into(),
                source,
            })?;
            facts.0[id.index()] = Some(fact.clone());
        }
        for node in &graph.nodes {
            let outputs = facts
                .of_node(node, Islands::Refused, TENSOR_BYTES_MAX)
                .map_err(|source| ModelError::Node { node: node.name.clone(), operator: node.op.clone(), source })?;
            for (id, fact) in node.outputs.iter().zip(outputs) {
                if let Some(id) = id {
                    facts.0[id.index()] = Some(fact);
                }
            }
        }
        Ok(facts)
    }

    /// Walks as far as it goes: what a rule refuses, and what comes after it, stays unknown.
    ///
    /// Also gives the positions of the nodes whose rule refused, and why.
    pub(crate) fn infer_leniently(
        graph: &Graph,
        inputs: &[Option<Fact>],
        islands: Islands,
    ) -> (Self, Vec<(usize, OpError)>) {
        Self::walk(graph, inputs, islands, TENSOR_BYTES_MAX)
    }

    /// The same for sizes that stand for others: what they come to may be larger than anything that is ever made.
    pub(crate) fn imagine(graph: &Graph, inputs: &[Option<Fact>]) -> Self {
        Self::walk(graph, inputs, Islands::Refused, IMAGINED_BYTES_MAX).0
    }

    fn walk(
        graph: &Graph,
        inputs: &[Option<Fact>],
        islands: Islands,
        bytes_max: usize,
    ) -> (Self, Vec<(usize, OpError)>) {
        let mut facts = Self(vec![None; graph.value_count()]);
        let mut refused = Vec::new();
        for (&id, literal) in &graph.constants {
            facts.0[id.index()] = Some(Fact::known(literal.clone()));
        }
        for (&id, fact) in graph.inputs.iter().zip(inputs) {
            facts.0[id.index()] = fact.clone().filter(|fact| check_size(fact, bytes_max).is_ok());
        }
        for (at, node) in graph.nodes.iter().enumerate() {
            if node.inputs.iter().flatten().any(|id| facts.0[id.index()].is_none()) {
                continue;
            }
            match facts.of_node(node, islands, bytes_max) {
                Ok(outputs) => {
                    for (id, fact) in node.outputs.iter().zip(outputs) {
                        if let Some(id) = id {
                            facts.0[id.index()] = Some(fact);
                        }
                    }
                }
                Err(error) => refused.push((at, error)),
            }
        }
        (facts, refused)
    }

    fn of_node(&self, node: &Node, islands: Islands, bytes_max: usize) -> Result<Vec<Fact>, OpError> {
        let inputs: Vec<Option<&Fact>> =
            node.inputs.iter().map(|id| id.and_then(|id| self.0[id.index()].as_ref())).collect();
        let inputs = Inputs(&inputs);
        let mut outputs = infer(node, inputs)?;
        for fact in &outputs {
            check_size(fact, bytes_max)?;
        }
        let small = outputs.iter().all(|fact| fact.elements() <= KNOWN_ELEMENTS_MAX);
        let unknown = outputs.iter().any(|fact| fact.known.is_none());
        let inputs_known: Option<Vec<Option<&Literal>>> =
            (inputs.0.iter()).map(|input| input.map_or(Some(None), |fact| fact.known.as_ref().map(Some))).collect();
        if small
            && unknown
            && let Some(literals) = inputs_known
            && let Some(values) = evaluate(node, &literals)?
        {
            outputs = values.into_iter().map(Fact::known).collect();
        }
        let island = rule(node).is_some_and(|rule| matches!(rule.run, Run::Island));
        if island && islands == Islands::Refused && outputs.iter().any(|fact| fact.known.is_none()) {
            return Err(OpError::unsupported(
                "the shape of its output depends on the data, and it stands where no cut is possible",
            ));
        }
        Ok(outputs)
    }
}
