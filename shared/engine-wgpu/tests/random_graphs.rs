//! Random models (see [`testkit::graphs`]) in this engine and in ONNX Runtime: the same answer, or an error from both.
//!
//! Also `check` says of each model what is true: it loads if and only if `check` finds nothing in the way. `RANDOM_GRAPHS=FROM..TO`
//! runs other seeds than the default ones.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests may do what tests may")]

mod oracle;

use std::ops::Range;

use engine::{Engine, LoadOptions, ModelBytes, RunControl, RunError, Session};
use engine_wgpu::gpu::AdapterChoice;
use engine_wgpu::{BUDGET_BYTES, WgpuEngine, check};
use telemetry::chain;
use testkit::graphs::{Family, RandomGraph, random};
use types::{DType, NamedTensor};

/// Models of the ordinary suite.
const SEEDS: Range<u64> = 0..50;

/// Models of the long suite.
const SEEDS_LONG: Range<u64> = 1000..2000;

/// Share of the models that ONNX Runtime may refuse, in percent: the others are compared.
const REFUSED_PERCENT_MAX: usize = 10;

/// Both families of kernels.
fn engines() -> Option<[WgpuEngine; 2]> {
    let open = |tiles| {
        let choice = AdapterChoice { allow_software: true, workgroup_tiles: Some(tiles), ..AdapterChoice::default() };
        WgpuEngine::open(&choice, BUDGET_BYTES, None)
    };
    match (open(false), open(true)) {
        (Ok(plain), Ok(tiles)) => Some([plain, tiles]),
        (Err(error), _) | (_, Err(error)) => {
            println!("skipped: {error}");
            None
        }
    }
}

/// Result of a comparison.
enum Outcome {
    /// Both engines gave the same answers, or both refused the request.
    Same,
    /// ONNX Runtime does not load the model.
    Refused(String),
}

/// Whether the engine refused a request because a number does not fit the device.
fn is_out_of_range(error: &RunError) -> bool {
    matches!(error, RunError::Refused(text) if text.contains("32 bits"))
}

fn compare(graph: &RandomGraph, wgpu: &WgpuEngine) -> Result<Outcome, String> {
    let runtime = oracle::runtime().ok_or("no runtime")?;
    let report = check(&graph.model).map_err(|error| format!("check refuses the file: {error:?}"))?;
    let loaded = wgpu.load_checked(&graph.model);
    let mut session = match (report.can_run(), loaded) {
        (true, Ok(session)) => Some(session),
        (true, Err(error)) => return Err(format!("check lets it pass, and load refuses: {}", chain(&error))),
        (false, Ok(_session)) => return Err(format!("check refuses what loads: {:?}", report.unsupported)),
        (false, Err(_alike)) => None,
    };
    let mut oracle = match runtime.load(ModelBytes::from(graph.model.clone()), &LoadOptions::default()) {
        Ok(oracle) => oracle,
        Err(error) => return Ok(Outcome::Refused(chain(&error))),
    };
    let Some(session) = &mut session else {
        return Err(format!("ONNX Runtime runs it, and check refuses: {:?}", report.unsupported));
    };
    for (at, inputs) in graph.examples.iter().enumerate() {
        let expected = oracle.run(inputs, &[], &RunControl::default());
        let answer = session.run(inputs, &[], &RunControl::default());
        match (expected, answer) {
            (Ok(expected), Ok(answer)) => {
                for (expected, answer) in expected.iter().zip(&answer) {
                    differ(expected, answer, graph).map_or(Ok(()), |why| Err(format!("example {at}: {why}")))?;
                }
            }
            (Err(_), Err(RunError::Refused(_))) => {}
            (Ok(_), Err(error)) if is_out_of_range(&error) => {}
            (Ok(_), Err(error)) => return Err(format!("example {at}: only this engine fails: {}", chain(&error))),
            // A value of a quantized chain that a branch captures is missing there: ONNX Runtime removes its `DequantizeLinear`.
            (Err(error), Ok(_)) if chain(&error).contains("Missing Input") => {
                return Ok(Outcome::Refused(chain(&error)));
            }
            (Err(error), Ok(_)) => return Err(format!("example {at}: only ONNX Runtime fails: {}", chain(&error))),
            (Err(_), Err(error)) => {
                return Err(format!("example {at}: an error of the engine, not of the request: {}", chain(&error)));
            }
        }
    }
    Ok(Outcome::Same)
}

