//! Forms of models whose weights are in the bodies of `If` and `Scan`, of our own half-precision form, and of resizing along axes.
#![expect(clippy::unwrap_used, reason = "helpers of tests may do what tests may")]

mod support;

use compress::auto::{Outcome, Request};
use compress::half_precision::{self, Format};
use compress::{Examples, Selection, calibrate::Ranges, prepare, static_int8};
use engine::OrtEngine;
use onnx_graph::proto::tensor_proto::DataType;
use onnx_graph::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, attribute_proto};
use onnx_graph::{Attributes, ElementType, Model, Values};
use support::{cosine, model, noise, noisy, run, runtime, value};

/// Every form that looks at weights alone, made and judged on `rows` examples of noise of this shape.
fn outcome(engine: &OrtEngine, original: &Model, shape: &[usize]) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    let numbers = noise(7, shape.iter().product());
    support::npz(&path, zip::CompressionMethod::Stored, &[("x", support::floats(shape, &numbers))]);
    let recipes = compress::pass::all_recipes().into_iter();
    let request = Request {
        file: original.to_bytes().unwrap().into(),
        model: original.clone(),
        examples: Examples::open(&path, &support::signature(engine, original)).unwrap(),
        calibration: 4,
        engines: vec![engine],
        recipes: recipes.filter(|one| one.name().contains("weights") || one.name().contains("dynamic")).collect(),
        search_mixed: Vec::new(),
        rank_by: None,
        selection: Selection::default(),
        measure: None,
        task: None,
        custom: None,
        loss_max: 1.0,
        form_budget: std::time::Duration::ZERO,
    };
    compress::auto::run(request, &mut |_| {}).unwrap()
}

/// Checks that four forms or more were made, each close to the model and smaller by 40 %.
fn makes_small_forms(outcome: &Outcome, of: u64) {
    let made: Vec<_> = outcome.candidates.iter().skip(1).filter(|one| one.model.is_some()).collect();
    assert!(made.len() >= 4, "{:?}", outcome.candidates);
    for candidate in made {
        let quality = candidate.quality.as_ref().unwrap();
        assert!(quality.outputs[0].cosine > 0.98, "{}: {quality:?}", candidate.name);
        assert!(candidate.bytes < of * 6 / 10, "{} has {} of {of} bytes", candidate.name, candidate.bytes);
    }
}

fn graph_attribute(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(attribute_proto::AttributeType::Graph.into()),
        g: Some(graph),
        ..AttributeProto::default()
    }
}

fn weight(name: &str, seed: u64) -> TensorProto {
    let scaled: Vec<f32> = noise(seed, 64 * 64).iter().map(|one| one / 8.0).collect();
    TensorProto::of_floats(name, &[64, 64], &scaled)
}

/// `If` on the sign of the sum: each branch multiplies by a weight of its own.
fn branching() -> Model {
    let branch = |name: &str, seed: u64| GraphProto {
        name: Some(name.to_owned()),
        node: vec![NodeProto::new("MatMul", &format!("{name} product"), &["x", name], &[&format!("{name} out")])],
        initializer: vec![weight(name, seed)],
        output: vec![value(&format!("{name} out"), &[-1, 64])],
        ..GraphProto::default()
    };
    let choose = NodeProto::new("If", "if", &["positive"], &["y"])
        .with(graph_attribute("then_branch", branch("then", 1)))
        .with(graph_attribute("else_branch", branch("else", 2)));
    model(
        vec![
            NodeProto::new("ReduceMax", "max", &["x"], &["m"]).with(AttributeProto::int("keepdims", 0)),
            NodeProto::new("Greater", "greater", &["m", "zero"], &["positive"]),
            choose,
        ],
        vec![TensorProto::of_floats("zero", &[], &[0.5])],
        vec![value("x", &[-1, 64])],
        vec![value("y", &[-1, 64])],
    )
}

/// `Scan` over rows: the state is multiplied by a weight and the row is added.
fn scanning() -> Model {
    let body = GraphProto {
        name: Some("body".to_owned()),
        node: vec![
            NodeProto::new("MatMul", "turn", &["state", "w"], &["turned"]),
            NodeProto::new("Add", "add", &["turned", "row"], &["sum"]),
            NodeProto::new("Tanh", "bound", &["sum"], &["next"]),
            NodeProto::new("Identity", "copy", &["next"], &["out"]),
        ],
        initializer: vec![weight("w", 3)],
        input: vec![value("state", &[64]), value("row", &[64])],
        output: vec![value("next", &[64]), value("out", &[64])],
        ..GraphProto::default()
    };
    let scan = NodeProto::new("Scan", "scan", &["start", "x"], &["end", "y"])
        .with(AttributeProto::int("num_scan_inputs", 1))
        .with(graph_attribute("body", body));
    model(
        vec![scan],
        vec![TensorProto::of_floats("start", &[64], &noise(5, 64))],
        vec![value("x", &[-1, 64])],
        vec![value("y", &[-1, 64])],
    )
}

