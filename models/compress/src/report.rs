//! What a pass did to a model.

use serde::Serialize;

/// What a pass did, what it left alone, and why.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Report {
    /// The pass, like `int8-qdq`.
    pub pass: String,
    /// Names of the nodes (as they were in the model given) that were changed.
    pub changed: Vec<String>,
    /// Nodes that the pass is made for and left alone.
    pub skipped: Vec<Skipped>,
    /// Anything else its reader should know, one sentence each.
    pub notes: Vec<String>,
}

/// A node that a pass left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Name in the model.
    pub node: String,
    /// Its operator, with the domain unless it is the default one.
    pub operator: String,
    /// Reason, in one clause.
    pub reason: String,
}

impl Report {
    /// Beginning of the note that passes do not look into subgraphs.
    pub(crate) const SUBGRAPHS: &str = "the subgraphs of";

    /// An empty report of the pass.
    #[must_use]
    pub fn of(pass: &str) -> Self {
        Self { pass: pass.to_owned(), ..Self::default() }
    }

    /// Notes that passes do not look into subgraphs, when there are any.
    pub(crate) fn tell_of_subgraphs(&mut self, graph: &onnx_graph::Graph) {
        let holding = graph.nodes.iter().filter(|node| onnx_graph::subgraphs(node).next().is_some()).count();
        if holding > 0 {
            self.notes.push(format!("{} {holding} nodes (If, Loop, Scan) were left as they are", Self::SUBGRAPHS));
        }
    }

    /// Notes a node left alone.
    pub fn skip(&mut self, node: &onnx_graph::proto::NodeProto, reason: impl Into<String>) {
        let operator = match node.domain() {
            "" | "ai.onnx" => node.op_type().to_owned(),
            domain => format!("{domain}.{}", node.op_type()),
        };
        self.skipped.push(Skipped { node: node.name().to_owned(), operator, reason: reason.into() });
    }
}
