//! Short constructors of ONNX messages.

use onnx_graph::proto::attribute_proto::AttributeType;
use onnx_graph::proto::tensor_shape_proto::{Dimension, dimension};
use onnx_graph::proto::{
    AttributeProto, GraphProto, ModelProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use prost::Message;
use types::DType;

/// Returns the number of an element type in ONNX files.
pub(super) const fn number(dtype: DType) -> i32 {
    match dtype {
        DType::F32 => 1,
        DType::U8 => 2,
        DType::I8 => 3,
        DType::U16 => 4,
        DType::I16 => 5,
        DType::I32 => 6,
        DType::I64 => 7,
        DType::Bytes => 8,
        DType::Bool => 9,
        DType::F16 => 10,
        DType::F64 => 11,
        DType::U32 => 12,
        DType::U64 => 13,
        DType::Bf16 => 16,
    }
}

/// Returns the declaration of a value; a size of `None` is the symbol `n`.
pub(super) fn info(name: &str, dtype: DType, shape: Option<&[Option<usize>]>) -> ValueInfoProto {
    let dim = |size: &Option<usize>| Dimension {
        value: Some(match size {
            Some(size) => dimension::Value::DimValue(i64::try_from(*size).unwrap_or(i64::MAX)),
            None => dimension::Value::DimParam("n".to_owned()),
        }),
        ..Dimension::default()
    };
    let shape = shape.map(|shape| TensorShapeProto { dim: shape.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(number(dtype)), shape };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(kind), ..ValueInfoProto::default() }
}

/// Returns a constant with the given bytes.
pub(super) fn tensor(name: &str, dtype: DType, shape: &[usize], bytes: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(number(dtype)),
        dims: shape.iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect(),
        raw_data: Some(bytes.into()),
        ..TensorProto::default()
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind.into()), ..AttributeProto::default() }
}

/// Returns an integer attribute of a node.
pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

/// Returns an attribute of several integers.
pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

/// Returns a float attribute of a node.
pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

/// Returns a text attribute of a node.
pub(super) fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: Some(value.as_bytes().to_vec().into()), ..attribute(name, AttributeType::String) }
}

/// Returns an attribute that is a subgraph.
pub(super) fn subgraph(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(graph), ..attribute(name, AttributeType::Graph) }
}

/// Names each subgraph of a model that has no name: ONNX Runtime requires one, and not every writer can write it.
///
/// # Panics
/// Panics if the bytes are not a model.
#[must_use]
pub fn with_named_subgraphs(model: &[u8]) -> Vec<u8> {
    let mut model = ModelProto::decode(model).unwrap_or_else(|error| unreachable!("no model: {error}"));
    if let Some(graph) = &mut model.graph {
        name_subgraphs(graph);
    }
    model.encode_to_vec()
}

fn name_subgraphs(graph: &mut GraphProto) {
    graph.name.get_or_insert_with(|| "graph".to_owned());
    let attributes = graph.node.iter_mut().flat_map(|node| &mut node.attribute);
    attributes.filter_map(|attribute| attribute.g.as_mut()).for_each(name_subgraphs);
}
