//! Rewrites a graph into one that answers the same with less work: constants folded, do-nothing operators removed,
//! operators fused.
//!
//! Fed by [`crate::engine`] with a graph fresh from [`crate::read`]. A pass never fails: what it does not understand it
//! leaves alone, and the plan says what is wrong with it, by the node's own name.

pub(crate) mod branches;
mod fold;
mod fuse_attention;
mod fuse_batch_norm;
mod fuse_chain;
mod fuse_epilogue;
mod fuse_norm;
mod fuse_quantized;
mod fuse_weights;
mod identity;
pub(crate) mod pattern;
mod transpose;

use crate::ir::{ElementType, Graph, Node, ValueId};
use crate::value_info::{DataDependent, ValueInfo, ValueInfos};

/// One rewriting step over a whole graph; answers whether it changed anything.
type Pass = fn(&mut Graph) -> bool;

/// The passes in order, cleaning up before fusing. A new pass is one line here.
const PASSES: &[Pass] = &[
    fold::constants,
    fold::settled,
    branches::inline,
    identity::remove,
    transpose::join,
    fuse_quantized::sink,
    fuse_quantized::sandwich,
    fuse_quantized::floating,
    fuse_weights::keep_packed,
    fuse_epilogue::scale_integers,
    fuse_batch_norm::fold,
    fuse_norm::recognise,
    fuse_attention::fuse,
    fuse_epilogue::fuse,
];

/// Most rounds over all passes.
///
/// Each round feeds the next only through rare chains (a branch inlined, folded, inlined again); models settle in two or
/// three, and a pair of passes that undo each other must not hang a device.
const ROUNDS_MAX: usize = 16;

/// Rewrites until nothing changes, or long enough.
pub fn rewrite(graph: &mut Graph) {
    settle(graph);
    // Only when no fusion wants a weight in its quantized form any more is it turned into floats.
    if fuse_quantized::leftovers(graph) {
        settle(graph);
    }
    // Last, because nothing else recognises an operator inside a chain.
    if fuse_chain::fuse(graph) {
        graph.remove_dead();
    }
    branches::rewrite_inner(graph);
}

fn settle(graph: &mut Graph) {
    graph.remove_dead();
    for _round in 0..ROUNDS_MAX {
        let mut changed = false;
        for pass in PASSES {
            changed |= pass(graph);
        }
        graph.remove_dead();
        if !changed {
            return;
        }
    }
    tracing::warn!(rounds = ROUNDS_MAX, "a graph still changed after the last rewriting round");
}

/// Returns the infos of each value without a request, with every symbolic dimension taken as 1.
///
/// Good for element types and ranks; a size of 1 may be a symbol. `None` where a rule refused its inputs.
pub(crate) fn assumed_infos(graph: &Graph) -> Vec<Option<ValueInfo>> {
    ValueInfos::infer_leniently(graph, &ValueInfos::declared_inputs(graph), DataDependent::Assumed).0.into_vec()
}

/// The element type of each value, where it can be told without a request.
pub(crate) fn element_types(graph: &Graph) -> Vec<Option<ElementType>> {
    assumed_infos(graph).into_iter().map(|info| info.map(|info| info.dtype)).collect()
}

/// Makes every reader of one value read another.
pub(crate) fn replace_uses(graph: &mut Graph, old: ValueId, new: ValueId) {
    for id in graph.nodes.iter_mut().flat_map(|node| node.inputs.iter_mut()).flatten() {
        if *id == old {
            *id = new;
        }
    }
}

/// Takes a node that only hands `input` on as `output` out of use; answers whether that was possible.
///
/// The node itself becomes dead, or stays where both its ends have names that a request knows.
pub(crate) fn bypass(graph: &mut Graph, at: usize, input: ValueId, output: ValueId) -> bool {
    if !graph.outputs.contains(&output) {
        replace_uses(graph, output, input);
        return true;
    }
    // The name of an output is a promise: whoever computes the input must compute the output instead.
    let producer = graph.nodes.iter().position(|node| node.outputs.contains(&Some(input)));
    let Some(producer) = producer.filter(|_found| !graph.outputs.contains(&input)) else { return false };
    let rename = |node: &mut Node| {
        for id in node.outputs.iter_mut().flatten().filter(|id| **id == input) {
            *id = output;
        }
    };
    graph.nodes[at].outputs.iter_mut().for_each(|id| *id = None);
    rename(&mut graph.nodes[producer]);
    replace_uses(graph, input, output);
    true
}
