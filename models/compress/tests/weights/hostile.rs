//! Graphs that no exporter writes: a typed answer or a reason, never a panic.

use compress::weight_only::{self, Form, Method};
use compress::{CompressError, Grams};
use onnx_graph::proto::{ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto};
use onnx_graph::{ElementType, Graph, Model, Values};

use crate::judge;

/// A model of these nodes and weights, from `x` to `y`.
pub(crate) fn model(nodes: Vec<NodeProto>, weights: Vec<TensorProto>) -> Model {
    let info = |name: &str| {
        use onnx_graph::proto::{TensorShapeProto, TypeProto, tensor_shape_proto::Dimension, type_proto};
        let shape = TensorShapeProto { dim: vec![Dimension::default(), Dimension::default()] };
        let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(shape) };
        ValueInfoProto {
            name: Some(name.into()),
            r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() }),
            ..ValueInfoProto::default()
        }
    };
    let mut graph = Graph { nodes, inputs: vec![info("x")], outputs: vec![info("y")], ..Graph::default() };
    graph.rest.name = Some("graph".into());
    weights.into_iter().for_each(|weight| graph.add_initializer(weight));
    let opset = OperatorSetIdProto { domain: None, version: Some(17) };
    let rest = ModelProto { ir_version: Some(8), opset_import: vec![opset], ..ModelProto::default() };
    Model { graph, rest }
}

pub(crate) fn weight(name: &str, rows: usize, columns: usize) -> TensorProto {
    let values: Vec<f32> = (0..rows * columns).map(|at| ((at * 37 % 101) as f32 - 50.0) / 50.0).collect();
    TensorProto::of_floats(name, &[rows, columns], &values)
}

fn products() -> Vec<NodeProto> {
    vec![
        NodeProto::new("MatMul", "first", &["x", "w"], &["h"]),
        NodeProto::new("MatMul", "second", &["h", "w"], &["y"]),
    ]
}

fn int4(model: &Model) -> Result<(Model, compress::Report), CompressError> {
    weight_only::quantize(model, &weight_only::Options::default(), &Grams::default())
}

#[test]
fn a_weight_that_two_products_share_is_stored_once() {
    let (made, report) = int4(&model(products(), vec![weight("w", 40, 40)])).unwrap();
    assert_eq!(report.changed, ["first", "second"]);
    assert_eq!(made.graph.initializers.len(), 3);
    judge::check(&made);
}

#[test]
fn a_weight_that_is_handed_out_or_used_otherwise_stays() {
    let mut handed = model(products(), vec![weight("w", 40, 40)]);
    handed.graph.outputs.push(ValueInfoProto { name: Some("w".into()), ..handed.graph.outputs[0].clone() });
    assert!(matches!(int4(&handed), Err(CompressError::Nothing { .. })));
    let mut other = model(products(), vec![weight("w", 40, 40)]);
    other.graph.nodes.push(NodeProto::new("Relu", "other", &["w"], &["z"]));
    assert!(matches!(int4(&other), Err(CompressError::Nothing { .. })));
}

#[test]
fn weights_that_are_no_numbers_or_no_matrix_are_told_with_a_reason() {
    let broken: [(&str, TensorProto, &str); 4] = [
        ("nan", TensorProto::of_floats("w", &[1, 2], &[f32::NAN, 1.0]), "not finite"),
        ("infinite", TensorProto::of_floats("w", &[1, 2], &[f32::INFINITY, 1.0]), "not finite"),
        ("empty", TensorProto::of_floats("w", &[0, 4], &[]), "no matrix"),
        ("whole", TensorProto::of_raw("w", ElementType::Int8, &[2, 2], vec![1, 2, 3, 4]), "not f32"),
    ];
    for (case, tensor, reason) in broken {
        let mut both = model(products(), vec![tensor, weight("v", 32, 32)]);
        both.graph.nodes.push(NodeProto::new("MatMul", "good", &["x", "v"], &["z"]));
        both.graph.outputs.push(ValueInfoProto { name: Some("z".into()), ..both.graph.outputs[0].clone() });
        let (_made, report) = int4(&both).unwrap();
        assert_eq!(report.changed, ["good"], "{case}");
        assert!(report.skipped[0].reason.contains(reason), "{case}: {:?}", report.skipped);
    }
}

#[test]
fn bytes_that_do_not_fit_the_dimensions_are_a_typed_error() {
    let mut short = weight("w", 40, 40);
    short.raw_data = Some(vec![0; 12].into());
    assert!(matches!(int4(&model(products(), vec![short])), Err(CompressError::Weight(_))));
}

#[test]
fn zeros_dust_and_odd_lengths_are_quantized() {
    let Some(engine) = judge::runtime() else { return };
    for (rows, columns, fill) in [(17, 17, 0.0), (33, 33, 1e-42), (1, 1, 3.0), (50, 50, 0.5)] {
        let tensor = TensorProto::of_floats("w", &[rows, columns], &vec![fill; rows * columns]);
        let source = model(products(), vec![tensor]);
        let x = vec![NamedTensor::of(vec![1, rows], &vec![1.0; rows])];
        let requests = [x];
        let wanted = judge::firsts(&judge::answers(&engine, &source, &requests));
        for method in [Method::Rtn, Method::Hqq] {
            let options = weight_only::Options { method, ..Default::default() };
            let (made, _report) = weight_only::quantize(&source, &options, &Grams::default()).unwrap();
            let found = judge::firsts(&judge::answers(&engine, &made, &requests));
            for (a, b) in wanted[0].iter().zip(&found[0]) {
                assert!((a - b).abs() <= 1e-3 * a.abs() + 1e-6, "{method:?} {rows}: {a} became {b}");
            }
        }
    }
}

/// Short for a request of `x`.
struct NamedTensor;

impl NamedTensor {
    fn of(shape: Vec<usize>, values: &[f32]) -> types::NamedTensor {
        types::NamedTensor { name: "x".into(), tensor: types::Tensor::from_f32(shape, values).unwrap() }
    }
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let source = model(products(), vec![weight("w", 40, 40)]);
    for options in [
        weight_only::Options { block: 0, ..Default::default() },
        weight_only::Options { block: 48, ..Default::default() },
        weight_only::Options { method: Method::Hqq, symmetric: true, ..Default::default() },
        weight_only::Options { form: Form::Qdq, ..Default::default() },
    ] {
        let made = weight_only::quantize(&source, &options, &Grams::default());
        assert!(matches!(made, Err(CompressError::Option { .. })), "{options:?}");
    }
}

/// The same model with an input of this shape, and an output of that rank.
pub(crate) fn with_rank(mut model: Model, input: &[i64], output: usize) -> Model {
    use onnx_graph::proto::tensor_shape_proto::{Dimension, dimension::Value};
    use onnx_graph::proto::{TensorShapeProto, type_proto};
    let known = |&size: &i64| Dimension { value: Some(Value::DimValue(size)), ..Dimension::default() };
    let given = TensorShapeProto { dim: input.iter().map(known).collect() };
    let made = TensorShapeProto { dim: vec![Dimension::default(); output] };
    let infos = model.graph.inputs.iter_mut().zip([given]).chain(model.graph.outputs.iter_mut().zip([made]));
    for (info, shape) in infos {
        if let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_mut().and_then(|kind| kind.value.as_mut()) {
            tensor.shape = Some(shape);
        }
    }
    model
}
