//! Measures what the project promises about speed. So far: the wgpu engine, kernel by kernel and model by model.
//!
//! Prints one JSON row for each; on a software adapter ratios travel to other machines, times do not.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::binaries::{ONNXRUNTIME_ENV, workspace};

use crate::setup;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure.
    #[arg(value_enum)]
    subject: Subject,
    /// Rounds over all rows; the median of each is reported.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Only rows whose name contains this.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Subject {
    /// The wgpu engine: its heavy kernels, then whole models beside ONNX Runtime.
    Wgpu,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    let Subject::Wgpu = args.subject;
    let library = setup::onnxruntime(setup::Arch::host()?)?;
    setup::conformance_cases(&workspace())?;
    for example in ["bench_kernels", "bench_models"] {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(workspace()).env(ONNXRUNTIME_ENV, &library);
        cargo.args(["run", "--release", "--quiet", "--package", "engine-wgpu", "--example", example, "--"]);
        cargo.arg(args.rounds.to_string()).args(&args.only);
        ensure!(cargo.status().context("run cargo")?.success(), "{example} failed");
    }
    Ok(())
}
