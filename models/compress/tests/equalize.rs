//! Equalization and bias correction: the same function before rounding, a better one after it, on models that need it.

#![expect(clippy::unwrap_used, reason = "helpers of tests may do what tests may")]

mod support;

use compress::calibrate::{Method, means, observe};
use compress::equalize::{cross_layer, magnitudes, smooth};
use compress::static_int8::{Options, means_wanted, quantize, quantize_corrected, values};
use compress::{CompressError, Examples, prepare};
use engine::OrtEngine;
use onnx_graph::proto::{AttributeProto, NodeProto, TensorProto};
use onnx_graph::{Model, Values};
use support::{Digits, catalog, cosine, floats, model, noise, noisy, npz, run, runtime, signature, value};
use zip::CompressionMethod;

fn constant(model: &Model, name: &str) -> (Vec<f32>, Vec<usize>) {
    let tensor = model.graph.initializer(name).unwrap();
    (tensor.floats().unwrap(), tensor.shape().unwrap())
}

/// The catalogue's full model with the channels of its first convolutions scaled by up to 1000, and back behind them.
fn spoilt_digits() -> Model {
    let mut model = prepare(&Model::open(&catalog().join("v1/full.onnx")).unwrap()).unwrap();
    let convolutions: Vec<Vec<String>> =
        model.graph.nodes.iter().filter(|node| node.is("Conv")).map(|node| node.input.clone()).collect();
    for pair in convolutions.windows(2) {
        let (mut from, from_shape) = constant(&model, &pair[0][1]);
        let (mut bias, bias_shape) = constant(&model, &pair[0][2]);
        let (mut to, to_shape) = constant(&model, &pair[1][1]);
        let channels = from_shape[0];
        let factor = |channel: usize| 1000.0_f32.powf(channel as f32 / channels as f32);
        let (given, taken) = (from.len() / channels, to_shape[2] * to_shape[3]);
        from.iter_mut().enumerate().for_each(|(at, value)| *value *= factor(at / given));
        bias.iter_mut().enumerate().for_each(|(at, value)| *value *= factor(at));
        to.iter_mut().enumerate().for_each(|(at, value)| *value /= factor(at / taken % channels));
        model.graph.add_initializer(TensorProto::of_floats(&pair[0][1], &from_shape, &from));
        model.graph.add_initializer(TensorProto::of_floats(&pair[0][2], &bias_shape, &bias));
        model.graph.add_initializer(TensorProto::of_floats(&pair[1][1], &to_shape, &to));
    }
    model
}

fn quantized(engine: &OrtEngine, model: &Model, examples: &Examples, options: &Options) -> Model {
    let ranges = observe(engine, model, examples, &values(model, options), Method::MinMax).unwrap();
    quantize(model, options, &ranges).unwrap().0
}

#[test]
fn digits_with_rescaled_channels_are_saved_by_equalization() {
    let Some(engine) = runtime() else { return };
    let digits = Digits::load();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calibration.npz");
    digits.write(&path, 0..128);
    let spoilt = spoilt_digits();
    let examples = Examples::open(&path, &signature(&engine, &spoilt)).unwrap();
    let options = Options { per_channel: false, ..Options::default() };
    let before = digits.accuracy(&engine, &spoilt, 500..1000);
    let rounded = digits.accuracy(&engine, &quantized(&engine, &spoilt, &examples, &options), 500..1000);
    let (equal, report) = cross_layer(&spoilt);
    assert!(report.changed.len() >= 2, "{report:?}");
    assert!((digits.accuracy(&engine, &equal, 500..1000) - before).abs() < 0.003, "the function stays");
    let saved = digits.accuracy(&engine, &quantized(&engine, &equal, &examples, &options), 500..1000);
    assert!(rounded < before - 0.05, "the model needs no help: {before} became {rounded}");
    assert!(saved > before - 0.01, "{before} became {rounded}, and {saved} after equalization");
}

/// `x` \[n,4\] -> LayerNormalization with outlier channels -> two products.
fn outliers() -> Model {
    let norm = NodeProto::new("LayerNormalization", "norm", &["x", "gain", "shift"], &["n"]);
    let mut gain = vec![1.0; 16];
    (gain[3], gain[11]) = (120.0, 80.0);
    let mut built = model(
        vec![
            norm.with(AttributeProto::int("axis", -1)),
            NodeProto::new("MatMul", "q", &["n", "wq"], &["q"]),
            NodeProto::new("Gemm", "k", &["n", "wk", "bk"], &["k"]).with(AttributeProto::int("transB", 1)),
        ],
        vec![
            TensorProto::of_floats("gain", &[16], &gain),
            noisy("shift", 2, &[16]),
            TensorProto::of_floats("wq", &[16, 8], &damped(&noise(3, 128), |at| at / 8)),
            TensorProto::of_floats("wk", &[8, 16], &damped(&noise(4, 128), |at| at % 16)),
            noisy("bk", 5, &[8]),
        ],
        vec![value("x", &[-1, 16])],
        vec![value("q", &[-1, 8]), value("k", &[-1, 8])],
    );
    built.import("", 17);
    built
}

