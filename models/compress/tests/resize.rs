//! A `Resize` along some axes keeps its answers when preparation writes it for all axes, and its shape is inferred rightly.
#![expect(clippy::unwrap_used, reason = "helpers of tests may do what tests may")]

mod support;

use std::collections::HashMap;

use compress::prepare;
use engine::{Engine, LoadOptions, OrtEngine, RunControl};
use onnx_graph::infer::{Dim, infer};
use onnx_graph::proto::{AttributeProto, NodeProto, TensorProto};
use onnx_graph::{Attributes, Model, Values};
use support::{model, noise, runtime, value};
use types::{NamedTensor, Tensor};

/// Number of random nodes.
const NODES: u64 = 300;

/// Random numbers that a seed repeats.
struct Random(Vec<f32>);

impl Random {
    fn new(seed: u64) -> Self {
        Self(noise(seed, 64))
    }

    /// A number from 0 to below `end`.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers")]
    fn below(&mut self, end: u8) -> u8 {
        let drawn = self.0.pop().unwrap().abs() * 1e3;
        ((drawn - drawn.floor()) * f32::from(end)) as u8
    }
}

/// A model of one `Resize` along axes; the batch is open where it stays.
fn drawn(seed: u64) -> Model {
    let mut random = Random::new(seed);
    let rank = 2 + random.below(3);
    let mut shape: Vec<i64> = (0..rank).map(|_| 2 + i64::from(random.below(6))).collect();
    let mut axes: Vec<u8> = (0..rank).collect();
    axes.rotate_left(usize::from(random.below(rank)));
    axes.truncate(usize::from(1 + random.below(rank)));
    let policies = ["stretch", "not_larger", "not_smaller"];
    let by_sizes = random.below(2) == 0;
    let policy = if by_sizes { policies[usize::from(random.below(3))] } else { "stretch" };
    // ONNX Runtime ignores negative axes under a policy.
    let may_be_negative = policy == "stretch";
    let signed = axes
        .iter()
        .map(|&axis| i64::from(axis) - if may_be_negative && random.below(2) == 0 { i64::from(rank) } else { 0 });
    let mut resize = NodeProto::new("Resize", "resize", &["x", "", "scales"], &["y"])
        .with(AttributeProto::int_list("axes", &signed.collect::<Vec<_>>()))
        .with(AttributeProto::text("mode", "nearest"))
        .with(AttributeProto::text("keep_aspect_ratio_policy", policy));
    let mut constants = vec![TensorProto::of_floats("empty", &[0], &[])];
    if by_sizes {
        let sizes: Vec<i64> = axes.iter().map(|_| 1 + i64::from(random.below(12))).collect();
        constants.push(TensorProto::of_int64("sizes", &[axes.len()], &sizes));
        // An optional input is left out, or an empty tensor.
        resize.input =
            vec!["x".into(), String::new(), ["", "empty"][usize::from(random.below(2))].into(), "sizes".into()];
    } else {
        let scales: Vec<f32> = axes.iter().map(|_| 0.6 + f32::from(random.below(10)) / 4.0).collect();
        constants.push(TensorProto::of_floats("scales", &[axes.len()], &scales));
    }
    if random.below(3) == 0 {
        let begins = axes.iter().map(|_| f32::from(random.below(4)) / 10.0).collect::<Vec<_>>();
        let region = [begins, vec![0.9; axes.len()]].concat();
        constants.push(TensorProto::of_floats("roi", &[region.len()], &region));
        resize.input[1] = "roi".into();
        resize = resize.with(AttributeProto::text("coordinate_transformation_mode", "tf_crop_and_resize"));
    }
    // The batch is often open.
    if !axes.contains(&0) {
        shape[0] = -1;
    }
    let mut made = model(vec![resize], constants, vec![value("x", &shape)], vec![value("y", &vec![-1; shape.len()])]);
    made.import("", 18);
    made
}

fn answer(engine: &OrtEngine, model: &Model, input: &NamedTensor) -> Tensor {
    let mut session = engine.load(model.to_bytes().unwrap().into(), &LoadOptions::default()).unwrap();
    session.run(std::slice::from_ref(input), &[], &RunControl::default()).unwrap().remove(0).tensor
}

#[test]
fn resizing_along_axes_answers_the_same_for_all_axes() {
    let Some(engine) = runtime() else { return };
    let (mut spread, mut by_sizes) = (0, 0);
    for seed in 1..=NODES {
        let original = drawn(seed);
        let types = infer(&original, &HashMap::new());
        let shape = types.shape("x").unwrap().iter().map(|dim| usize::try_from(dim.known().unwrap_or(2)).unwrap());
        let shape: Vec<usize> = shape.collect();
        let values = noise(seed, shape.iter().product());
        let input = NamedTensor { name: "x".into(), tensor: Tensor::from_f32(shape, &values).unwrap() };
        let wanted = answer(&engine, &original, &input);
        let prepared = prepare(&original).unwrap();
        let node = prepared.graph.nodes.iter().find(|node| node.is("Resize")).unwrap();
        if node.attr("axes").is_none() {
            spread += 1;
            by_sizes += u64::from(original.graph.nodes[0].input.len() > 3);
        }
        let found = answer(&engine, &prepared, &input);
        assert_eq!((wanted.shape(), wanted.data()), (found.shape(), found.data()), "seed {seed}: {original:?}");
        for (dim, &size) in types.shape("y").unwrap().iter().zip(wanted.shape()) {
            let is_right = dim.known().is_none_or(|known| usize::try_from(known) == Ok(size));
            assert!(is_right, "seed {seed}: {:?} inferred, not {:?}", types.shape("y"), wanted.shape());
        }
        let open = types.shape("y").unwrap().iter().filter(|dim| matches!(dim, Dim::Unknown)).count();
        assert!(open <= 1, "seed {seed}: {:?}", types.shape("y"));
    }
    println!("{spread} of {NODES} are written for all axes, {by_sizes} of them had sizes");
    assert!(
        spread > NODES / 2 && by_sizes > NODES / 5,
        "only {spread} of {NODES} are written for all axes, {by_sizes} with sizes"
    );
}
