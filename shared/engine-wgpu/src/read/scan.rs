//! `Scan` before operator set 9, which goes over sequences of a batch: read as a `Scan` over the batch around one over a sequence.

use crate::ir::{Attribute, Attributes, Graph, Node, Value};

/// First operator set of `Scan` without a batch of its own.
const OPSET_MIN: i64 = 9;

/// Returns an older `Scan` as two of today's, one inside the other; any other node as it is.
///
/// One with lengths of its own stays what it is, and is refused by the check.
pub(super) fn without_batch(node: Node) -> Node {
    if !node.is("Scan") || node.opset >= OPSET_MIN {
        return node;
    }
    let Some(outer) = each_sequence(&node) else { return node };
    let sequences = i64::try_from(outer.inputs.len() - outer.captured).unwrap_or(i64::MAX);
    let attributes = Attributes::default()
        .with("body", Attribute::Graph(Box::new(outer)))
        .with("num_scan_inputs", Attribute::Int(sequences));
    // The first input is that of the lengths, which are not given.
    let inputs = node.inputs.get(1..).unwrap_or_default().to_vec();
    Node { opset: OPSET_MIN, inputs, attributes, ..node }
}

/// The body of the `Scan` over the batch: one sequence, with its own states.
fn each_sequence(node: &Node) -> Option<Graph> {
    let Some(Attribute::Graph(body)) = node.attributes.find("body") else { return None };
    if node.input(0).is_some() || node.inputs.len() != body.inputs.len() + 1 {
        return None;
    }
    let mut attributes = Attributes::default()
        .with("body", Attribute::Graph(body.clone()))
        .with("num_scan_inputs", Attribute::Int(node.attributes.int("num_scan_inputs", 0).ok()?));
    if let Some(directions) = node.attributes.ints("directions").ok()? {
        attributes.insert("scan_input_directions", Attribute::Ints(directions.to_vec()));
    }
    let mut outer = Graph::default();
    outer.captured = body.captured;
    let fresh = |outer: &mut Graph, name: &str| outer.add_value(Value { name: name.to_owned(), declared: None });
    outer.inputs = body.inputs.iter().map(|&id| fresh(&mut outer, &body.value(id).name)).collect();
    outer.outputs = body.outputs.iter().map(|&id| fresh(&mut outer, &body.value(id).name)).collect();
    let inner = Node {
        opset: OPSET_MIN,
        inputs: outer.inputs.iter().copied().map(Some).collect(),
        outputs: outer.outputs.iter().copied().map(Some).collect(),
        attributes,
        ..node.clone()
    };
    outer.nodes.push(inner);
    Some(outer)
}