/// Weights of the outlier channels are small, as training leaves them.
fn damped(weights: &[f32], channel: impl Fn(usize) -> usize) -> Vec<f32> {
    let damp = |at: usize| if matches!(channel(at), 3 | 11) { 0.01 } else { 1.0 };
    weights.iter().enumerate().map(|(at, weight)| weight * damp(at)).collect()
}

#[test]
fn outlier_channels_of_a_normalization_are_smoothed_into_the_weights() {
    let Some(engine) = runtime() else { return };
    let model = outliers();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    npz(&path, CompressionMethod::Stored, &[("x", floats(&[64, 16], &noise(8, 64 * 16)))]);
    let examples = Examples::open(&path, &signature(&engine, &model)).unwrap();
    let seen = magnitudes(&engine, &model, &examples).unwrap();
    let (smoothed, report) = smooth(&model, &seen, 0.5).unwrap();
    assert_eq!(report.changed, ["norm"]);
    let answer = |model: &Model| run(&engine, model, &[("x", vec![32, 16], noise(9, 512))]);
    let whole = answer(&model);
    for (before, after) in whole.iter().zip(&answer(&smoothed)) {
        assert!(cosine(before, after) > 0.999_999, "the function stays");
    }
    let options = Options::default();
    let rounded = answer(&quantized(&engine, &model, &examples, &options));
    let helped = answer(&quantized(&engine, &smoothed, &examples, &options));
    for at in 0..2 {
        let (before, after) = (1.0 - cosine(&whole[at], &rounded[at]), 1.0 - cosine(&whole[at], &helped[at]));
        assert!(after * 4.0 < before, "error {before} became {after}");
    }
    assert!(matches!(smooth(&model, &seen, f32::NAN), Err(CompressError::Option { .. })));
}

#[test]
fn a_normalization_that_others_read_stays_and_is_named() {
    let Some(engine) = runtime() else { return };
    let mut model = outliers();
    model.graph.outputs.push(value("n", &[-1, 16]));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    npz(&path, CompressionMethod::Stored, &[("x", floats(&[4, 16], &noise(8, 64)))]);
    let examples = Examples::open(&path, &signature(&engine, &model)).unwrap();
    let seen = magnitudes(&engine, &model, &examples).unwrap();
    let (same, report) = smooth(&model, &seen, 0.5).unwrap();
    assert_eq!((report.changed.len(), report.skipped.len()), (0, 1));
    assert_eq!(same.graph.nodes, model.graph.nodes);
}

#[test]
fn the_mean_error_of_rounded_weights_is_taken_out_of_the_bias() {
    let Some(engine) = runtime() else { return };
    let pads = || AttributeProto::int_list("pads", &[1, 1, 1, 1]);
    let model = model(
        vec![
            NodeProto::new("Conv", "first", &["x", "w1", "b1"], &["a"]).with(pads()),
            NodeProto::new("Relu", "cut", &["a"], &["b"]),
            NodeProto::new("Conv", "second", &["b", "w2"], &["c"]),
            NodeProto::new("Relu", "cut2", &["c"], &["d"]),
            NodeProto::new("Flatten", "flat", &["d"], &["e"]),
            NodeProto::new("Gemm", "head", &["e", "w3", "b3"], &["y"]),
        ],
        vec![
            noisy("w1", 1, &[8, 4, 3, 3]),
            // High biases: everything behind them is positive.
            TensorProto::of_floats("b1", &[8], &[5.0; 8]),
            noisy("w2", 3, &[8, 8, 1, 1]),
            noisy("w3", 4, &[288, 5]),
            noisy("b3", 5, &[5]),
        ],
        vec![value("x", &[-1, 4, 6, 6])],
        vec![value("y", &[-1, 5])],
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    npz(&path, CompressionMethod::Stored, &[("x", floats(&[64, 4, 6, 6], &noise(8, 64 * 144)))]);
    let examples = Examples::open(&path, &signature(&engine, &model)).unwrap();
    // Coarse weights, so that there is something to correct.
    let options = Options { per_channel: false, reduce_range: true, ..Options::default() };
    let ranges = observe(&engine, &model, &examples, &values(&model, &options), Method::MinMax).unwrap();
    let seen = means(&engine, &model, &examples, &means_wanted(&model)).unwrap();
    assert_eq!(seen.0.keys().collect::<Vec<_>>(), ["b", "e", "x"]);
    let plain = quantize(&model, &options, &ranges).unwrap().0;
    let corrected = quantize_corrected(&model, &options, &ranges, &seen).unwrap().0;
    let answer = |model: &Model| run(&engine, model, &[("x", vec![64, 4, 6, 6], noise(12, 64 * 144))]).remove(0);
    let whole = answer(&model);
    let mean_error = |rounded: &[f32]| {
        let sums = (0..5).map(|channel| {
            let errors = whole.iter().zip(rounded).skip(channel).step_by(5).map(|(a, b)| f64::from(b - a));
            (errors.sum::<f64>() / 64.0).abs()
        });
        sums.sum::<f64>()
    };
    let (before, after) = (mean_error(&answer(&plain)), mean_error(&answer(&corrected)));
    assert!(after * 2.0 < before, "mean error {before} became {after}");
}