#[test]
fn weights_in_branches_and_in_bodies_of_scans_are_quantized() {
    let Some(engine) = runtime() else { return };
    for original in [branching(), scanning()] {
        makes_small_forms(&outcome(&engine, &original, &[8, 64]), original.to_bytes().unwrap().len() as u64);
    }
}

#[test]
fn our_own_form_with_weights_in_half_precision_can_be_compressed_again() {
    let Some(engine) = runtime() else { return };
    let original = model(
        vec![
            NodeProto::new("MatMul", "first", &["x", "v"], &["a"]),
            NodeProto::new("Relu", "r", &["a"], &["b"]),
            NodeProto::new("MatMul", "second", &["b", "w"], &["y"]),
        ],
        vec![weight("v", 1), weight("w", 2)],
        vec![value("x", &[-1, 64])],
        vec![value("y", &[-1, 64])],
    );
    for format in [Format::Float16Weights, Format::Bfloat16Weights] {
        let options = half_precision::Options { format, ..half_precision::Options::default() };
        let (halves, _) = half_precision::convert(&prepare(&original).unwrap(), &options, &Ranges::default()).unwrap();
        let outcome = outcome(&engine, &halves, &[8, 64]);
        let made = |name: &str| outcome.candidates.iter().find(|one| one.name == name).unwrap();
        for name in ["int8-dynamic per-channel", "int8-weights", "int4-weights gptq"] {
            let candidate = made(name);
            assert!(candidate.model.is_some(), "{format:?} {name}: {:?}", candidate.verdict);
            assert!(candidate.quality.as_ref().unwrap().outputs[0].cosine > 0.98, "{format:?} {name}");
            assert!(candidate.bytes < outcome.candidates[0].bytes, "{format:?} {name}: {}", candidate.bytes);
        }
    }
}

#[test]
fn resizing_along_axes_runs_in_integers_once_the_scales_are_written_for_all_axes() {
    let Some(engine) = runtime() else { return };
    for axes in [&[3_i64][..], &[2, 3], &[-1]] {
        let scales = vec![2.0; axes.len()];
        let resize = NodeProto::new("Resize", "resize", &["a", "", "scales"], &["q"])
            .with(AttributeProto::int_list("axes", axes))
            .with(AttributeProto::text("mode", "nearest"));
        let height = if axes.len() == 2 { 12 } else { 6 };
        let mut original = model(
            vec![
                NodeProto::new("Conv", "first", &["x", "w"], &["a"]),
                resize,
                NodeProto::new("Conv", "second", &["q", "w"], &["y"]),
            ],
            vec![noisy("w", 1, &[4, 4, 1, 1]), TensorProto::of_floats("scales", &[axes.len()], &scales)],
            vec![value("x", &[-1, 4, 6, 6])],
            vec![value("y", &[-1, 4, height, 12])],
        );
        original.import("", 18);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npz");
        let images = support::floats(&[8, 4, 6, 6], &noise(7, 8 * 144));
        support::npz(&path, zip::CompressionMethod::Stored, &[("x", images)]);
        let examples = Examples::open(&path, &support::signature(&engine, &original)).unwrap();
        let (prepared, options) = (prepare(&original).unwrap(), static_int8::Options::default());
        let values = static_int8::values(&prepared, &options);
        let ranges = compress::calibrate::observe(&engine, &prepared, &examples, &values, Default::default()).unwrap();
        let (made, report) = static_int8::quantize(&prepared, &options, &ranges).unwrap();
        assert!(report.skipped.is_empty() && report.changed.contains(&"resize".to_owned()), "{report:?}");
        let input = [("x", vec![2, 4, 6, 6], noise(8, 288))];
        let (wanted, found) = (run(&engine, &original, &input).remove(0), run(&engine, &made, &input).remove(0));
        assert!(cosine(&wanted, &found) > 0.99, "{axes:?}");
    }
}

#[test]
fn types_of_the_models_above_are_as_they_say() {
    // Half precision keeps 16-bit weights behind casts: otherwise the test above would show nothing.
    let plain = model(
        vec![NodeProto::new("MatMul", "m", &["x", "w"], &["y"])],
        vec![weight("w", 1)],
        vec![value("x", &[-1, 64])],
        vec![value("y", &[-1, 64])],
    );
    let options = half_precision::Options { format: Format::Float16Weights, ..half_precision::Options::default() };
    let (halves, _) = half_precision::convert(&plain, &options, &Ranges::default()).unwrap();
    assert!(halves.graph.initializers.values().any(|one| one.element_type() == ElementType::Float16));
    let cast = halves.graph.nodes.iter().find(|node| node.is("Cast")).unwrap();
    assert_eq!(cast.attr_int("to"), Some(DataType::Float as i64));
}
