//! Takes out of a graph what a pass left without use.

use onnx_graph::{Graph, Uses};

/// Removes nodes and initializers that no output of the graph depends on.
pub(crate) fn sweep(graph: &mut Graph) {
    let uses = Uses::of(graph);
    // Nodes are in order, so a node's takers are decided before it; one out of order stays.
    let mut kept = vec![true; graph.nodes.len()];
    let needed = |name: &str, kept: &[bool]| {
        graph.is_output(name) || uses.consumers(name).iter().any(|&place| kept.get(place) == Some(&true))
    };
    for (place, node) in graph.nodes.iter().enumerate().rev() {
        let alive = node.output.is_empty() || node.output.iter().any(|output| needed(output, &kept));
        kept[place] = alive;
    }
    let sparing: Vec<bool> = graph.initializers.keys().map(|name| needed(name, &kept)).collect();
    let mut keep = sparing.into_iter();
    graph.initializers.retain(|_name, _tensor| keep.next().unwrap_or(true));
    let mut keep = kept.into_iter();
    graph.nodes.retain(|_node| keep.next().unwrap_or(true));
    let uses = Uses::of(graph);
    let outputs: Vec<String> = graph.outputs.iter().map(|output| output.name().to_owned()).collect();
    graph.value_info.retain(|name, _info| {
        uses.producer(name).is_some() || outputs.contains(name) || !uses.consumers(name).is_empty()
    });
}
