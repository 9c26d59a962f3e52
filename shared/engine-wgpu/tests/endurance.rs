//! What a device that runs for months needs: the same bits every time, no growing memory, sessions that do not disturb each
//! other, and a lost device that says so.
#![expect(clippy::unwrap_used, reason = "helpers of tests may do what tests may")]

mod support;

use std::fs;
use std::path::Path;

use engine::{Engine, RunControl, RunError, Session};
use engine_wgpu::WgpuEngine;
use engine_wgpu::gpu::AdapterChoice;
use rten_onnx::onnx::DataType;
use support::{Model, engine, f32s};
use types::NamedTensor;

/// Most that the process may grow over the runs, in bytes: a leak of 2 kB a run would show.
const GROWTH_BYTES_MAX: u64 = 24 * 1024 * 1024;

const RUNS: usize = 10_000;

fn digits(file: &str) -> Vec<u8> {
    fs::read(
        Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into()))
            .join("../../models/catalog/digits")
            .join(file),
    )
    .unwrap()
}

/// A made-up image; another for each number.
fn image(number: usize, batch: usize) -> NamedTensor {
    let pixels: Vec<f32> = (0..batch * 784).map(|at| ((at * 37 + number * 101) % 256) as f32 / 255.0).collect();
    f32s("image", &[batch, 1, 28, 28], &pixels)
}

fn answer(session: &mut dyn Session, input: NamedTensor) -> Vec<NamedTensor> {
    session.run(&[input], &[], &RunControl::default()).unwrap()
}

/// Memory of this process that is not on disk, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn the_same_model_gives_the_same_bits_in_every_session() {
    let Some(engine) = engine() else { return };
    for file in ["v2/fp32.onnx", "v2/int8-qdq.onnx", "v2/full.onnx"] {
        let model = digits(file);
        let mut first = engine.load_checked(&model).unwrap();
        let mut second = engine.load_checked(&model).unwrap();
        for batch in [1, 3, 1, 16] {
            let expected = answer(&mut first, image(batch, batch));
            assert_eq!(answer(&mut first, image(batch, batch)), expected, "{file}, again");
            assert_eq!(answer(&mut second, image(batch, batch)), expected, "{file}, another session");
        }
    }
}

#[test]
fn memory_does_not_grow_over_ten_thousand_runs() {
    let Some(engine) = engine() else { return };
    let model = Model::new(17)
        .input("x", DataType::FLOAT, &[-1, 3])
        .constant("w", DataType::FLOAT, &[3], &[1.0_f32, -2.0, 3.0].map(f32::to_le_bytes).concat())
        .node("Mul", &["x", "w"], &["m"])
        .node("Relu", &["m"], &["y"])
        .output("y", DataType::FLOAT, &[-1, 3])
        .bytes();
    let mut session = engine.load_checked(&model).unwrap();
    // More shapes than plans are kept: every hundredth run makes a plan and drops one.
    let mut run = |number: usize| {
        let rows = if number.is_multiple_of(100) { 1 + number / 100 % 40 } else { 1 };
        let values = vec![1.0; rows * 3];
        answer(&mut session, f32s("x", &[rows, 3], &values));
    };
    (0..RUNS / 10).for_each(&mut run);
    let before = resident();
    (0..RUNS).for_each(&mut run);
    let growth = resident().saturating_sub(before);
    println!("grew by {growth} bytes over {RUNS} runs");
    assert!(growth < GROWTH_BYTES_MAX, "grew by {growth} bytes");
}

#[test]
fn loading_and_dropping_models_gives_their_memory_back() {
    let Some(engine) = engine() else { return };
    let model = digits("v2/int8-qdq.onnx");
    let mut cycle = |number: usize| {
        let mut session = engine.load_checked(&model).unwrap();
        answer(&mut session, image(number, 1));
    };
    (0..10).for_each(&mut cycle);
    let before = resident();
    (0..100).for_each(&mut cycle);
    let growth = resident().saturating_sub(before);
    println!("grew by {growth} bytes over 100 loads");
    assert!(growth < GROWTH_BYTES_MAX, "grew by {growth} bytes");
}

#[test]
fn sessions_on_one_device_do_not_disturb_each_other() {
    let Some(engine) = engine() else { return };
    let files = ["v1/fp32.onnx", "v1/int8-qdq.onnx", "v2/fp32.onnx", "v2/int8-qdq.onnx"];
    let work = |file: &str| {
        let mut session = engine.load_checked(&digits(file)).unwrap();
        (0..40).map(|number| answer(&mut session, image(number, 1 + number % 3))).collect::<Vec<_>>()
    };
    let alone: Vec<_> = files.iter().map(|file| work(file)).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = files.iter().map(|file| scope.spawn(|| work(file))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
}

#[test]
fn a_refused_request_leaves_the_session_as_it_was() {
    let Some(engine) = engine() else { return };
    let mut session = engine.load_checked(&digits("v1/fp32.onnx")).unwrap();
    let expected = answer(&mut session, image(1, 1));
    assert!(session.run(&[f32s("image", &[1, 1, 28, 27], &[0.0; 756])], &[], &RunControl::default()).is_err());
    assert!(session.run(&[], &[], &RunControl::default()).is_err());
    let cancelled = RunControl::default();
    cancelled.cancel.cancel();
    // A run that is over before anyone looks may still be answered.
    let late = session.run(&[image(2, 1)], &[], &cancelled);
    assert!(late.is_ok() || matches!(late, Err(RunError::Cancelled)));
    assert_eq!(answer(&mut session, image(1, 1)), expected);
}

#[test]
fn a_lost_device_fails_every_session_on_it_and_says_why() {
    let choice = AdapterChoice::for_tests();
    let Ok(engine) = WgpuEngine::open(&choice, engine_wgpu::BUDGET_BYTES, None) else { return };
    let mut session = engine.load_checked(&digits("v1/fp32.onnx")).unwrap();
    answer(&mut session, image(1, 1));
    engine.gpu().give_up("a test took it");
    let error = session.run(&[image(1, 1)], &[], &RunControl::default()).unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains("a test took it"), "{error}: {cause}");
    assert!(engine.load_checked(&digits("v1/fp32.onnx")).is_err());
    assert_eq!(engine.lost().as_deref(), Some("a test took it"));
}
