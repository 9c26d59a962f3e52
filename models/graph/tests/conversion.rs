//! A model in a newer operator set answers as before.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may do what tests may")]

mod support;

use engine::OrtEngine;
use onnx_graph::check::check;
use onnx_graph::opset::{OpsetError, upgrade};
use onnx_graph::proto::{AttributeProto, ModelProto, NodeProto, TensorProto};
use onnx_graph::{Graph, Model, Values};
use support::{assert_alike, judged, ort, read, real_models, run};

/// A model of one input of that shape and one node.
fn model(opset: i64, shape: &[usize], constants: Vec<TensorProto>, node: NodeProto) -> Model {
    let outputs =
        node.output.iter().map(|name| support::value_of_any_rank(name, if name == "at" { 7 } else { 1 })).collect();
    let mut graph =
        Graph { nodes: vec![node], inputs: vec![support::float_value("x", shape)], outputs, ..Graph::default() };
    graph.rest.name = Some("case".into());
    constants.into_iter().for_each(|tensor| graph.add_initializer(tensor));
    let mut model = Model { graph, rest: ModelProto { ir_version: Some(8), ..ModelProto::default() } };
    model.import("", opset);
    model
}

fn node(operator: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    let mut node = NodeProto::new(operator, "n", inputs, &["y"]);
    attributes.into_iter().for_each(|attribute| node.set(attribute));
    node
}

fn float_list(name: &str, values: &[f32]) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(6), floats: values.to_vec(), ..AttributeProto::default() }
}

fn answers_alike_up_to(ort: &OrtEngine, model: &Model, versions: &[i64]) -> Vec<(String, Vec<u8>)> {
    let shape: Vec<usize> = onnx_graph::infer::infer(model, &Default::default()).of("x").unwrap().sizes().unwrap();
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|at| ((at * 37 % 101) as f32 - 50.0) / 17.0).collect();
    let inputs = [support::float_input("x", &shape, &values)];
    let name = model.graph.nodes[0].op_type().to_owned();
    let before = run(ort, model.to_bytes().unwrap(), &inputs).unwrap_or_else(|error| panic!("{name}: {error}"));
    // Python's checker wants outputs with shapes.
    let mut model = model.clone();
    for (output, answer) in model.graph.outputs.iter_mut().zip(&before).filter(|(output, _)| output.name() != "at") {
        *output = support::float_value_of_rank(output.name(), answer.tensor.shape().len());
    }
    if let Some(at) = model.graph.outputs.iter_mut().find(|output| output.name() == "at") {
        *at = support::declared("at", 7, vec![None; before[0].tensor.shape().len()]);
    }
    let mut made = Vec::new();
    for &version in versions {
        let newer = upgrade(&model, version).unwrap_or_else(|error| panic!("{name} to {version}: {error}"));
        assert_eq!(newer.opset(""), Some(version.max(model.opset("").unwrap())));
        check(&newer).unwrap_or_else(|error| panic!("{name} to {version}: {error}"));
        let bytes = newer.to_bytes().unwrap();
        let after = run(ort, bytes.clone(), &inputs).unwrap_or_else(|error| panic!("{name} to {version}: {error}"));
        assert_alike(&format!("{name} to {version}"), &before, &after, 1e-6);
        made.push((format!("{name} to {version}"), bytes));
    }
    made
}

