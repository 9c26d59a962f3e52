//! Static int8: what it makes of real and of awkward models, run by the real ONNX Runtime.

#![expect(clippy::unwrap_used, reason = "helpers of tests may do what tests may")]

mod support;

use compress::calibrate::{Method, Range, Ranges, each, observe};
use compress::static_int8::{Activations, Options, quantize, values};
use compress::{CompressError, Examples, prepare};
use engine::OrtEngine;
use onnx_graph::proto::{AttributeProto, NodeProto, TensorProto};
use onnx_graph::{Model, Values};
use support::{Digits, catalog, cosine, floats, model, noise, noisy, npz, run, runtime, signature, value};
use zip::CompressionMethod;

const METHODS: [Method; 5] = [
    Method::MinMax,
    Method::MovingAverage { momentum: 0.1 },
    Method::Percentile { percent: 99.999 },
    Method::Entropy,
    Method::Mse,
];

fn count(model: &Model, operator: &str) -> usize {
    model.graph.nodes.iter().filter(|node| node.is(operator)).count()
}

/// Examples of one input `x` from noise.
fn noise_examples(engine: &OrtEngine, model: &Model, shape: &[usize]) -> (tempfile::TempDir, Examples) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    npz(&path, CompressionMethod::Stored, &[("x", floats(shape, &noise(7, shape.iter().product())))]);
    let examples = Examples::open(&path, &signature(engine, model)).unwrap();
    (folder, examples)
}

/// Calibrates on noise and quantizes.
fn quantized(engine: &OrtEngine, model: &Model, shape: &[usize], options: &Options) -> (Model, compress::Report) {
    let (_folder, examples) = noise_examples(engine, model, shape);
    let ranges = observe(engine, model, &examples, &values(model, options), Method::MinMax).unwrap();
    quantize(model, options, &ranges).unwrap()
}

fn near(engine: &OrtEngine, model: &Model, smaller: &Model, shape: &[usize], least: f64) {
    let input = || [("x", shape.to_vec(), noise(11, shape.iter().product()))];
    let (whole, rounded) = (run(engine, model, &input()), run(engine, smaller, &input()));
    for (whole, rounded) in whole.iter().zip(&rounded) {
        let cosine = cosine(whole, rounded);
        assert!(cosine >= least, "cosine {cosine} is below {least}");
    }
}

#[test]
fn digits_keep_their_accuracy_in_a_third_of_the_bytes_by_every_method() {
    let Some(engine) = runtime() else { return };
    let digits = Digits::load();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calibration.npz");
    digits.write(&path, 0..200);
    for file in ["v1/fp32.onnx", "v2/fp32.onnx", "v1/full.onnx"] {
        let whole = Model::open(&catalog().join(file)).unwrap();
        let model = prepare(&whole).unwrap();
        let examples = Examples::open(&path, &signature(&engine, &model)).unwrap();
        let before = digits.accuracy(&engine, &whole, 200..1000);
        let s8 = Options { activations: Activations::S8, ..Options::default() };
        let even = Options { activations_symmetric: true, reduce_range: true, ..s8.clone() };
        let one_scale = Options { per_channel: false, weights_symmetric: false, ..Options::default() };
        let forms = [s8, even, one_scale].map(|options| (Method::MinMax, options));
        for (method, options) in METHODS.map(|method| (method, Options::default())).into_iter().chain(forms) {
            let ranges = observe(&engine, &model, &examples, &values(&model, &options), method).unwrap();
            let (small, report) = quantize(&model, &options, &ranges).unwrap();
            assert!(report.skipped.is_empty(), "{:?}", report.skipped);
            let after = digits.accuracy(&engine, &small, 200..1000);
            assert!(after > before - 0.01, "{file} by {method:?} with {options:?}: {before} became {after}");
            let (large, small) = (whole.to_bytes().unwrap().len(), small.to_bytes().unwrap().len());
            assert!(small * 5 < large * 2, "{file}: {large} bytes became {small}");
        }
    }
}

