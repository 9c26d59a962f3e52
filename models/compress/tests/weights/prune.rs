//! Pruning of the digits' full model: half of its channels, and zeros.

use std::time::{Duration, Instant};

use compress::prune::channels::{self, Compensation};
use compress::prune::magnitude::{self, Pattern};
use compress::{CompressError, Grams, Selection};
use engine::{Engine as _, LoadOptions, RunControl};
use onnx_graph::proto::{AttributeProto, NodeProto, TensorProto};
use onnx_graph::{Model, Values};

use crate::{digits, hostile, judge};

/// Requests of 100 digits that may teach; the other 1,000 digits judge.
const TEACHING: usize = 10;

fn parameters(model: &Model) -> usize {
    model.graph.initializers.values().filter_map(|tensor| tensor.floats().ok()).map(|values| values.len()).sum()
}

/// The time of one request; the least of several, because others use this machine too.
fn latency(engine: &engine::OrtEngine, model: &Model, request: &[types::NamedTensor]) -> Duration {
    let mut session = engine.load(model.to_bytes().unwrap().into(), &LoadOptions::default()).unwrap();
    let once = |_round| {
        let started = Instant::now();
        session.run(request, &[], &RunControl::default()).unwrap();
        started.elapsed()
    };
    (0..20).map(once).min().unwrap()
}

#[test]
fn half_of_the_channels_go_and_the_digits_are_still_read() {
    let Some(engine) = judge::runtime() else { return };
    let full = digits::model("v1/full.onnx");
    let (requests, labels) = digits::requests();
    let mut grams = Grams::of(&full, &Selection::default());
    judge::observe(&engine, &full, &grams.values(), &requests[..TEACHING], |values| grams.add(values).unwrap());
    let (judging, labels) = (&requests[TEACHING..], &labels[TEACHING * 100..]);
    let accuracy = |model: &Model| digits::accuracy(&judge::answers(&engine, model, judging), labels);
    let before = accuracy(&full);
    let mut found = Vec::new();
    for (compensation, grams) in
        [(Compensation::None, &Grams::default()), (Compensation::Bias, &grams), (Compensation::Weights, &grams)]
    {
        let options = channels::Options { compensation, ..channels::Options::default() };
        let (made, report) = channels::prune(&full, &options, grams).unwrap();
        judge::check(&made);
        let after = accuracy(&made);
        println!(
            "{compensation:?}: accuracy {before} to {after}, {} to {} parameters, latency {:?} to {:?}\n{:?} {:?}",
            parameters(&full),
            parameters(&made),
            latency(&engine, &full, &judging[0]),
            latency(&engine, &made, &judging[0]),
            report.notes,
            report.skipped,
        );
        assert!(parameters(&made) * 100 < parameters(&full) * 30);
        assert_eq!(report.skipped.len(), 1, "only the answers stay: {:?}", report.skipped);
        if let Some(answers) = judge::on_wgpu(&made, &digits::few()) {
            let ort = judge::firsts(&judge::answers(&engine, &made, &digits::few()));
            assert!(judge::least_cosine(&ort, &judge::firsts(&answers)) > 0.9999);
        }
        found.push(after);
    }
    assert!(found[2] > found[0], "what examples say is worth something: {found:?}");
    assert!(found[2] > 0.95, "{found:?}");
}

/// A small network with everything that ties channels together; rank 4, so shapes are told.
fn tied() -> Model {
    let kernel = |name: &str, shape: &[usize]| {
        let count = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..count).map(|at| ((at * 29 % 83) as f32 - 41.0) / 80.0).collect();
        TensorProto::of_floats(name, shape, &values)
    };
    let pads = || AttributeProto::int_list("pads", &[1, 1, 1, 1]);
    let nodes = vec![
        NodeProto::new("Conv", "stem", &["x", "stem_w", "stem_b"], &["a"]).with(pads()),
        NodeProto::new("BatchNormalization", "norm", &["a", "g", "b", "m", "v"], &["n"]),
        NodeProto::new("Relu", "relu", &["n"], &["r"]),
        NodeProto::new("Conv", "depth", &["r", "depth_w"], &["d"]).with(pads()).with(AttributeProto::int("group", 8)),
        NodeProto::new("Conv", "point", &["d", "point_w"], &["p"]),
        NodeProto::new("Add", "residual", &["p", "r"], &["s"]),
        NodeProto::new("GlobalAveragePool", "squeeze", &["s"], &["q"]),
        NodeProto::new("Conv", "excite", &["q", "excite_w"], &["e"]),
        NodeProto::new("Sigmoid", "gate", &["e"], &["t"]),
        NodeProto::new("Mul", "scale", &["s", "t"], &["u"]),
        NodeProto::new("Conv", "groups", &["u", "groups_w"], &["h"]).with(AttributeProto::int("group", 2)),
        NodeProto::new("PRelu", "leak", &["h", "slope"], &["l"]),
        NodeProto::new("Concat", "join", &["l", "u"], &["j"]).with(AttributeProto::int("axis", 1)),
        NodeProto::new("Flatten", "flat", &["j"], &["f"]),
        NodeProto::new("Gemm", "head", &["f", "head_w", "head_b"], &["y"]),
    ];
    let weights = vec![
        kernel("stem_w", &[8, 3, 3, 3]),
        kernel("stem_b", &[8]),
        kernel("g", &[8]),
        kernel("b", &[8]),
        kernel("m", &[8]),
        TensorProto::of_floats("v", &[8], &[1.5; 8]),
        kernel("depth_w", &[8, 1, 3, 3]),
        kernel("point_w", &[8, 8, 1, 1]),
        kernel("excite_w", &[8, 8, 1, 1]),
        kernel("groups_w", &[12, 4, 1, 1]),
        kernel("slope", &[12, 1, 1]),
        kernel("head_w", &[20 * 25, 4]),
        kernel("head_b", &[4]),
    ];
    hostile::with_rank(hostile::model(nodes, weights), &[1, 3, 5, 5], 2)
}

