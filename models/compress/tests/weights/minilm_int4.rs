//! Weight-only quantization of MiniLM: the bar is 0.99 of sentence embeddings.

use compress::weight_only::{Bits, Form, Method, Options, quantize};
use compress::{Grams, Selection};
use onnx_graph::Model;

use crate::{judge, minilm};

/// The least cosine of sentence embeddings to f32.
const BAR: f64 = 0.99;

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
    let small = full.to_bytes().unwrap().len() * 22 / 100;
    for (method, symmetric, block) in [
        (Method::Rtn, false, 32),
        (Method::Rtn, true, 32),
        (Method::Rtn, false, 16),
        (Method::Gptq { act_order: true }, false, 16),
        (Method::Gptq { act_order: true }, true, 32),
        (Method::Rtn, false, 128),
        (Method::Hqq, false, 32),
        (Method::Gptq { act_order: false }, false, 32),
        (Method::Gptq { act_order: true }, false, 32),
        (Method::Gptq { act_order: true }, false, 128),
    ] {
        let started = std::time::Instant::now();
        let options = Options { method, symmetric, block, ..Options::default() };
        let (made, report) = quantize(&full, &options, &grams).unwrap();
        let took = started.elapsed();
        judge::check(&made);
        let found = minilm::embeddings(&judge::answers(&engine, &made, judging));
        let mean = wanted.iter().zip(&found).map(|(a, b)| judge::cosine(a, b)).sum::<f64>() / wanted.len() as f64;
        let least = judge::least_cosine(&wanted, &found);
        let bytes = made.to_bytes().unwrap().len();
        println!(
            "{method:?} symmetric {symmetric} block {block}: mean {mean:.5} least {least:.5} {bytes} bytes {took:?}"
        );
        assert!(report.changed.len() >= 36, "{:?}", report.skipped);
        if block == 32 && std::env::var_os("LOOK").is_none() {
            assert!(bytes < small, "{bytes}");
            assert!(mean >= BAR, "{method:?}: {mean}");
        }
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
