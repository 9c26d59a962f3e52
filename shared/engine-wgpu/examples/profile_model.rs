//! Times a model's launches on this machine's adapter, each by the device's own clock.
//!
//! Prints the least and the median time of a request, then of every launch in order its kernel and its least time.
//! `cargo run --release -p engine-wgpu --example profile_model -- MODEL [ROUNDS [SIZE]]`, `SIZE` being that of dimensions that the
//! model leaves open (1), but for the first, which is 1: the batch. Whole numbers are ones: words, kinds and masks of any model.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench talks to a person and may stop at any error")]

use std::time::{Duration, Instant};

use engine::{RunControl, Session};
use engine_wgpu::gpu::AdapterChoice;
use engine_wgpu::{BUDGET_BYTES, WgpuEngine};
use types::{DType, Dim, NamedTensor, Tensor};

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn main() {
    let model = std::env::args().nth(1).unwrap();
    let rounds = std::env::args().nth(2).and_then(|rounds| rounds.parse().ok()).unwrap_or(20_usize);
    let open = std::env::args().nth(3).and_then(|size| size.parse().ok()).unwrap_or(1_usize);
    let choice = AdapterChoice::for_tests();
    let engine = WgpuEngine::open(&choice, BUDGET_BYTES, None).unwrap();
    let mut session = engine.load_checked(&std::fs::read(model).unwrap()).unwrap();
    let request: Vec<NamedTensor> = session
        .signature()
        .inputs
        .iter()
        .map(|input| {
            let size = |(at, dim): (usize, &Dim)| match dim {
                Dim::Fixed(size) => *size,
                Dim::Symbol(_) | Dim::Any => {
                    if at == 0 {
                        1
                    } else {
                        open
                    }
                }
            };
            let shape: Vec<usize> = input.shape.iter().flatten().enumerate().map(size).collect();
            let count: usize = shape.iter().product();
            // Neither zero nor equal, so that no driver takes a short cut.
            let number = |at: usize| (at * 7919) % 2003;
            let tensor = if input.dtype == DType::I64 {
                let numbers: Vec<u8> = (0..count).flat_map(|_at| 1_i64.to_le_bytes()).collect();
                Tensor::new(DType::I64, shape, numbers.into()).unwrap()
            } else {
                let numbers: Vec<f32> = (0..count).map(|at| number(at) as f32 / 2003.0 - 0.5).collect();
                Tensor::from_f32(shape, &numbers).unwrap()
            };
            NamedTensor { name: input.name.clone(), tensor }
        })
        .collect();
    let mut whole = Vec::new();
    let mut least: Vec<(&'static str, Duration)> = Vec::new();
    for round in 0..=rounds {
        let begin = Instant::now();
        session.run(&request, &[], &RunControl::default()).unwrap();
        let took = begin.elapsed();
        let times = session.kernel_times().unwrap().unwrap();
        // The first round compiles.
        match round {
            0 => {}
            1 => (whole, least) = (vec![took], times),
            _ => {
                whole.push(took);
                least.iter_mut().zip(times).for_each(|((_label, least), (_, time))| *least = time.min(*least));
            }
        }
    }
    whole.sort_unstable();
    println!("least {:.2} ms, median {:.2} ms", milliseconds(whole[0]), milliseconds(whole[whole.len() / 2]));
    for (at, (label, time)) in least.iter().enumerate() {
        println!("{at:4} {label:24} {:8.3} ms", milliseconds(*time));
    }
}
