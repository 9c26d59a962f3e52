//! The memory of a run, worked out by hand for small graphs.
#![expect(clippy::unwrap_used, reason = "helpers of tests may do what tests may")]

use std::collections::HashMap;

use onnx_graph::Model;
use onnx_graph::memory::{Peak, peak};
use onnx_graph::proto::tensor_shape_proto::{Dimension, dimension};
use onnx_graph::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    type_proto,
};
use prost::Message;

fn value(name: &str, dims: &[Option<i64>]) -> ValueInfoProto {
    let dim = |dim: &Option<i64>| Dimension {
        value: Some(match dim {
            Some(size) => dimension::Value::DimValue(*size),
            None => dimension::Value::DimParam("n".into()),
        }),
        ..Dimension::default()
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(shape) };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.into()), r#type: Some(kind), ..ValueInfoProto::default() }
}

fn model(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>) -> Model {
    let graph = GraphProto {
        node: nodes,
        initializer,
        input: vec![value("x", &[None, Some(256)])],
        output: vec![value("y", &[None, Some(256)])],
        ..GraphProto::default()
    };
    let opset_import = vec![OperatorSetIdProto { version: Some(17), ..OperatorSetIdProto::default() }];
    let proto = ModelProto { ir_version: Some(8), opset_import, graph: Some(graph), ..ModelProto::default() };
    Model::from_bytes(proto.encode_to_vec().into()).unwrap()
}

fn of(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>, rows: usize) -> Peak {
    peak(model(nodes, initializer), &HashMap::from([("x".to_owned(), vec![rows, 256])]))
}

fn longs(name: &str, values: &[i64]) -> TensorProto {
    let dims = vec![i64::try_from(values.len()).unwrap()];
    TensorProto {
        name: Some(name.into()),
        data_type: Some(7),
        dims,
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

#[test]
fn a_chain_holds_two_tensors_at_a_time_and_grows_with_the_batch() {
    let chain = || {
        let node = |from: &str, to: &str| NodeProto::new("Relu", to, &[from], &[to]);
        vec![node("x", "a"), node("a", "b"), node("b", "c"), node("c", "y")]
    };
    for rows in [1, 8] {
        assert_eq!(of(chain(), vec![], rows).bytes, 2 * 1024 * rows as u64);
    }
    assert_eq!(peak(model(chain(), vec![]), &HashMap::new()).bytes, 2 * 1024, "an open dimension counts as 1");
}

#[test]
fn what_is_needed_later_is_held_and_another_shape_costs_nothing() {
    let nodes = vec![
        NodeProto::new("Relu", "a", &["x"], &["a"]),
        NodeProto::new("Identity", "b", &["a"], &["b"]),
        NodeProto::new("Neg", "c", &["b"], &["c"]),
        NodeProto::new("Add", "y", &["a", "c"], &["y"]),
    ];
    assert_eq!(of(nodes, vec![], 1).bytes, 3 * 1024, "a, c and y");
}

#[test]
fn a_tensor_made_of_nothing_is_counted_with_its_size() {
    let nodes = vec![
        NodeProto::new("ConstantOfShape", "c", &["s"], &["c"]),
        NodeProto::new("ReduceSum", "r", &["c"], &["r"]),
        NodeProto::new("Add", "y", &["x", "r"], &["y"]),
    ];
    let peak = of(nodes, vec![longs("s", &[1536, 1024, 1024])], 1);
    assert!(peak.bytes >= 6 << 30, "{peak:?}");
    assert_eq!(peak.largest, Some(("c".to_owned(), 6 << 30)));
}

#[test]
fn sizes_that_depend_on_the_data_are_said_to_be_unknown() {
    let nodes = vec![NodeProto::new("NonZero", "k", &["x"], &["k"]), NodeProto::new("Relu", "y", &["x"], &["y"])];
    assert_eq!(of(nodes, vec![], 1).unknown, 1);
}