#[test]
fn the_same_model_and_ranges_give_the_same_bytes() {
    let Some(engine) = runtime() else { return };
    let digits = Digits::load();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calibration.npz");
    digits.write(&path, 0..64);
    let model = prepare(&Model::open(&catalog().join("v1/full.onnx")).unwrap()).unwrap();
    let examples = Examples::open(&path, &signature(&engine, &model)).unwrap();
    let make = || {
        let ranges = observe(&engine, &model, &examples, &values(&model, &Options::default()), Method::Mse).unwrap();
        quantize(&model, &Options::default(), &ranges).unwrap().0.to_bytes().unwrap()
    };
    assert_eq!(make(), make());
}

#[test]
fn extremes_found_by_the_engine_are_those_of_the_tensors() {
    let Some(engine) = runtime() else { return };
    let digits = Digits::load();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calibration.npz");
    digits.write(&path, 0..50);
    let model = prepare(&Model::open(&catalog().join("v1/full.onnx")).unwrap()).unwrap();
    let examples = Examples::open(&path, &signature(&engine, &model)).unwrap();
    let names: Vec<String> =
        model.graph.nodes.iter().flat_map(|node| node.output.clone()).chain(["image".into()]).collect();
    let ranges = observe(&engine, &model, &examples, &names, Method::MinMax).unwrap();
    let mut seen = std::collections::BTreeMap::new();
    let mut batches = 0;
    each(&engine, &model, &examples, &names, &mut |tensors| {
        batches += tensors.iter().filter(|tensor| tensor.name == "image").count();
        for tensor in tensors {
            let (low, high): &mut (f32, f32) = seen.entry(tensor.name.clone()).or_insert((f32::MAX, f32::MIN));
            for value in tensor.tensor.to_f32().unwrap() {
                (*low, *high) = (low.min(value), high.max(value));
            }
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(batches, 7, "50 examples in batches of 8");
    assert_eq!(seen.len(), names.len());
    for (name, (low, high)) in seen {
        let range = ranges.found[&name];
        assert!(range.low <= low && (range.low == low || range.low == 0.0), "{name}: {range:?}, {low}");
        assert_eq!(range.high, high, "{name}");
    }
}

/// `x` \[n,4,6,6\] -> Conv -> Relu -> Conv -> `y`.
fn two_convolutions(shared: bool) -> Model {
    let pads = || AttributeProto::int_list("pads", &[1, 1, 1, 1]);
    let second = if shared { "w1" } else { "w2" };
    model(
        vec![
            NodeProto::new("Conv", "first", &["x", "w1", "b1"], &["a"]).with(pads()),
            NodeProto::new("Relu", "cut", &["a"], &["b"]),
            NodeProto::new("Conv", "second", &["b", second], &["y"]).with(pads()),
        ],
        vec![noisy("w1", 1, &[4, 4, 3, 3]), noisy("b1", 2, &[4]), noisy("w2", 3, &[4, 4, 3, 3])],
        vec![value("x", &[-1, 4, 6, 6])],
        vec![value("y", &[-1, 4, 6, 6])],
    )
}

#[test]
fn a_relu_vanishes_into_a_range_that_begins_at_zero_and_only_then() {
    let Some(engine) = runtime() else { return };
    let model = two_convolutions(false);
    let (small, report) = quantized(&engine, &model, &[32, 4, 6, 6], &Options::default());
    assert_eq!((count(&small, "Relu"), report.changed.len()), (0, 3));
    assert_eq!((count(&small, "QuantizeLinear"), count(&small, "DequantizeLinear")), (3, 6));
    near(&engine, &model, &small, &[8, 4, 6, 6], 0.999);
    let even = Options { activations: Activations::S8, activations_symmetric: true, ..Options::default() };
    let (small, _) = quantized(&engine, &model, &[32, 4, 6, 6], &even);
    assert_eq!(count(&small, "Relu"), 1);
    near(&engine, &model, &small, &[8, 4, 6, 6], 0.998);
    // Someone else reads what the Relu takes: it must stay.
    let mut seen = two_convolutions(false);
    seen.graph.outputs.push(value("a", &[-1, 4, 6, 6]));
    let (small, _) = quantized(&engine, &seen, &[32, 4, 6, 6], &Options::default());
    assert_eq!(count(&small, "Relu"), 1);
    near(&engine, &seen, &small, &[8, 4, 6, 6], 0.998);
}

#[test]
fn shared_weights_are_rounded_once_and_handed_out_weights_stay() {
    let Some(engine) = runtime() else { return };
    let mut model = two_convolutions(true);
    let (small, _) = quantized(&engine, &model, &[32, 4, 6, 6], &Options::default());
    let weights = small.graph.initializers.values().filter(|tensor| tensor.dims == [4, 4, 3, 3]);
    assert_eq!(weights.count(), 1);
    near(&engine, &model, &small, &[8, 4, 6, 6], 0.999);
    model.graph.outputs.push(value("w1", &[4, 4, 3, 3]));
    let (small, _) = quantized(&engine, &model, &[32, 4, 6, 6], &Options::default());
    assert!(small.graph.initializer("w1").is_some(), "the model hands it out");
    near(&engine, &model, &small, &[8, 4, 6, 6], 0.999);
}

#[test]
fn awkward_weights_are_left_alone_or_survive() {
    let Some(engine) = runtime() else { return };
    let with = |values: Vec<f32>| {
        let mut model = two_convolutions(false);
        model.graph.add_initializer(TensorProto::of_floats("w2", &[4, 4, 3, 3], &values));
        model
    };
    // A weight that is no number: that node stays, the other goes on.
    let mut spoilt = noise(3, 144);
    spoilt[17] = f32::NAN;
    let (_, report) = quantized(&engine, &with(spoilt), &[16, 4, 6, 6], &Options::default());
    assert!(report.changed.contains(&"first".to_owned()) && !report.changed.contains(&"second".to_owned()));
    // All zero, and so small that a scale would vanish.
    for tiny in [0.0, 1e-44, 1e-38] {
        let values: Vec<f32> = noise(3, 144).iter().map(|value| value * tiny).collect();
        let model = with(values);
        let (small, _) = quantized(&engine, &model, &[16, 4, 6, 6], &Options::default());
        let answer = run(&engine, &small, &[("x", vec![1, 4, 6, 6], noise(1, 144))]);
        assert!(answer[0].iter().all(|value| value.abs() < 1e-30), "{tiny}");
    }
    // A bias far beyond its products needs more than 32 bits of their scale.
    let mut model = two_convolutions(false);
    model.graph.add_initializer(TensorProto::of_floats(
        "w1",
        &[4, 4, 3, 3],
        &noise(1, 144).iter().map(|w| w * 1e-7).collect::<Vec<_>>(),
    ));
    model.graph.add_initializer(TensorProto::of_floats("b1", &[4], &[1e4, 2e4, -3e4, 5e3]));
    let (small, _) = quantized(&engine, &model, &[16, 4, 6, 6], &Options::default());
    near(&engine, &model, &small, &[4, 4, 6, 6], 0.999);
}

#[test]
fn values_without_bounds_keep_their_nodes_in_floats() {
    let Some(_engine) = runtime() else { return };
    let model = two_convolutions(false);
    let names = values(&model, &Options::default());
    assert_eq!(names, ["b", "x", "y"]);
    let range = Range { low: -1.0, high: 1.0 };
    let mut ranges = Ranges { found: names.iter().map(|name| (name.clone(), range)).collect(), ..Ranges::default() };
    ranges.found.remove("y");
    ranges.unbounded.insert("y".to_owned());
    let (small, report) = quantize(&model, &Options::default(), &ranges).unwrap();
    assert_eq!(report.skipped.len(), 1);
    assert!(report.skipped[0].reason.contains("infinite"), "{:?}", report.skipped);
    assert_eq!(report.skipped[0].node, "second");
    assert_eq!(count(&small, "Conv"), 2);
    assert!(matches!(quantize(&model, &Options::default(), &Ranges::default()), Err(CompressError::Nothing { .. })));
}

#[test]
fn infinite_and_empty_values_are_told_apart_from_ranges() {
    let Some(engine) = runtime() else { return };
    // log(x) of negative numbers is no number; x[:, 9:] of four columns is empty.
    let constants = [("start", 9), ("end", 20), ("axis", 1)];
    let model = model(
        vec![
            NodeProto::new("Log", "log", &["x"], &["spoilt"]),
            NodeProto::new("Slice", "none", &["x", "start", "end", "axis"], &["empty"]),
            NodeProto::new("Neg", "neg", &["x"], &["good"]),
            NodeProto::new("Shape", "shape", &["x"], &["whole"]),
        ],
        constants.iter().map(|(name, number)| TensorProto::of_int64(name, &[1], &[*number])).collect(),
        vec![value("x", &[-1, 4])],
        vec![value("spoilt", &[-1, 4]), value("good", &[-1, 4])],
    );
    let (_folder, examples) = noise_examples(&engine, &model, &[32, 4]);
    let names: Vec<String> = ["spoilt", "empty", "good", "whole", "x", "nowhere"].map(str::to_owned).to_vec();
    for method in METHODS {
        let ranges = observe(&engine, &model, &examples, &names, method).unwrap();
        assert_eq!(ranges.unbounded.iter().collect::<Vec<_>>(), ["spoilt"], "{method:?}");
        assert_eq!(ranges.found.keys().collect::<Vec<_>>(), ["good", "x"], "{method:?}");
        assert!(ranges.found["good"].high > 0.8 && ranges.found["good"].high <= 1.0, "{method:?}: {ranges:?}");
    }
}

#[test]
fn a_product_is_exact_about_axes_factors_and_stacks() {
    let Some(engine) = runtime() else { return };
    let products: [(NodeProto, &[usize]); 4] = [
        (NodeProto::new("MatMul", "p", &["x", "w"], &["y"]), &[6, 5]),
        (
            NodeProto::new("Gemm", "p", &["x", "w", "b"], &["y"])
                .with(AttributeProto::int("transB", 1))
                .with(AttributeProto::float("alpha", 0.5))
                .with(AttributeProto::float("beta", 3.0)),
            &[5, 6],
        ),
        (NodeProto::new("Gemm", "p", &["x", "w", "b"], &["y"]), &[6, 5]),
        (NodeProto::new("MatMul", "p", &["x", "w"], &["y"]), &[1, 6, 5]),
    ];
    for (product, shape) in products {
        let mut weights = noise(4, 30);
        // Channels of very different size: only the right axis serves them.
        let wide = *shape.last().unwrap();
        for (at, weight) in weights.iter_mut().enumerate() {
            let channel = if wide == 5 { at % 5 } else { at / 6 };
            *weight *= 10.0_f32.powi(i32::try_from(channel).unwrap() - 2);
        }
        let outputs: &[i64] = if shape.len() == 3 { &[1, -1, 5] } else { &[-1, 5] };
        let model = model(
            vec![product],
            vec![TensorProto::of_floats("w", shape, &weights), noisy("b", 9, &[1, 5])],
            vec![value("x", &[-1, 6])],
            vec![value("y", outputs)],
        );
        let (small, report) = quantized(&engine, &model, &[64, 6], &Options::default());
        assert_eq!(report.changed, ["p"]);
        if shape.len() == 2 {
            // Column by column, the small channels too.
            let input = || [("x", vec![16, 6], noise(5, 96))];
            let (whole, rounded) = (run(&engine, &model, &input()), run(&engine, &small, &input()));
            for column in 0..5 {
                let pick = |all: &[f32]| all.iter().skip(column).step_by(5).copied().collect::<Vec<_>>();
                let cosine = cosine(&pick(&whole[0]), &pick(&rounded[0]));
                assert!(cosine > 0.999, "column {column} of {shape:?}: {cosine}");
            }
        } else {
            near(&engine, &model, &small, &[16, 6], 0.999);
        }
    }
}

#[test]
fn subgraphs_read_what_they_did_before() {
    let Some(engine) = runtime() else { return };
    let branch = |operator: &str| {
        let inner = model(
            vec![NodeProto::new(operator, "inner", &["a"], &["out"])],
            vec![],
            vec![],
            vec![value("out", &[-1, 4, 6, 6])],
        );
        let mut graph = inner.graph.into_proto();
        graph.name = Some("branch".to_owned());
        graph
    };
    let attribute = |name: &str, operator: &str| AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(5),
        g: Some(branch(operator)),
        ..AttributeProto::default()
    };
    let mut model = two_convolutions(false);
    model.graph.add_initializer(TensorProto::of_raw("yes", onnx_graph::ElementType::Bool, &[], vec![1]));
    let branches = NodeProto::new("If", "if", &["yes"], &["z"]);
    model.graph.nodes.push(branches.with(attribute("then_branch", "Neg")).with(attribute("else_branch", "Abs")));
    model.graph.outputs.push(value("z", &[-1, 4, 6, 6]));
    let (small, _) = quantized(&engine, &model, &[16, 4, 6, 6], &Options::default());
    near(&engine, &model, &small, &[4, 4, 6, 6], 0.998);
}

#[test]
fn old_operator_sets_and_senseless_options_are_refused_with_what_to_do() {
    let mut model = two_convolutions(false);
    model.import("", 11);
    let refused = quantize(&model, &Options::default(), &Ranges::default()).unwrap_err().to_string();
    assert!(refused.contains("convert it first"), "{refused}");
    let Some(engine) = runtime() else { return };
    let model = two_convolutions(false);
    let (_folder, examples) = noise_examples(&engine, &model, &[2, 4, 6, 6]);
    for method in [Method::MovingAverage { momentum: 0.0 }, Method::Percentile { percent: f64::NAN }] {
        let refused = observe(&engine, &model, &examples, &[], method).unwrap_err();
        assert!(matches!(refused, CompressError::Option { .. }), "{refused:?}");
    }
    let none = examples.split(0).0;
    assert!(matches!(observe(&engine, &model, &none, &[], Method::MinMax), Err(CompressError::Examples { .. })));
}

#[test]
fn what_stands_between_convolutions_computes_in_integers() {
    let Some(engine) = runtime() else { return };
    let pads = || AttributeProto::int_list("pads", &[1, 1, 1, 1]);
    let model = model(
        vec![
            NodeProto::new("Conv", "stem", &["x", "w1", "b1"], &["a"]).with(pads()),
            NodeProto::new("Relu", "cut", &["a"], &["b"]),
            NodeProto::new("Conv", "left", &["b", "w2"], &["c"]).with(pads()),
            NodeProto::new("Add", "residual", &["b", "c"], &["d"]),
            NodeProto::new("GlobalAveragePool", "squeeze", &["d"], &["e"]),
            NodeProto::new("HardSigmoid", "excite", &["e"], &["f"]),
            NodeProto::new("Mul", "gate", &["d", "f"], &["g"]),
            NodeProto::new("MaxPool", "pool", &["g"], &["h"]).with(AttributeProto::int_list("kernel_shape", &[2, 2])),
            NodeProto::new("Concat", "join", &["h", "h"], &["i"]).with(AttributeProto::int("axis", 1)),
            NodeProto::new("Conv", "head", &["i", "w3"], &["y"]),
        ],
        vec![
            noisy("w1", 1, &[4, 4, 3, 3]),
            noisy("b1", 2, &[4]),
            noisy("w2", 3, &[4, 4, 3, 3]),
            noisy("w3", 4, &[3, 8, 1, 1]),
        ],
        vec![value("x", &[-1, 4, 6, 6])],
        vec![value("y", &[-1, 3, 5, 5])],
    );
    let (small, report) = quantized(&engine, &model, &[32, 4, 6, 6], &Options::default());
    assert_eq!(report.changed.len(), 10, "{:?}", report.changed);
    near(&engine, &model, &small, &[8, 4, 6, 6], 0.998);
    // A pool gives the integers it takes: the scale before it is the scale behind it.
    let scale = |output: &str| {
        let quantize = small.graph.nodes.iter().find(|node| node.is("DequantizeLinear") && node.output[0] == output);
        quantize.unwrap().input[1].clone()
    };
    assert_eq!(scale("g"), scale("h"));
}

/// A front end for sound: two convolutions, a power spectrum, a table of filters, a logarithm.
fn front_end() -> Model {
    // Waves of the discrete Fourier transform under a window, and overlapping triangles.
    let (samples, bins, filters) = (64_usize, 33_usize, 12_usize);
    let wave = |turn: fn(f32) -> f32| -> Vec<f32> {
        let at = move |bin: usize, sample: usize| {
            let angle = std::f32::consts::TAU * bin as f32 * sample as f32 / samples as f32;
            let window = 0.5 - 0.5 * (std::f32::consts::TAU * sample as f32 / samples as f32).cos();
            turn(angle) * window
        };
        (0..bins).flat_map(|bin| (0..samples).map(move |sample| at(bin, sample))).collect()
    };
    let triangle = |bin: usize, filter: usize| {
        let middle = (filter + 1) as f32 * bins as f32 / (filters + 1) as f32;
        (1.0 - (bin as f32 - middle).abs() / 3.0).max(0.0)
    };
    let table: Vec<f32> = (0..bins).flat_map(|bin| (0..filters).map(move |filter| triangle(bin, filter))).collect();
    let stride = || AttributeProto::int_list("strides", &[32]);
    model(
        vec![
            NodeProto::new("Conv", "real", &["x", "cosines"], &["r"]).with(stride()),
            NodeProto::new("Conv", "imaginary", &["x", "sines"], &["i"]).with(stride()),
            NodeProto::new("Mul", "rr", &["r", "r"], &["r2"]),
            NodeProto::new("Mul", "ii", &["i", "i"], &["i2"]),
            NodeProto::new("Add", "power", &["r2", "i2"], &["p"]),
            NodeProto::new("Transpose", "t", &["p"], &["pt"]).with(AttributeProto::int_list("perm", &[0, 2, 1])),
            NodeProto::new("MatMul", "mel", &["pt", "filters"], &["m"]),
            NodeProto::new("Clip", "c", &["m", "least"], &["kept"]),
            NodeProto::new("Log", "l", &["kept"], &["y"]),
        ],
        vec![
            TensorProto::of_floats("cosines", &[bins, 1, samples], &wave(f32::cos)),
            TensorProto::of_floats("sines", &[bins, 1, samples], &wave(f32::sin)),
            TensorProto::of_floats("filters", &[bins, filters], &table),
            TensorProto::of_floats("least", &[], &[1e-6]),
        ],
        vec![value("x", &[1, 1, 512])],
        vec![value("y", &[1, 15, 12])],
    )
}

#[test]
fn a_product_that_a_logarithm_reads_stays_in_float_and_is_reported() {
    let Some(engine) = runtime() else { return };
    let model = front_end();
    let (small, report) = quantized(&engine, &model, &[1, 1, 512], &Options::default());
    assert!(report.skipped.iter().any(|skipped| skipped.node == "mel" && skipped.reason.contains("logarithm")));
    assert!(report.changed.contains(&"real".to_owned()), "{report:?}");
    near(&engine, &model, &small, &[1, 1, 512], 0.99);
    let (dynamic, report) = compress::dynamic_int8::quantize(
        &model,
        &compress::dynamic_int8::Options { convolutions: true, ..Default::default() },
    )
    .unwrap();
    assert!(report.skipped.iter().any(|skipped| skipped.node == "mel" && skipped.reason.contains("logarithm")));
    near(&engine, &model, &dynamic, &[1, 1, 512], 0.99);
}