#[test]
fn every_changed_operator_answers_as_before() {
    let Some(ort) = ort() else { return };
    let (int, ints, float) = (AttributeProto::int, AttributeProto::int_list, AttributeProto::float);
    let text = AttributeProto::text;
    let mut cases: Vec<(i64, Vec<usize>, Vec<TensorProto>, NodeProto)> = Vec::new();
    for opset in [9, 11, 12] {
        for operator in ["Softmax", "LogSoftmax", "Hardmax"] {
            for axis in [0, 1, 2, 3] {
                cases.push((opset, vec![2, 3, 4, 5], vec![], node(operator, &["x"], vec![int("axis", axis)])));
            }
            cases.push((opset, vec![2, 3, 4], vec![], node(operator, &["x"], vec![])));
        }
        cases.push((opset, vec![2, 1, 3, 1], vec![], node("Squeeze", &["x"], vec![ints("axes", &[1, 3])])));
        cases.push((opset, vec![2, 1, 3, 1], vec![], node("Squeeze", &["x"], vec![])));
        cases.push((opset, vec![2, 3], vec![], node("Unsqueeze", &["x"], vec![ints("axes", &[0, 2])])));
        for operator in ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2", "ReduceProd"] {
            cases.push((
                opset,
                vec![2, 3, 4],
                vec![],
                node(operator, &["x"], vec![ints("axes", &[1]), int("keepdims", 0)]),
            ));
            cases.push((opset, vec![2, 3, 4], vec![], node(operator, &["x"], vec![])));
        }
        let ratio = if opset < 12 { vec![float("ratio", 0.3)] } else { vec![] };
        cases.push((opset, vec![2, 3], vec![], node("Dropout", &["x"], ratio)));
        let mut split = node("Split", &["x"], vec![int("axis", 1), ints("split", &[1, 3])]);
        split.output.push("z".into());
        cases.push((opset, vec![2, 4], vec![], split.clone()));
        split.attribute.retain(|attribute| attribute.name() != "split");
        cases.push((opset, vec![2, 4], vec![], split));
    }
    for opset in [7, 9, 10] {
        cases.push((opset, vec![2, 3], vec![], node("Clip", &["x"], vec![float("min", -1.0), float("max", 0.5)])));
        cases.push((opset, vec![2, 3], vec![], node("Clip", &["x"], vec![float("max", 0.5)])));
        let pads = ints("pads", &[0, 1, 2, 0]);
        cases.push((opset, vec![2, 3], vec![], node("Pad", &["x"], vec![pads.clone(), float("value", 1.5)])));
        cases.push((
            opset,
            vec![2, 3],
            vec![],
            node("Pad", &["x"], vec![ints("pads", &[0, 1, 1, 0]), text("mode", "reflect")]),
        ));
    }
    let constant = |name: &str, count: usize, value: f32| TensorProto::of_floats(name, &[count], &vec![value; count]);
    let norm = vec![constant("s", 3, 1.5), constant("b", 3, 0.5), constant("m", 3, 0.1), constant("v", 3, 2.0)];
    cases.push((
        7,
        vec![2, 3, 4],
        norm.clone(),
        node("BatchNormalization", &["x", "s", "b", "m", "v"], vec![int("spatial", 1)]),
    ));
    cases.push((9, vec![2, 3, 4], norm, node("BatchNormalization", &["x", "s", "b", "m", "v"], vec![])));
    cases.push((
        9,
        vec![4, 5],
        vec![],
        node("Slice", &["x"], vec![ints("starts", &[1]), ints("ends", &[-1]), ints("axes", &[1])]),
    ));
    let mut top = node("TopK", &["x"], vec![int("k", 2), int("axis", 1)]);
    top.output.push("at".into());
    cases.push((9, vec![4, 5], vec![], top));
    for mode in ["nearest", "linear"] {
        let scales = vec![1.0, 1.0, 2.0, 3.0];
        cases.push((
            7,
            vec![1, 2, 3, 4],
            vec![],
            node("Upsample", &["x"], vec![text("mode", mode), float_list("scales", &scales)]),
        ));
        let constant = TensorProto::of_floats("scales", &[4], &scales);
        cases.push((
            9,
            vec![1, 2, 3, 4],
            vec![constant.clone()],
            node("Upsample", &["x", "scales"], vec![text("mode", mode)]),
        ));
        cases.push((
            10,
            vec![1, 2, 3, 4],
            vec![constant.clone()],
            node("Resize", &["x", "scales"], vec![text("mode", mode)]),
        ));
        let empty = TensorProto::of_floats("roi", &[0], &[]);
        cases.push((
            11,
            vec![1, 2, 3, 4],
            vec![constant, empty],
            node("Resize", &["x", "roi", "scales"], vec![text("mode", mode)]),
        ));
    }
    let mut made = Vec::new();
    for (opset, shape, constants, node) in cases {
        let case = model(opset, &shape, constants, node);
        made.extend(answers_alike_up_to(&ort, &case, &[13, 17, 18, 21]));
    }
    let Some(verdicts) = judged("check", &made) else { return };
    for ((name, _), verdict) in made.iter().zip(verdicts) {
        assert_eq!(verdict, "ok", "{name}");
    }
}

#[test]
fn real_models_of_old_operator_sets_answer_as_before() {
    let Some(ort) = ort() else { return };
    let mut converted = 0;
    for case in real_models() {
        let model = read(&case);
        let from = model.opset("").unwrap();
        let to = if case.name.starts_with("light") { 13 } else { 17 };
        if from >= to {
            continue;
        }
        let newer = match upgrade(&model, to) {
            Ok(newer) => newer,
            Err(error) => {
                assert!(from < 7 || case.name.starts_with("silero"), "{}: {error}", case.name);
                println!("{} of {from}: {error}", case.name);
                continue;
            }
        };
        check(&newer).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let inputs = case.inputs.as_deref().unwrap();
        let before = run(&ort, case.model.clone(), inputs).unwrap();
        let after = run(&ort, newer.to_bytes().unwrap(), inputs).unwrap();
        assert_alike(&case.name, &before, &after, 1e-5);
        println!("{} from {from} to {to}", case.name);
        converted += 1;
    }
    assert!(converted >= 3, "the corpus has old models");
}

#[test]
fn what_cannot_be_converted_is_named() {
    let old = model(6, &[2, 3], vec![], node("Relu", &["x"], vec![]));
    assert_eq!(upgrade(&old, 13), Err(OpsetError::Range { from: 6, to: 13 }));
    let scales = TensorProto::of_floats("scales", &[2], &[0.5, 1.0]);
    let shrinking = model(10, &[2, 3], vec![scales], node("Resize", &["x", "scales"], vec![]));
    let Err(OpsetError::Nodes(stuck)) = upgrade(&shrinking, 13) else { panic!("it was converted") };
    assert_eq!((stuck[0].operator.as_str(), stuck[0].version), ("Resize", 11));
    let new = model(17, &[2, 3], vec![], node("Relu", &["x"], vec![]));
    assert_eq!(upgrade(&new, 13).unwrap(), new);
}
