//! Joins a transposition of a transposition into one; that one may turn out to do nothing.

use crate::ir::{Attribute, Graph, Node};

/// Joins pairs of `Transpose`.
pub(super) fn join(graph: &mut Graph) -> bool {
    let producers = graph.producers();
    let mut changed = false;
    for at in 0..graph.nodes.len() {
        let Some(second) = order(&graph.nodes[at]) else { continue };
        let Some(middle) = graph.nodes[at].input(0) else { continue };
        let first = producers[middle.index()].map(|before| &graph.nodes[before]);
        let Some((first, input)) = first.and_then(|node| Some((order(node)?, node.input(0)?))) else { continue };
        let joined: Option<Vec<i64>> =
            second.iter().map(|&at| first.get(at).and_then(|&at| i64::try_from(at).ok())).collect();
        let Some(joined) = joined.filter(|joined| joined.len() == first.len()) else { continue };
        let node = &mut graph.nodes[at];
        node.inputs[0] = Some(input);
        node.attributes.insert("perm", Attribute::Ints(joined));
        changed = true;
    }
    changed
}

/// The order of a transposition that states it.
pub(super) fn order(node: &Node) -> Option<Vec<usize>> {
    let Some(Attribute::Ints(order)) = node.attributes.find("perm").filter(|_found| node.is("Transpose")) else {
        return None;
    };
    let order: Vec<usize> = order.iter().map(|&at| usize::try_from(at).ok()).collect::<Option<_>>()?;
    // Only a lawful one: the others are refused with their own name.
    (0..order.len()).all(|at| order.contains(&at)).then_some(order)
}
