//! Products whose results are read by a logarithm: 8 bits are too few for them.
//!
//! A front end for sound multiplies power spectra, whose values span ten decades, by a table of filters and takes the logarithm.
//! One scale for all values rounds the small ones to zero, and their logarithm is then wrong by as much as it can be. Both int8
//! passes leave these products in float; the tables are small.

use std::collections::BTreeSet;

use onnx_graph::proto::NodeProto;
use onnx_graph::{Graph, Uses};

/// Reason why a product stays in float.
pub(crate) const REASON: &str = "a logarithm reads its result: 8 bits would round its small values to zero";

/// Operators that leave the ratio of a small value to a large one as it is, or only bound it.
const KEEPS_RATIOS: [&str; 15] = [
    "Abs",
    "Add",
    "Cast",
    "Clip",
    "Flatten",
    "Identity",
    "Max",
    "Mul",
    "Relu",
    "Reshape",
    "Slice",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
];

/// Operators that multiply by weights.
const PRODUCTS: [&str; 3] = ["Conv", "Gemm", "MatMul"];

/// Returns the places of the products that lead to a logarithm through nothing but operators that keep ratios.
pub(crate) fn products_before(graph: &Graph, uses: &Uses) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let logarithms = graph.nodes.iter().filter(|node| node.is("Log"));
    let mut pending: Vec<&str> = logarithms.filter_map(|node| node.input_at(0)).collect();
    let mut seen: BTreeSet<&str> = pending.iter().copied().collect();
    while let Some(value) = pending.pop() {
        let Some((place, node)) = uses.producer(value).and_then(|place| Some((place, graph.nodes.get(place)?))) else {
            continue;
        };
        let is_one_of = |operators: &[&str]| operators.iter().any(|operator| node.is(operator));
        if is_one_of(&PRODUCTS) {
            found.insert(place);
        } else if is_one_of(&KEEPS_RATIOS) {
            pending.extend(inputs(node).filter(|input| seen.insert(input)));
        }
    }
    found
}

fn inputs(node: &NodeProto) -> impl Iterator<Item = &str> {
    node.input.iter().map(String::as_str).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(nodes: &[(&str, &[&str], &str)]) -> Vec<usize> {
        let nodes = nodes.iter().map(|(operator, inputs, output)| NodeProto::new(operator, output, inputs, &[output]));
        let graph = Graph { nodes: nodes.collect(), ..Graph::default() };
        products_before(&graph, &Uses::of(&graph)).into_iter().collect()
    }

    #[test]
    fn a_product_before_a_logarithm_is_found_and_those_before_it_are_not() {
        let front_end: [(&str, &[&str], &str); 6] = [
            ("Conv", &["x", "k"], "wave"),
            ("Pow", &["wave", "two"], "power"),
            ("MatMul", &["power", "filters"], "mel"),
            ("Clip", &["mel", "least"], "kept"),
            ("Transpose", &["kept"], "turned"),
            ("Log", &["turned"], "y"),
        ];
        assert_eq!(found(&front_end), [2]);
        assert_eq!(found(&[("Conv", &["x", "k"], "c"), ("Add", &["c", "e"], "a"), ("Log", &["a"], "y")]), [0]);
        // What softmax makes is a share again, whatever went in.
        assert!(found(&[("Gemm", &["x", "w"], "g"), ("Softmax", &["g"], "s"), ("Log", &["s"], "y")]).is_empty());
        // A circle ends the walk too.
        assert!(found(&[("Add", &["b", "x"], "a"), ("Add", &["a", "x"], "b"), ("Log", &["b"], "y")]).is_empty());
    }
}
