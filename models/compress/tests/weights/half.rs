//! 16 bits: f16 throughout, and weights alone.

use compress::CompressError;
use compress::calibrate::{Range, Ranges};
use compress::half_precision::{Format, Options, convert};
use onnx_graph::proto::{NodeProto, TensorProto};
use onnx_graph::{Model, Values};

use crate::{digits, hostile, judge, minilm};

fn casts(model: &Model) -> usize {
    model.graph.nodes.iter().filter(|node| node.op_type() == "Cast").count()
}

#[test]
fn minilm_in_f16_keeps_its_embeddings_at_half_the_size() {
    let (Some(engine), Some(full)) = (judge::runtime(), minilm::full()) else { return };
    let judging = &minilm::requests()[..10];
    let wanted = minilm::embeddings(&judge::answers(&engine, &full, judging));
    for (format, least) in
        [(Format::Float16, 0.9999), (Format::Float16Weights, 0.99999), (Format::Bfloat16Weights, 0.999)]
    {
        let (made, report) = convert(&full, &Options { format, ..Options::default() }, &Ranges::default()).unwrap();
        judge::check(&made);
        let found = minilm::embeddings(&judge::answers(&engine, &made, judging));
        let cosine = judge::least_cosine(&wanted, &found);
        let bytes = made.to_bytes().unwrap().len();
        println!("{format:?}: least {cosine:.6}, {bytes} bytes, {} casts, {:?}", casts(&made), report.notes);
        assert!(cosine > least, "{format:?}: {cosine}");
        assert!(bytes * 100 < full.to_bytes().unwrap().len() * 52);
    }
}

#[test]
fn digits_in_f16_take_and_give_f32() {
    let Some(engine) = judge::runtime() else { return };
    let full = digits::model("v1/full.onnx");
    let (requests, labels) = digits::requests();
    let before = digits::accuracy(&judge::answers(&engine, &full, &requests), &labels);
    let (made, _report) = convert(&full, &Options::default(), &Ranges::default()).unwrap();
    judge::check(&made);
    // One at each end, none between.
    assert_eq!(casts(&made), 2);
    assert_eq!((&made.graph.inputs, &made.graph.outputs), (&full.graph.inputs, &full.graph.outputs));
    let after = digits::accuracy(&judge::answers(&engine, &made, &requests), &labels);
    assert!((after - before).abs() <= 0.001, "{before} to {after}");
}

#[test]
fn what_is_beyond_f16_stays_and_is_told() {
    let Some(engine) = judge::runtime() else { return };
    let nodes = || {
        vec![
            NodeProto::new("MatMul", "good", &["x", "w"], &["h"]),
            NodeProto::new("Mul", "huge", &["h", "big"], &["i"]),
            NodeProto::new("MatMul", "peak", &["i", "w"], &["j"]),
            NodeProto::new("Softmax", "kept", &["j"], &["y"]),
        ]
    };
    let big = TensorProto::of_floats("big", &[1], &[70_000.0]);
    let model = hostile::model(nodes(), vec![hostile::weight("w", 4, 4), big]);
    let mut peaks = Ranges::default();
    peaks.found.insert("j".to_owned(), Range { low: -1e6, high: 1.0 });
    let (made, report) = convert(&model, &Options::default(), &peaks).unwrap();
    judge::check(&made);
    assert_eq!(report.changed, ["good"]);
    let reasons: Vec<&str> = report.skipped.iter().map(|skipped| skipped.reason.as_str()).collect();
    assert!(reasons[0].contains("weights is beyond") && reasons[1].contains("on the examples"), "{reasons:?}");
    let tensor = types::Tensor::from_f32(vec![1, 4], &[0.1, 0.2, 0.3, 0.4]).unwrap();
    judge::answers(&engine, &made, &[vec![types::NamedTensor { name: "x".into(), tensor }]]);
    let all = Options { kept: ["MatMul", "Mul", "Softmax"].map(str::to_owned).into(), ..Options::default() };
    assert!(matches!(convert(&model, &all, &peaks), Err(CompressError::Nothing { .. })));
}

