//! Who says whether a produced model is good: ONNX Runtime, our wgpu engine, onnx.checker, and a likeness.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use engine::{Engine, LoadOptions, RunControl, Session as _};
use engine_wgpu::gpu::AdapterChoice;
use engine_wgpu::{BUDGET_BYTES, WgpuEngine};
use onnx_graph::Model;
use onnx_graph::proto::ValueInfoProto;
use types::NamedTensor;

pub(crate) use crate::support::runtime;

/// Names the Python interpreter that has onnx; without it models are not checked by onnx.checker.
const PYTHON_ENV: &str = "SANDERLING_COMPRESS_PYTHON";

/// Runs a model on each request and gives the outputs of each.
pub(crate) fn answers(engine: &dyn Engine, model: &Model, requests: &[Vec<NamedTensor>]) -> Vec<Vec<NamedTensor>> {
    let mut session = engine.load(model.to_bytes().unwrap().into(), &LoadOptions::default()).unwrap();
    requests.iter().map(|request| session.run(request, &[], &RunControl::default()).unwrap()).collect()
}

/// Hands the values of these names in each run to `see`, by making them outputs of the model.
pub(crate) fn observe(
    engine: &dyn Engine,
    model: &Model,
    names: &[String],
    requests: &[Vec<NamedTensor>],
    mut see: impl FnMut(&[NamedTensor]),
) {
    let mut exposed = model.clone();
    let known: Vec<String> = model.graph.outputs.iter().map(|output| output.name().to_owned()).collect();
    let inputs: Vec<String> = model.graph.inputs.iter().map(|input| input.name().to_owned()).collect();
    let value = |name: &String| ValueInfoProto { name: Some(name.clone()), ..ValueInfoProto::default() };
    exposed
        .graph
        .outputs
        .extend(names.iter().filter(|name| !known.contains(name) && !inputs.contains(name)).map(value));
    let mut session = engine.load(exposed.to_bytes().unwrap().into(), &LoadOptions::default()).unwrap();
    for request in requests {
        see(request);
        see(&session.run(request, &[], &RunControl::default()).unwrap());
    }
}

/// Runs the model on lavapipe or a real GPU; `None` (after saying why) without any device.
pub(crate) fn on_wgpu(model: &Model, requests: &[Vec<NamedTensor>]) -> Option<Vec<Vec<NamedTensor>>> {
    // One at a time: a device in software takes the whole machine.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let choice = AdapterChoice { allow_software: true, ..AdapterChoice::default() };
    let engine = WgpuEngine::open(&choice, BUDGET_BYTES, None).map_err(|error| println!("skipped: {error}")).ok()?;
    let mut session = engine.load_checked(&model.to_bytes().unwrap()).unwrap();
    Some(requests.iter().map(|request| session.run(request, &[], &RunControl::default()).unwrap()).collect())
}

/// Checks a model by onnx.checker with full shape inference; says so when there is no onnx here.
pub(crate) fn check(model: &Model) {
    let cached = engine::library::developer_library()
        .and_then(|library| Some(library.ancestors().nth(4)?.join("python/compress/bin/python")));
    let Some(python) = std::env::var_os(PYTHON_ENV).map(PathBuf::from).or(cached).filter(|path| path.is_file()) else {
        println!("skipped: onnx.checker, because {PYTHON_ENV} names no Python with onnx");
        return;
    };
    // Operators of com.microsoft have no schema there; the checker passes them over, shape inference in strict mode too.
    let script = "import sys, onnx; onnx.checker.check_model(onnx.load_from_string(sys.stdin.buffer.read()))";
    let mut child =
        Command::new(python).args(["-c", script]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&model.to_bytes().unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "onnx.checker: {}", String::from_utf8_lossy(&output.stderr));
}

/// The cosine of two vectors.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}

/// The first output of each answer.
pub(crate) fn firsts(answers: &[Vec<NamedTensor>]) -> Vec<Vec<f32>> {
    answers.iter().map(|answer| answer[0].tensor.to_f32().unwrap()).collect()
}

/// The smallest cosine between the first outputs of two lists of answers.
pub(crate) fn least_cosine(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| cosine(a, b)).fold(f64::INFINITY, f64::min)
}
