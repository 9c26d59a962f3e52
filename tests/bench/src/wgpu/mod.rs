//! Benchmarks of the wgpu engine: its heavy kernels against burn and against itself, whole models against wonnx and the
//! sum of their kernels, and the time to the first result.

mod kernels;
pub(crate) mod load;
mod models;

use anyhow::{Context as _, Result};
use bench::figure::{self, Figure};
use bench::row::{Bar, Row};
use engine::{Engine as _, LibrarySearch, OrtEngine};
use engine_wgpu::WgpuEngine;
use engine_wgpu::gpu::AdapterChoice;

/// Maximum device memory of a model, in bytes: `light_resnet50` has 102 MB of weights.
const BUDGET_BYTES: u64 = 1024 * 1024 * 1024;

/// Context of the measurements.
#[derive(Debug)]
pub(crate) struct Context {
    engine: WgpuEngine,
    rounds: u32,
}

impl Context {
    fn open(rounds: u32) -> Result<Self> {
        Ok(Self { engine: open(None)?, rounds })
    }

    /// Returns the requested number of rounds, at most `most`, for figures that take seconds.
    fn rounds(&self, most: u32) -> u32 {
        self.rounds.min(most)
    }
}

/// Opens any adapter of this machine.
fn open(pipelines: Option<&[u8]>) -> Result<WgpuEngine> {
    let choice = AdapterChoice::for_tests();
    WgpuEngine::open(&choice, BUDGET_BYTES, pipelines).context("open a GPU for the wgpu engine")
}

fn ort() -> Result<OrtEngine> {
    let configured = std::env::var_os(testkit::binaries::ONNXRUNTIME_ENV).map(Into::into);
    OrtEngine::open(&LibrarySearch { configured: configured.or_else(engine::library::developer_library) })
        .context("open ONNX Runtime")
}

const FIGURES: [Figure<Context>; 14] = [
    timed("matmul_512_f32", "burn 0.22.1", Some(Bar::TimesFaster(1.4)), kernels::matmul_and_burn),
    timed("matmul_512_f32_naive", "our naive kernel", Some(Bar::TimesFaster(10.0)), kernels::matmul_and_naive),
    timed("conv_3x3_64x56x56", "burn 0.22.1", Some(Bar::TimesFaster(5.0)), kernels::conv_and_burn),
    timed("matmul_512_int8", "our f32 matmul", Some(Bar::TimesFaster(1.2)), kernels::int8_and_f32),
    timed("squeezenet", "wonnx 0.5.1", Some(Bar::TimesFaster(5.0)), models::squeezenet_and_wonnx),
    timed("resnet50", "wonnx 0.5.1", Some(Bar::TimesFaster(5.0)), models::resnet50_and_wonnx),
    timed("squeezenet_overhead", "sum of its kernels", Some(Bar::Share(1.15)), models::squeezenet_and_kernels),
    timed("resnet50_overhead", "sum of its kernels", Some(Bar::Share(1.15)), models::resnet50_and_kernels),
    Figure {
        name: "resnet50_dispatches",
        unit: "count",
        peer: Some("nodes as shipped"),
        bar: Some(Bar::Share(0.5)),
        measure: models::resnet50_dispatches,
    },
    timed("squeezenet_ort", "ONNX Runtime, processor", None, models::squeezenet_and_ort),
    timed("resnet50_ort", "ONNX Runtime, processor", None, models::resnet50_and_ort),
    timed("digits_int8_ort", "ONNX Runtime, processor", None, models::digits_and_ort),
    Figure { name: "load_cold", unit: "ms", peer: None, bar: Some(Bar::AtMost(2000.0)), measure: load::cold },
    Figure { name: "load_warm", unit: "ms", peer: None, bar: Some(Bar::AtMost(500.0)), measure: load::warm },
];

const fn timed(
    name: &'static str,
    peer: &'static str,
    bar: Option<Bar>,
    measure: fn(&Context) -> Result<figure::Measured>,
) -> Figure<Context> {
    Figure { name, unit: "ms", peer: Some(peer), bar, measure }
}

/// Measures the figures whose name contains `only`.
pub(crate) fn rows(rounds: u32, only: &str) -> Result<Vec<Row>> {
    let context = Context::open(rounds)?;
    eprintln!("on {}", context.engine.describe().providers.join(", "));
    Ok(figure::measure(&FIGURES, &context, only))
}
