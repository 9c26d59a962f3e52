//! Which values of a graph are f32, as far as operators tell.
//!
//! Enough for placing casts; a value whose type is unknown keeps every node around it in f32.

use std::collections::HashMap;

use onnx_graph::proto::{NodeProto, ValueInfoProto, type_proto};
use onnx_graph::{Attributes, ElementType, Graph, Values};

/// Operators whose outputs are truth values.
const TRUTHS: [&str; 11] =
    ["And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Xor"];

/// Operators whose outputs are int64.
const PLACES: [&str; 6] = ["ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "Shape", "Size"];

/// Operators whose outputs have types that only their subgraphs or bodies tell, or no tensor type at all.
const UNTOLD: [&str; 12] = [
    "If",
    "Loop",
    "Scan",
    "Optional",
    "OptionalGetElement",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceInsert",
    "SplitToSequence",
    "StringNormalizer",
    "TfIdfVectorizer",
];

/// Element types by the names of values.
#[derive(Debug, Default)]
pub(super) struct Types(HashMap<String, ElementType>);

impl Types {
    /// Goes through the graph once.
    pub(super) fn of(graph: &Graph) -> Self {
        let mut types = Self::default();
        for info in graph.value_info.values().chain(&graph.inputs).chain(&graph.outputs) {
            types.note(info);
        }
        for (name, tensor) in &graph.initializers {
            types.0.insert(name.clone(), tensor.element_type());
        }
        for node in &graph.nodes {
            for (place, output) in node.output.iter().enumerate() {
                if let Some(found) = types.output(node, place) {
                    types.0.insert(output.clone(), found);
                }
            }
        }
        types
    }

    pub(super) fn is_float(&self, value: &str) -> bool {
        self.0.get(value) == Some(&ElementType::Float)
    }

    pub(super) fn is_known(&self, value: &str) -> bool {
        value.is_empty() || self.0.contains_key(value)
    }

    fn note(&mut self, info: &ValueInfoProto) {
        let kind = info.r#type.as_ref().and_then(|kind| kind.value.as_ref());
        if let Some(type_proto::Value::TensorType(tensor)) = kind {
            let element = ElementType::try_from(tensor.elem_type()).unwrap_or(ElementType::Undefined);
            self.0.insert(info.name().to_owned(), element);
        }
    }

    /// The type that an operator gives an output.
    fn output(&self, node: &NodeProto, place: usize) -> Option<ElementType> {
        if !matches!(node.domain(), "" | "ai.onnx") {
            return None;
        }
        let operator = node.op_type();
        let of_input = |at: usize| self.0.get(node.input_at(at)?).copied();
        match (operator, place) {
            ("Cast", _) => ElementType::try_from(i32::try_from(node.attr_int("to")?).ok()?).ok(),
            ("Constant", _) => constant(node),
            ("ConstantOfShape", _) => Some(node.attr_tensor("value").map_or(ElementType::Float, Values::element_type)),
            ("DequantizeLinear" | "Where", _) => of_input(1),
            ("OneHot", _) => of_input(2),
            ("QuantizeLinear", _) => of_input(2),
            ("DynamicQuantizeLinear", 1) => Some(ElementType::Float),
            ("DynamicQuantizeLinear", _) => Some(ElementType::Uint8),
            ("MatMulInteger" | "ConvInteger", _) => Some(ElementType::Int32),
            ("TopK" | "MaxPool", 1) => Some(ElementType::Int64),
            ("Dropout", 1) => Some(ElementType::Bool),
            ("Unique", 1..) => Some(ElementType::Int64),
            _ if TRUTHS.contains(&operator) => Some(ElementType::Bool),
            _ if PLACES.contains(&operator) => Some(ElementType::Int64),
            _ if UNTOLD.contains(&operator) || operator.starts_with("Random") || operator.starts_with("QLinear") => {
                None
            }
            _ => of_input(0),
        }
    }
}

fn constant(node: &NodeProto) -> Option<ElementType> {
    if let Some(tensor) = node.attr_tensor("value") {
        return Some(tensor.element_type());
    }
    let any = |names: [&str; 2]| names.iter().any(|name| node.attr(name).is_some());
    if any(["value_float", "value_floats"]) {
        return Some(ElementType::Float);
    }
    any(["value_int", "value_ints"]).then_some(ElementType::Int64)
}
