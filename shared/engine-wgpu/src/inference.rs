//! ValueInfos of every value of a graph, node by node: each operator's rule tells what its outputs are.
//!
//! Shape-computing subgraphs (`Shape` → `Gather` → `Concat` → …) are never run on the device: their values are known here, by
//! [`evaluate`], before a plan is made.

use crate::error::{ModelError, OpError};
use crate::ir::{Graph, Literal, Node};
use crate::ops::registry::{infer, rule};
use crate::ops::rule::Run;
use crate::value_info::{
    DataDependent, IMAGINED_BYTES_MAX, INPUT, Inputs, TENSOR_BYTES_MAX, ValueInfo, ValueInfos, check_size,
};

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

impl ValueInfos {
    /// Walks the graph from the infos of its inputs.
    ///
    /// # Errors
    /// [`ModelError::Node`] for the first node whose rule refuses its inputs.
    pub fn infer(graph: &Graph, inputs: &[ValueInfo]) -> Result<Self, ModelError> {
        let mut infos = Self(vec![None; graph.value_count()]);
        for (&id, literal) in &graph.constants {
            infos.0[id.index()] = Some(ValueInfo::known(literal.clone()));
        }
        for (&id, info) in graph.inputs.iter().zip(inputs) {
            check_size(info, TENSOR_BYTES_MAX).map_err(|source| ModelError::Node {
                node: graph.value(id).name.clone(),
                operator: INPUT.into(),
                source,
            })?;
            infos.0[id.index()] = Some(info.clone());
        }
        for node in &graph.nodes {
            let outputs = infos
                .of_node(node, DataDependent::Refused, TENSOR_BYTES_MAX)
                .map_err(|source| ModelError::Node { node: node.name.clone(), operator: node.op.clone(), source })?;
            for (id, info) in node.outputs.iter().zip(outputs) {
                if let Some(id) = id {
                    infos.0[id.index()] = Some(info);
                }
            }
        }
        Ok(infos)
    }

    /// Walks as far as it goes: what a rule refuses, and what comes after it, stays unknown.
    ///
    /// Also gives the positions of the nodes whose rule refused, and why.
    pub(crate) fn infer_leniently(
        graph: &Graph,
        inputs: &[Option<ValueInfo>],
        host_nodes: DataDependent,
    ) -> (Self, Vec<(usize, OpError)>) {
        Self::walk(graph, inputs, host_nodes, TENSOR_BYTES_MAX)
    }

    /// The same for sizes that stand for others: what they come to may be larger than anything that is ever made.
    pub(crate) fn imagine(graph: &Graph, inputs: &[Option<ValueInfo>]) -> Self {
        Self::walk(graph, inputs, DataDependent::Refused, IMAGINED_BYTES_MAX).0
    }

    fn walk(
        graph: &Graph,
        inputs: &[Option<ValueInfo>],
        host_nodes: DataDependent,
        bytes_max: usize,
    ) -> (Self, Vec<(usize, OpError)>) {
        let mut infos = Self(vec![None; graph.value_count()]);
        let mut refused = Vec::new();
        for (&id, literal) in &graph.constants {
            infos.0[id.index()] = Some(ValueInfo::known(literal.clone()));
        }
        for (&id, info) in graph.inputs.iter().zip(inputs) {
            infos.0[id.index()] = info.clone().filter(|info| check_size(info, bytes_max).is_ok());
        }
        for (at, node) in graph.nodes.iter().enumerate() {
            if node.inputs.iter().flatten().any(|id| infos.0[id.index()].is_none()) {
                continue;
            }
            match infos.of_node(node, host_nodes, bytes_max) {
                Ok(outputs) => {
                    for (id, info) in node.outputs.iter().zip(outputs) {
                        if let Some(id) = id {
                            infos.0[id.index()] = Some(info);
                        }
                    }
                }
                Err(error) => refused.push((at, error)),
            }
        }
        (infos, refused)
    }

    fn of_node(&self, node: &Node, host_nodes: DataDependent, bytes_max: usize) -> Result<Vec<ValueInfo>, OpError> {
        let inputs: Vec<Option<&ValueInfo>> =
            node.inputs.iter().map(|id| id.and_then(|id| self.0[id.index()].as_ref())).collect();
        let inputs = Inputs(&inputs);
        let mut outputs = infer(node, inputs)?;
        for info in &outputs {
            check_size(info, bytes_max)?;
        }
        let small = outputs.iter().all(|info| info.elements() <= KNOWN_ELEMENTS_MAX);
        let unknown = outputs.iter().any(|info| info.known.is_none());
        let inputs_known: Option<Vec<Option<&Literal>>> =
            (inputs.0.iter()).map(|input| input.map_or(Some(None), |info| info.known.as_ref().map(Some))).collect();
        if small
            && unknown
            && let Some(literals) = inputs_known
            && let Some(values) = evaluate(node, &literals)?
        {
            outputs = values.into_iter().map(ValueInfo::known).collect();
        }
        let host_node = rule(node).is_some_and(|rule| matches!(rule.run, Run::HostNode));
        if host_node && host_nodes == DataDependent::Refused && outputs.iter().any(|info| info.known.is_none()) {
            return Err(OpError::unsupported(
                "the shape of its output depends on the data, and it stands where no cut is possible",
            ));
        }
        Ok(outputs)
    }
}
