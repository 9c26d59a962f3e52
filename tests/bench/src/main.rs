//! The benchmarks themselves, as `cargo xtask bench` runs them after it has seen to drivers, libraries and models.

mod isolation;
mod size;
mod wgpu;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use bench::quantize::corpus::Entry;
use bench::quantize::{self, Form};
use bench::report;
use bench::row::Row;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "bench", about = "Measures speed and size side by side with peers; start it by `cargo xtask bench`.")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// The wgpu engine against burn, wonnx, ONNX Runtime and itself.
    Wgpu(Args),
    /// Our compression against PyPI's onnxruntime.quantization, as processes.
    Quantize(Args),
    /// The agent's binary with and without the wgpu engine.
    Size(Args),
    /// What an engine in a child process costs: time of a run, memory.
    Isolation(Args),
    /// Runs the child process of an engine.
    #[command(hide = true)]
    EngineHost,
    /// Prints the megabytes that an engine with a small model holds.
    #[command(hide = true)]
    MemoryHere { place: isolation::Place },
    /// Makes one form of a model of the corpus (a process of its own for each).
    #[command(hide = true)]
    MakeForm { form: Form, folder: PathBuf, out: PathBuf },
    /// Loads a model and gives its first result; prints the milliseconds by the clock and of processors.
    #[command(hide = true)]
    FirstResult {
        model: PathBuf,
        input: PathBuf,
        /// Folder in which drivers and the engine keep what they have compiled.
        cache: PathBuf,
    },
}

/// Options of every benchmark.
#[derive(clap::Args)]
struct Args {
    /// Rounds of each figure; slow ones make fewer, as the page says.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Only figures whose name contains this.
    #[arg(long, value_name = "NAME", default_value = "")]
    only: String,
    /// Also write the rows into this file, as a JSON array.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let verb = Cli::parse().verb;
    // Needs a process with one thread, and says nothing on standard output.
    if matches!(verb, Verb::EngineHost) {
        return isolation::serve();
    }
    match run(&verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the numbers are this command's result")]
fn run(verb: &Verb) -> Result<()> {
    match verb {
        Verb::Wgpu(args) => tell(&wgpu::rows(args.rounds, &args.only)?, args),
        Verb::Quantize(args) => {
            let program = std::env::current_exe().context("find this program")?;
            tell(&quantize::rows::rows(&program, args.rounds, &args.only)?, args)
        }
        Verb::MakeForm { form, folder, out } => quantize::ours::make(*form, &Entry::at(folder), out),
        Verb::Isolation(args) => tell(&isolation::rows(args.rounds, &args.only), args),
        Verb::EngineHost => Ok(()),
        Verb::MemoryHere { place } => {
            println!("{:.3}", isolation::memory_here(*place)?);
            Ok(())
        }
        Verb::Size(args) => tell(&size::rows(&args.only), args),
        Verb::FirstResult { model, input, cache } => {
            let [took, busy] = wgpu::load::first_result(model, input, cache)?;
            println!("{took:.3} {busy:.3}");
            Ok(())
        }
    }
}

/// Whether bars hold is for the reader to judge: a software adapter on a busy machine is no reason to fail.
#[expect(clippy::print_stdout, reason = "the table is this command's result")]
fn tell(rows: &[Row], args: &Args) -> Result<()> {
    anyhow::ensure!(!rows.is_empty(), "no figure has {:?} in its name", args.only);
    print!("{}", report::table(rows));
    args.json.as_ref().map_or(Ok(()), |file| report::write_json(rows, file))
}
