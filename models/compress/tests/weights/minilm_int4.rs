//! Weight-only quantization of MiniLM: the bar is 0.99 of sentence embeddings.

use compress::weight_only::{Bits, Form, Method, Options, quantize};
use compress::{Grams, Selection};
use onnx_graph::Model;

use crate::{judge, minilm};

/// The mean cosine of sentence embeddings to f32.
const BAR: f64 = 0.99;

/// What `matmul_nbits_quantizer` of onnxruntime 1.32.0 reaches on the same sentences with its default method, in blocks of
/// 32 with and without zero points.
const RTN_OF_PYTHON: [f64; 2] = [0.97182, 0.96573];

fn grams(engine: &dyn engine::Engine, model: &Model) -> Grams {
    let mut grams = Grams::of(model, &Selection::default());
    let requests = minilm::requests();
    judge::observe(engine, model, &grams.values(), &requests[..minilm::TEACHING], |values| grams.add(values).unwrap());
    grams
}

#[test]
fn minilm_of_four_bits_keeps_its_embeddings() {
    let (Some(engine), Some(full)) = (judge::runtime(), minilm::full()) else { return };
    let judging = &minilm::requests()[minilm::TEACHING..];
    let wanted = minilm::embeddings(&judge::answers(&engine, &full, judging));
    let grams = grams(&engine, &full);
    // HQQ is the largest: its zero points are floats.
    let small = full.to_bytes().unwrap().len() * 23 / 100;
    for (method, symmetric, least) in [
        (Method::Rtn, false, RTN_OF_PYTHON[0]),
        (Method::Rtn, true, RTN_OF_PYTHON[1]),
        (Method::Hqq, false, 0.97),
        (Method::Gptq { act_order: true }, false, BAR),
    ] {
        let options = Options { method, symmetric, ..Options::default() };
        let (made, report) = quantize(&full, &options, &grams).unwrap();
        judge::check(&made);
        let found = minilm::embeddings(&judge::answers(&engine, &made, judging));
        let mean = wanted.iter().zip(&found).map(|(a, b)| judge::cosine(a, b)).sum::<f64>() / wanted.len() as f64;
        let bytes = made.to_bytes().unwrap().len();
        let worst = judge::least_cosine(&wanted, &found);
        println!("{method:?} symmetric {symmetric}: mean {mean:.5} least {worst:.5} {bytes} bytes");
        assert!(report.changed.len() >= 36, "{:?}", report.skipped);
        assert!(bytes < small, "{bytes}");
        assert!(mean >= least, "{method:?}: {mean}");
    }
}

#[test]
fn minilm_of_four_bits_runs_on_wgpu_alike() {
    let (Some(engine), Some(full)) = (judge::runtime(), minilm::full()) else { return };
    let (made, _report) = quantize(&full, &Options::default(), &Grams::default()).unwrap();
    let requests = &minilm::short();
    let Some(found) = judge::on_wgpu(&made, requests) else { return };
    let wanted = judge::firsts(&judge::answers(&engine, &made, requests));
    assert!(judge::least_cosine(&wanted, &judge::firsts(&found)) > 0.9999);
}

#[test]
fn minilm_of_eight_bits_is_as_good_as_whole() {
    let (Some(engine), Some(full)) = (judge::runtime(), minilm::full()) else { return };
    let judging = &minilm::requests()[..10];
    let wanted = minilm::embeddings(&judge::answers(&engine, &full, judging));
    for form in [Form::MatMulNBits { accuracy_level: 4 }, Form::MatMulNBits { accuracy_level: 0 }, Form::Qdq] {
        let options = Options { bits: Bits::Eight, form, block: 64, ..Options::default() };
        let (made, _report) = quantize(&full, &options, &Grams::default()).unwrap();
        judge::check(&made);
        let found = minilm::embeddings(&judge::answers(&engine, &made, judging));
        let least = judge::least_cosine(&wanted, &found);
        println!("{form:?}: least {least:.6}");
        assert!(least > 0.999, "{form:?}: {least}");
    }
}
