//! One graph, in the form that passes work on.

use indexmap::IndexMap;

use crate::proto::{GraphProto, NodeProto, TensorProto, ValueInfoProto};

/// The top graph of a model.
///
/// Nodes are in an order in which every value is made before it is used. Subgraphs stay inside the attributes of their
/// nodes; [`crate::Uses`] knows which outer values they take.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Graph {
    /// The nodes, in topological order.
    pub nodes: Vec<NodeProto>,
    /// Weights and other constants, by name. A tensor's own `name` is its key.
    pub initializers: IndexMap<String, TensorProto>,
    /// What a request supplies. Models of IR version 3 list their initializers here too; they were taken out.
    pub inputs: Vec<ValueInfoProto>,
    /// Outputs of an answer.
    pub outputs: Vec<ValueInfoProto>,
    /// Types of values in between, as far as the file tells them.
    pub value_info: IndexMap<String, ValueInfoProto>,
    /// Everything else of the message: name, text, sparse weights, annotations.
    pub rest: GraphProto,
}

impl Graph {
    /// Takes the message apart.
    #[must_use]
    pub fn from_proto(mut proto: GraphProto) -> Self {
        let initializers: IndexMap<_, _> = std::mem::take(&mut proto.initializer)
            .into_iter()
            .map(|tensor| (tensor.name().to_owned(), tensor))
            .collect();
        let mut inputs = std::mem::take(&mut proto.input);
        inputs.retain(|input| !initializers.contains_key(input.name()));
        Self {
            nodes: std::mem::take(&mut proto.node),
            inputs,
            outputs: std::mem::take(&mut proto.output),
            value_info: std::mem::take(&mut proto.value_info)
                .into_iter()
                .map(|info| (info.name().to_owned(), info))
                .collect(),
            initializers,
            rest: proto,
        }
    }

    /// Puts the message together again.
    #[must_use]
    pub fn into_proto(self) -> GraphProto {
        GraphProto {
            node: self.nodes,
            initializer: self.initializers.into_values().collect(),
            input: self.inputs,
            output: self.outputs,
            value_info: self.value_info.into_values().collect(),
            ..self.rest
        }
    }

    /// Adds a constant under its own name, replacing one of that name.
    pub fn add_initializer(&mut self, tensor: TensorProto) {
        self.initializers.insert(tensor.name().to_owned(), tensor);
    }

    /// The weight or constant of that name.
    #[must_use]
    pub fn initializer(&self, name: &str) -> Option<&TensorProto> {
        self.initializers.get(name)
    }

    /// Returns whether the graph hands this value out.
    #[must_use]
    pub fn is_output(&self, name: &str) -> bool {
        self.outputs.iter().any(|output| output.name() == name)
    }
}
