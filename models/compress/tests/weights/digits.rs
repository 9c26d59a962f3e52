//! The digits of the catalogue: the full model and 2,000 images with labels.

use std::io::Cursor;
use std::path::Path;

use bytes::Bytes;
use compress::Grams;
use compress::weight_only::{Bits, Form, Options, quantize};
use onnx_graph::Model;
use types::{NamedTensor, Tensor};

use crate::judge;

fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../catalog/digits").join(name)).unwrap()
}

/// A model of the catalogue.
pub(crate) fn model(name: &str) -> Model {
    Model::from_bytes(Bytes::from(file(name))).unwrap()
}

/// The images in requests of 100, and every label.
pub(crate) fn requests() -> (Vec<Vec<NamedTensor>>, Vec<u8>) {
    let mut archive = npyz::npz::NpzArchive::new(Cursor::new(file("test/digits.npz"))).unwrap();
    let images: Vec<u8> = archive.by_name("images").unwrap().unwrap().into_vec().unwrap();
    let labels = archive.by_name("labels").unwrap().unwrap();
    let labels: Vec<u8> = labels.into_vec().unwrap();
    let pixels: Vec<f32> = images.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
    let request = |pixels: &[f32]| {
        let tensor = Tensor::from_f32(vec![pixels.len() / 784, 1, 28, 28], pixels).unwrap();
        vec![NamedTensor { name: "image".into(), tensor }]
    };
    (pixels.chunks(78_400).map(request).collect(), labels)
}

/// One request of few images, for devices in software.
pub(crate) fn few() -> [Vec<NamedTensor>; 1] {
    let (requests, _labels) = requests();
    let pixels = requests[0][0].tensor.to_f32().unwrap();
    let tensor = Tensor::from_f32(vec![3, 1, 28, 28], &pixels[..3 * 784]).unwrap();
    [vec![NamedTensor { name: "image".into(), tensor }]]
}

/// The part of the answers that is right.
pub(crate) fn accuracy(answers: &[Vec<NamedTensor>], labels: &[u8]) -> f64 {
    let rows: Vec<f32> = judge::firsts(answers).concat();
    let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let right = rows.chunks(10).zip(labels).filter(|(row, label)| best(row) == usize::from(**label)).count();
    right as f64 / labels.len() as f64
}

#[test]
fn gemms_become_products_of_blocks_and_keep_their_bias() {
    let Some(engine) = judge::runtime() else { return };
    let full = model("v1/full.onnx");
    let (requests, labels) = requests();
    let wanted = judge::answers(&engine, &full, &requests);
    let before = accuracy(&wanted, &labels);
    for (bits, form, symmetric) in [
        (Bits::Four, Form::MatMulNBits { accuracy_level: 0 }, false),
        (Bits::Four, Form::MatMulNBits { accuracy_level: 0 }, true),
        (Bits::Eight, Form::MatMulNBits { accuracy_level: 0 }, false),
        (Bits::Eight, Form::Qdq, true),
        (Bits::Eight, Form::Qdq, false),
    ] {
        let options = Options { bits, form, symmetric, ..Options::default() };
        let (made, report) = quantize(&full, &options, &Grams::default()).unwrap();
        assert_eq!(report.changed.len(), 2);
        judge::check(&made);
        let found = judge::answers(&engine, &made, &requests);
        let after = accuracy(&found, &labels);
        println!("{bits:?} {form:?} symmetric {symmetric}: {before} to {after}");
        assert!(after >= before - 0.005);
        if let Some(found) = judge::on_wgpu(&made, &few()) {
            let ort = judge::firsts(&judge::answers(&engine, &made, &few()));
            assert!(judge::least_cosine(&ort, &judge::firsts(&found)) > 0.9999);
        }
    }
}

#[test]
fn the_block_form_runs_at_operator_set_21() {
    let Some(engine) = judge::runtime() else { return };
    let mut full = model("v1/full.onnx");
    // Nothing that this graph uses changed between 17 and 21.
    full.import("", 21);
    full.rest.ir_version = Some(10);
    let (requests, labels) = requests();
    let before = accuracy(&judge::answers(&engine, &full, &requests), &labels);
    for symmetric in [false, true] {
        for block in [16, 256] {
            let options = Options { form: Form::Qdq, symmetric, block, ..Options::default() };
            let (made, _report) = quantize(&full, &options, &Grams::default()).unwrap();
            judge::check(&made);
            let after = accuracy(&judge::answers(&engine, &made, &requests), &labels);
            assert!(after >= before - 0.01, "symmetric {symmetric} block {block}: {before} to {after}");
        }
    }
}