#[test]
fn channels_that_meet_go_together() {
    let Some(engine) = judge::runtime() else { return };
    let model = tied();
    let tensor = types::Tensor::from_f32(vec![1, 3, 5, 5], &[0.3; 75]).unwrap();
    let requests = [vec![types::NamedTensor { name: "x".into(), tensor }]];
    judge::answers(&engine, &model, &requests);
    let mut grams = Grams::of(&model, &Selection::default());
    judge::observe(&engine, &model, &grams.values(), &requests, |values| grams.add(values).unwrap());
    for compensation in [Compensation::None, Compensation::Bias, Compensation::Weights] {
        let options = channels::Options { compensation, ..channels::Options::default() };
        let (made, _report) = channels::prune(&model, &options, &grams).unwrap();
        judge::check(&made);
        judge::answers(&engine, &made, &requests);
        let shape = |node: &str| {
            let node = made.graph.nodes.iter().find(|found| found.name() == node).unwrap();
            made.graph.initializer(&node.input[1]).unwrap().dims.clone()
        };
        assert_eq!(shape("stem"), [4, 3, 3, 3]);
        assert_eq!(shape("depth"), [4, 1, 3, 3]);
        assert_eq!(shape("point"), [4, 4, 1, 1]);
        assert_eq!(shape("groups"), [6, 2, 1, 1]);
        assert_eq!(shape("head"), [250, 4]);
    }
}

#[test]
fn channels_that_cannot_be_followed_stay_and_it_is_said_why() {
    let mut model = tied();
    model.graph.nodes[2] = NodeProto::new("Softmax", "odd", &["n"], &["r"]).with(AttributeProto::int("axis", 1));
    let options = channels::Options { compensation: Compensation::None, ..channels::Options::default() };
    let made = channels::prune(&model, &options, &Grams::default());
    let Err(CompressError::Nothing { reason, .. }) = made else { panic!("{made:?}") };
    assert!(reason.contains("Softmax"), "{reason}");
    for fraction in [1.0, -0.1, f32::NAN] {
        let options = channels::Options { fraction, ..options.clone() };
        assert!(matches!(channels::prune(&tied(), &options, &Grams::default()), Err(CompressError::Option { .. })));
    }
}

#[test]
fn zeros_are_as_many_as_asked_for_and_make_the_file_smaller() {
    let Some(engine) = judge::runtime() else { return };
    let full = digits::model("v1/full.onnx");
    let (requests, labels) = digits::requests();
    let before = digits::accuracy(&judge::answers(&engine, &full, &requests), &labels);
    for (pattern, least) in
        [(Pattern::PerLayer(0.5), 0.85), (Pattern::Global(0.5), 0.85), (Pattern::Groups { zeros: 2, group: 4 }, 0.85)]
    {
        let options = magnitude::Options { pattern, selection: Selection::default() };
        let (made, report, layers) = magnitude::prune(&full, &options).unwrap();
        judge::check(&made);
        let after = digits::accuracy(&judge::answers(&engine, &made, &requests), &labels);
        let sum = |pick: fn(&magnitude::Sparsity) -> usize| layers.iter().map(pick).sum::<usize>();
        let (zeros, elements) = (sum(|layer| layer.zeros[1]), sum(|layer| layer.elements));
        let bytes = [sum(|layer| layer.compressed_bytes[0]), sum(|layer| layer.compressed_bytes[1])];
        println!("{pattern:?}: accuracy {before} to {after}, {zeros} of {elements} zero, zstd {bytes:?}");
        assert_eq!(report.changed.len(), 6);
        assert!((0.48..=0.51).contains(&(zeros as f64 / elements as f64)));
        assert!(bytes[1] * 3 < bytes[0] * 2);
        assert!(after > least, "{pattern:?}: {after}");
    }
}
