//! `cargo xtask bench`: prepares a benchmark, then runs it from the package `bench`, optimised.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::binaries::{ONNXRUNTIME_ENV, workspace};
use testkit::tools::{COMPRESS_CORPUS_ENV, COMPRESS_PYTHON_ENV, DELTA_PAIRS_ENV};

use crate::{setup, vulkan};

/// Environment variable with the folder of a desktop session's sockets.
const RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Benchmark to run.
    #[arg(value_enum)]
    subject: Subject,
    /// Rounds of each figure; the median is reported. Figures that take seconds use fewer.
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Only figures whose name contains this text.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Also write the rows to this file, as a JSON array.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Number of devices of the subject `fleet` [default: 10000].
    #[arg(long, value_name = "N")]
    devices: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Subject {
    /// The wgpu engine: kernels against burn, networks against wonnx and the sum of their kernels, loading.
    Wgpu,
    /// Our compression against PyPI's onnxruntime.quantization: time, memory, size, outputs.
    Quantize,
    /// Deltas between model files against zstd, xdelta3 and bsdiff: bytes, time to make and to apply.
    Delta,
    /// The size that the wgpu engine adds to the agent's binary: two builds in the form that is shipped.
    Size,
    /// The cost of an engine in a child process against the same engine inside: time of a run, memory.
    Isolation,
    /// The promise of a calibration over 1,000 calibration sets of the digits, and what a cascade defers.
    Cascade,
    /// The time to decide the place of a request: policy, router, first step.
    Route,
    /// What the inference server adds to a run: requests of 110 kB and 600 kB against the session asked directly.
    Serve,
    /// A hub with ten thousand devices: memory, CPU, the time after a crash, and the time of a push.
    Fleet,
}

/// Runs the verb; results below their targets do not change the exit code.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["run", "--release", "--quiet", "--package", "bench", "--"]).current_dir(workspace());
    match args.subject {
        Subject::Wgpu => {
            cargo.arg("wgpu").env(ONNXRUNTIME_ENV, setup::onnxruntime(setup::Arch::host()?)?);
            vulkan::driver()?;
            // Mesa warns of its absence in every process, and does not use it here.
            if std::env::var_os(RUNTIME_DIR).is_none() {
                cargo.env(RUNTIME_DIR, std::env::temp_dir());
            }
            // Without them the figures of whole models are reported as missing.
            setup::bench_models(&workspace())
                .unwrap_or_else(|error| eprintln!("some figures are not available: {error:#}"));
        }
        Subject::Quantize => {
            let (python, corpus) = setup::compress_corpus(&workspace())?;
            cargo.arg("quantize").env(ONNXRUNTIME_ENV, setup::onnxruntime(setup::Arch::host()?)?);
            cargo.env(COMPRESS_PYTHON_ENV, python).env(COMPRESS_CORPUS_ENV, corpus);
        }
        Subject::Delta => {
            cargo.arg("delta").env(DELTA_PAIRS_ENV, setup::delta_pairs(&workspace())?);
            cargo.env(ONNXRUNTIME_ENV, setup::onnxruntime(setup::Arch::host()?)?);
        }
        Subject::Size => {
            cargo.arg("size");
        }
        Subject::Cascade => {
            cargo.arg("cascade").env(ONNXRUNTIME_ENV, setup::onnxruntime(setup::Arch::host()?)?);
        }
        Subject::Route => {
            cargo.arg("route");
        }
        Subject::Serve => {
            cargo.arg("serve").env(ONNXRUNTIME_ENV, setup::onnxruntime(setup::Arch::host()?)?);
        }
        Subject::Fleet => {
            cargo.arg("fleet").env(ONNXRUNTIME_ENV, setup::onnxruntime(setup::Arch::host()?)?);
        }
        Subject::Isolation => {
            cargo.arg("isolation").env(ONNXRUNTIME_ENV, setup::onnxruntime(setup::Arch::host()?)?);
        }
    }
    let rounds = args.rounds.map(|rounds| rounds.to_string().into());
    let json = args.json.as_ref().map(|file| std::path::absolute(file).map(PathBuf::into_os_string)).transpose();
    ensure!(args.devices.is_none() || args.subject == Subject::Fleet, "--devices is an option of the subject fleet");
    let given: [(&str, Option<OsString>); 4] = [
        ("--devices", args.devices.map(|devices| devices.to_string().into())),
        ("--rounds", rounds),
        ("--only", args.only.clone().map(Into::into)),
        ("--json", json.context("find --json's folder")?),
    ];
    for (name, value) in given.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        cargo.arg(name).arg(value);
    }
    ensure!(cargo.status().context("run cargo")?.success(), "the benchmark failed");
    Ok(())
}
