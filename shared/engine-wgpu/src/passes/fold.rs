//! Computes on the host, once, what no request can change.

use std::collections::BTreeSet;

use types::Dim;

use crate::ir::{Graph, Literal, Node};
use crate::value_info::{DataDependent, Inputs, TENSOR_BYTES_MAX, ValueInfo, ValueInfos, check_size};

/// Bytes that a folded value may always have.
const FOLDED_BYTES_FREE: usize = 256 * 1024;

/// Maximum ratio of a folded value's size to that of its inputs, beyond that.
///
/// Widened half-precision weights double; a tensor that grows more is cheaper to make on the device than to keep.
const FOLDED_GROWTH_MAX: usize = 2;

/// Operators that stay although their inputs are constants: weights are kept in 8 or 4 bits, and the fusions that compute
/// with them look for these.
const KEPT: [&str; 2] = ["DequantizeLinear", "QuantizeLinear"];

/// Replaces nodes whose inputs are all constants by their outputs.
pub(super) fn constants(graph: &mut Graph) -> bool {
    let mut folded = BTreeSet::new();
    for at in 0..graph.nodes.len() {
        let node = &graph.nodes[at];
        let Some(outputs) = evaluate(graph, node) else { continue };
        let places: Vec<_> = node.outputs.iter().copied().zip(outputs).collect();
        for (id, literal) in places {
            if let Some(id) = id {
                graph.constants.insert(id, literal);
            }
        }
        folded.insert(at);
    }
    remove(graph, &folded)
}

/// The outputs of a node that reads constants only, if they are worth keeping.
fn evaluate(graph: &Graph, node: &Node) -> Option<Vec<Literal>> {
    if KEPT.contains(&node.op.as_str()) {
        return None;
    }
    let inputs: Vec<Option<&Literal>> = node
        .inputs
        .iter()
        .map(|id| id.map_or(Some(None), |id| graph.constants.get(&id).map(Some)))
        .collect::<Option<_>>()?;
    let known: Vec<Option<ValueInfo>> =
        inputs.iter().map(|input| input.map(|literal| ValueInfo::known(literal.clone()))).collect();
    let known: Vec<Option<&ValueInfo>> = known.iter().map(Option::as_ref).collect();
    let infos = crate::ops::infer(node, Inputs(&known)).ok()?;
    let read: usize = inputs.iter().flatten().map(|literal| literal.bytes().len()).sum();
    for info in &infos {
        check_size(info, TENSOR_BYTES_MAX).ok()?;
        let bytes = info.dtype.bytes_of(info.elements())?;
        if bytes > FOLDED_BYTES_FREE && bytes > read.saturating_mul(FOLDED_GROWTH_MAX) && info.known.is_none() {
            return None;
        }
    }
    let wanted = node.outputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    let values = match infos.iter().map(|info| info.known.clone()).collect::<Option<Vec<Literal>>>() {
        Some(values) => values,
        None => crate::inference::evaluate(node, &inputs).ok().flatten()?,
    };
    (values.len() >= wanted).then_some(values)
}

/// Replaces the results of shape arithmetic by constants where every input has fixed sizes.
///
/// Integers and booleans only: floats that are known come from quantised weights, which must stay as they are.
pub(super) fn settled(graph: &mut Graph) -> bool {
    let fixed = |dim: &Dim| matches!(dim, Dim::Fixed(_));
    let all_fixed = graph.inputs.iter().all(|&id| match &graph.value(id).declared {
        Some((_dtype, Some(dims))) => dims.iter().all(fixed),
        Some((_, None)) | None => false,
    });
    if !all_fixed {
        return false;
    }
    let (infos, _refused) =
        ValueInfos::infer_leniently(graph, &ValueInfos::declared_inputs(graph), DataDependent::Refused);
    let mut settled = BTreeSet::new();
    for (at, node) in graph.nodes.iter().enumerate() {
        let outputs = node.outputs.iter().flatten();
        let known: Option<Vec<_>> = outputs
            .map(|&id| {
                let literal = infos.find(id)?.known.clone()?;
                (!literal.dtype().is_float()).then_some((id, literal))
            })
            .collect();
        if let Some(known) = known.filter(|_known| !KEPT.contains(&node.op.as_str())) {
            graph.constants.extend(known);
            settled.insert(at);
        }
    }
    remove(graph, &settled)
}

/// Drops the nodes at these positions.
fn remove(graph: &mut Graph, gone: &BTreeSet<usize>) -> bool {
    let mut at = 0;
    graph.nodes.retain(|_node| {
        at += 1;
        !gone.contains(&(at - 1))
    });
    !gone.is_empty()
}