/// Returns the first difference of two answers; `None` where they are the same.
fn differ(expected: &NamedTensor, answer: &NamedTensor, graph: &RandomGraph) -> Option<String> {
    let name = &expected.name;
    let (expected, answer) = (&expected.tensor, &answer.tensor);
    if (expected.shape(), expected.dtype()) != (answer.shape(), answer.dtype()) {
        let [expected, answer] = [expected, answer].map(|tensor| (tensor.dtype(), tensor.shape()));
        return Some(format!("{name} is {answer:?}, not {expected:?}"));
    }
    if expected.dtype() != DType::F32 {
        return (expected.data() != answer.data()).then(|| format!("{name} differs in its integers"));
    }
    let (a, b) = (expected.to_f32().unwrap(), answer.to_f32().unwrap());
    let largest = a.iter().filter(|value| value.is_finite()).fold(1e-3_f32, |largest, value| largest.max(value.abs()));
    let near = |x: f32, y: f32| (x.is_nan() && y.is_nan()) || x == y || (x - y).abs() <= graph.tolerance * largest;
    let wrong: Vec<usize> = (0..a.len()).filter(|&at| !near(a[at], b[at])).collect();
    let &first = wrong.first()?;
    let count = |of: &[usize]| f32::from(u16::try_from(of.len()).unwrap_or(u16::MAX));
    let all: Vec<usize> = (0..a.len()).collect();
    // Of few elements one may always be such a one.
    if graph.outliers > 0.0 && count(&wrong) <= (count(&all) * graph.outliers).max(1.0) {
        return None;
    }
    Some(format!("{name}: {} of {} differ, element {first} is {}, not {}", wrong.len(), a.len(), b[first], a[first]))
}

fn compare_all(seeds: Range<u64>) {
    if oracle::runtime().is_none() {
        return;
    }
    let Some(engines) = engines() else { return };
    let stated = std::env::var("RANDOM_GRAPHS").ok().and_then(|range| {
        let (from, to) = range.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    let (mut wrong, mut refused, mut all) = (Vec::new(), Vec::new(), 0);
    for seed in stated.unwrap_or(seeds) {
        let family = if seed % 4 == 0 { Family::Layers } else { Family::Any };
        let graph = random(family, seed);
        all += 1;
        // ONNX Runtime may end the process: the last line says at which model.
        println!("{family:?} {seed}: {}", graph.listing);
        match compare(&graph, &engines[usize::from(seed % 3 == 0)]) {
            Ok(Outcome::Same) => {}
            Ok(Outcome::Refused(why)) => refused.push(format!("{family:?} {seed} ({}): {why}", graph.listing)),
            Err(why) => wrong.push(format!("{family:?} {seed} ({}): {why}", graph.listing)),
        }
    }
    println!("{all} models, {} refused by ONNX Runtime:\n{}", refused.len(), refused.join("\n"));
    assert!(wrong.is_empty(), "{} of {all} models:\n{}", wrong.len(), wrong.join("\n"));
    assert!(refused.len() * 100 <= all * REFUSED_PERCENT_MAX, "too few models are compared:\n{}", refused.join("\n"));
}

#[test]
fn random_models_are_answered_as_onnx_runtime_answers_them() {
    compare_all(SEEDS);
}

#[test]
fn a_thousand_random_models_are_answered_as_onnx_runtime_answers_them() {
    if !testkit::tools::runs_long("a thousand random models") {
        return;
    }
    compare_all(SEEDS_LONG);
}
