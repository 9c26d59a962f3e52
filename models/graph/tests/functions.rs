//! Models with functions of their own, as passes see them.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use onnx_graph::proto::{
    FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TypeProto, ValueInfoProto,
    type_proto,
};
use onnx_graph::{Model, Values};
use prost::Message;

fn import(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) }
}

fn value(name: &str) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(1), shape: None };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(kind), ..ValueInfoProto::default() }
}

/// `y = F(F(x))` with `F(a) = Relu(a * w)`.
fn model() -> Model {
    let nodes = vec![
        NodeProto::new("F", "first", &["x", "w"], &["t"]).in_domain("own"),
        NodeProto::new("F", "second", &["t", "w"], &["y"]).in_domain("own"),
    ];
    let function = FunctionProto {
        name: Some("F".into()),
        domain: Some("own".into()),
        input: vec!["a".into(), "w".into()],
        output: vec!["b".into()],
        node: vec![
            NodeProto::new("MatMul", "product", &["a", "w"], &["t"]),
            NodeProto::new("Relu", "", &["t"], &["b"]),
        ],
        opset_import: vec![import("", 17)],
        ..FunctionProto::default()
    };
    let graph = GraphProto {
        node: nodes,
        input: vec![value("x")],
        output: vec![value("y")],
        initializer: vec![TensorProto::of_floats("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0])],
        ..GraphProto::default()
    };
    let proto = ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        functions: vec![function],
        opset_import: vec![import("", 17), import("own", 1)],
        ..ModelProto::default()
    };
    Model::from_bytes(proto.encode_to_vec().into()).unwrap()
}

#[test]
fn passes_see_the_operators_inside_functions() {
    let inlined = model().without_functions().unwrap();
    let operators: Vec<&str> = inlined.graph.nodes.iter().map(NodeProto::op_type).collect();
    assert_eq!(operators, ["MatMul", "Relu", "MatMul", "Relu"]);
    assert!(inlined.rest.functions.is_empty());
    assert!(inlined.graph.initializer("w").is_some());
    onnx_graph::check::check(&inlined).unwrap();
}

#[test]
fn a_model_without_functions_is_returned_unchanged() {
    let inlined = model().without_functions().unwrap();
    assert_eq!(inlined.clone().without_functions().unwrap(), inlined);
}

#[test]
fn the_memory_of_a_run_counts_what_functions_make() {
    let shapes = [("x".to_owned(), vec![1000, 2])].into();
    let whole = onnx_graph::memory::peak(model(), &shapes);
    let inlined = onnx_graph::memory::peak(model().without_functions().unwrap(), &shapes);
    assert_eq!(whole, inlined);
    assert!(whole.bytes > 0);
}
