//! Names for all nodes of a model: selections and reports go by them.

use std::collections::HashSet;

use onnx_graph::{Model, Names};

/// Names nodes that have no name, or that of an earlier node, after their first output, as exporters do.
pub(super) fn name_nodes(model: &mut Model) {
    let mut names = Names::of(&model.graph);
    let mut seen: HashSet<String> = HashSet::new();
    for node in &mut model.graph.nodes {
        if !node.name().is_empty() && seen.insert(node.name().to_owned()) {
            continue;
        }
        let output = node.output.first().map_or("", String::as_str);
        let name = names.fresh(&format!("{}_{output}", node.op_type()));
        seen.insert(name.clone());
        node.name = Some(name);
    }
}

#[cfg(test)]
mod tests {
    use onnx_graph::Graph;
    use onnx_graph::proto::{ModelProto, NodeProto};

    use super::*;

    #[test]
    fn every_node_gets_a_name_of_its_own_and_keeps_a_good_one() {
        let node = |name: &str, from: &str, to: &str| NodeProto::new("Relu", name, &[from], &[to]);
        let graph = Graph {
            nodes: vec![node("", "x", "a"), node("same", "a", "b"), node("same", "b", "c"), node("", "c", "d")],
            ..Graph::default()
        };
        let mut model = Model { graph, rest: ModelProto::default() };
        name_nodes(&mut model);
        let names: Vec<&str> = model.graph.nodes.iter().map(|node| node.name()).collect();
        assert_eq!(names, ["Relu_a", "same", "Relu_c", "Relu_d"]);
    }
}