#[test]
fn weights_too_small_for_f16_are_counted() {
    let values: Vec<f32> = (0..1_100_u16)
        .map(|at| {
            if at < 3 {
                1e-6
            } else if at < 5 {
                1e-9
            } else {
                0.5
            }
        })
        .collect();
    let model = hostile::model(
        vec![NodeProto::new("MatMul", "m", &["x", "w"], &["y"])],
        vec![TensorProto::of_floats("w", &[1, 1_100], &values)],
    );
    for format in [Format::Float16, Format::Float16Weights] {
        let (_made, report) = convert(&model, &Options { format, ..Options::default() }, &Ranges::default()).unwrap();
        assert_eq!(report.notes, ["5 weights are subnormal in f16, 2 of them became zero"]);
    }
}

#[test]
fn what_a_tiny_number_protects_stays_f32_as_far_as_the_logarithm_or_the_quotient() {
    let Some(engine) = judge::runtime() else { return };
    let before = || NodeProto::new("MatMul", "before", &["x", "w"], &["h"]);
    let after = || NodeProto::new("MatMul", "after", &["p", "w"], &["y"]);
    let epsilon = |value: f32| TensorProto::of_floats("epsilon", &[1], &[value]);
    // What sits between the product and the next one, and the nodes of it that may compute in f16.
    let cases: [(&str, Vec<NodeProto>, &[&str]); 5] = [
        (
            "the floor of a logarithm",
            vec![
                NodeProto::new("Max", "floor", &["h", "epsilon"], &["m"]),
                NodeProto::new("Transpose", "turn", &["m"], &["t"]),
                NodeProto::new("Transpose", "turn back", &["t"], &["u"]),
                NodeProto::new("Log", "log", &["u"], &["p"]),
            ],
            &[],
        ),
        (
            "the floor of a norm",
            vec![
                NodeProto::new("Mul", "square", &["h", "h"], &["q"]),
                NodeProto::new("Add", "floor", &["q", "epsilon"], &["m"]),
                NodeProto::new("Sqrt", "root", &["m"], &["r"]),
                NodeProto::new("Div", "quotient", &["h", "r"], &["p"]),
            ],
            &["square"],
        ),
        (
            "a reciprocal",
            vec![
                NodeProto::new("Add", "floor", &["h", "epsilon"], &["m"]),
                NodeProto::new("Reciprocal", "one over", &["m"], &["r"]),
                NodeProto::new("Mul", "product", &["h", "r"], &["p"]),
            ],
            &["product"],
        ),
        (
            "a limit",
            vec![
                NodeProto::new("Clip", "floor", &["h", "epsilon"], &["m"]),
                NodeProto::new("Log", "log", &["m"], &["p"]),
            ],
            &[],
        ),
        ("a small summand", vec![NodeProto::new("Add", "sum", &["h", "epsilon"], &["p"])], &[]),
    ];
    for (name, nodes, halved) in cases {
        for value in [1e-12, 1e-7, 1e-5] {
            let nodes: Vec<NodeProto> = [vec![before()], nodes.clone(), vec![after()]].concat();
            let model = hostile::model(nodes, vec![hostile::weight("w", 4, 4), epsilon(value)]);
            let (made, report) = convert(&model, &Options::default(), &Ranges::default()).unwrap();
            judge::check(&made);
            let wanted = [&["before"], halved, &["after"]].concat();
            assert_eq!(report.changed, wanted, "{name}, {value}");
            assert!(report.skipped.iter().all(|skipped| skipped.reason.contains("too small for f16")), "{name}");
            // Zeros are what the number is for.
            let tensor = types::Tensor::from_f32(vec![1, 4], &[0.0; 4]).unwrap();
            let requests = [vec![types::NamedTensor { name: "x".into(), tensor }]];
            let answer = judge::answers(&engine, &made, &requests);
            let all = answer[0].iter().flat_map(|one| one.tensor.to_f32().unwrap());
            assert!(all.into_iter().all(f32::is_finite), "{name}, {value}");
        }
    }
}
