//! Compares the model card of the digits with the files, by the real library.
#![cfg(feature = "ort")]
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod support;

use engine::{Engine, LoadOptions, ModelBytes, OrtEngine, RunControl};
use safetensors::SafeTensors;
use types::{DType, NamedTensor, Tensor};

use support::{digits, floats, runtime};

/// Rows of the test digits that calibrated the thresholds; the others are held out.
const CALIBRATION: usize = 1_000;

fn answer(engine: &OrtEngine, file: &str, input: &NamedTensor) -> Tensor {
    let model = ModelBytes::from(digits(file));
    let mut session = engine.load(model, &LoadOptions::default()).unwrap();
    let outputs = session.run(std::slice::from_ref(input), &["logits".into()], &RunControl::default()).unwrap();
    outputs[0].tensor.clone()
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

#[test]
fn every_variant_answers_its_golden_inputs() {
    let Some(engine) = runtime() else { return };
    for (version, variant, max_abs) in ["v1", "v2"].into_iter().flat_map(|version| {
        [("int8-qdq", 1.0), ("fp32", 0.001), ("full", 0.001)].map(|(variant, max_abs)| (version, variant, max_abs))
    }) {
        let file = digits(&format!("{version}/{variant}.golden.safetensors"));
        let golden = SafeTensors::deserialize(&file).unwrap();
        let tensor = |name: &str| {
            let view = golden.tensor(name).unwrap();
            Tensor::new(DType::F32, view.shape().to_vec(), view.data().to_vec().into()).unwrap()
        };
        let input = NamedTensor { name: "image".into(), tensor: tensor("input.image") };
        let (given, wanted) = (answer(&engine, &format!("{version}/{variant}.onnx"), &input), tensor("output.logits"));
        assert_eq!(given.shape(), wanted.shape());
        let (given, wanted) = (given.to_f32().unwrap(), wanted.to_f32().unwrap());
        let off = given.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off <= max_abs, "{version}/{variant} is off by {off}");
        for (digit, (given, wanted)) in given.chunks(10).zip(wanted.chunks(10)).enumerate() {
            assert_eq!((best(given), best(wanted)), (digit, digit), "the golden rows are 0 to 9 in order");
        }
    }
}

/// Top-1 probability, as a device scores its answer.
fn score(row: &[f32]) -> f32 {
    let most = row[best(row)];
    1.0 / row.iter().map(|logit| (logit - most).exp()).sum::<f32>()
}

/// The threshold that `model.toml` gives a variant.
fn threshold(version: &str, variant: &str) -> f32 {
    let text = String::from_utf8(digits(&format!("{version}/model.toml"))).unwrap();
    let (_, rest) = text.split_once(&format!("name = \"{variant}\"")).unwrap();
    let line = rest.lines().find_map(|line| line.strip_prefix("threshold = ")).unwrap();
    line.parse().unwrap()
}

#[test]
fn the_thresholds_hold_on_digits_that_chose_none_of_them() {
    let Some(engine) = runtime() else { return };
    let mut archive = npyz::npz::NpzArchive::new(std::io::Cursor::new(digits("test/digits.npz"))).unwrap();
    let images: Vec<u8> = archive.by_name("images").unwrap().unwrap().into_vec().unwrap();
    let pixels: Vec<f32> = images.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
    let count = images.len() / 784;
    assert_eq!(count, 2_000);
    let input = floats("image", &[count, 1, 28, 28], &pixels);
    for version in ["v1", "v2"] {
        let full = answer(&engine, &format!("{version}/full.onnx"), &input).to_f32().unwrap();
        for variant in ["int8-qdq", "fp32"] {
            let own = answer(&engine, &format!("{version}/{variant}.onnx"), &input).to_f32().unwrap();
            let threshold = threshold(version, variant);
            let kept_and_differs: Vec<bool> = own
                .chunks(10)
                .zip(full.chunks(10))
                .map(|(own, full)| score(own) >= threshold && best(own) != best(full))
                .collect();
            let (calibration, held_out) = kept_and_differs.split_at(CALIBRATION);
            let wrong = |rows: &[bool]| rows.iter().filter(|&&wrong| wrong).count();
            // Four of a thousand is the most whose upper bound stays under 1 % at 95 % confidence.
            assert!(wrong(calibration) <= 4, "{version}/{variant}: {} of 1000", wrong(calibration));
            assert!(wrong(held_out) <= 10, "{version}/{variant}: {} of 1000 held out", wrong(held_out));
        }
    }
}
