//! The benchmarks, which `cargo xtask bench` runs after preparing drivers, libraries and models.

mod cascade;
mod delta;
mod fleet;
mod isolation;
mod route;
mod serve;
mod size;
mod transfer;
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
    /// Deltas between model files against zstd, xdelta3 and bsdiff.
    Delta(Args),
    /// The agent's binary with and without the wgpu engine.
    Size(Args),
    /// Cost of an engine in a child process: time of a run, memory.
    Isolation(Args),
    /// Time to decide the place of a request.
    Route(Args),
    /// The time that the inference server adds to a run.
    Serve(Args),
    /// A hub with ten thousand devices: memory, CPU, the time after a crash, and the time of a push.
    Fleet {
        #[command(flatten)]
        args: Args,
        #[command(flatten)]
        options: fleet::Options,
    },
    /// The promise of a calibration over many calibration sets, and what a cascade defers.
    Cascade(Args),
    /// Runs the child process of an engine.
    #[command(hide = true)]
    EngineHost,
    /// Prints the memory of an engine with a small model in megabytes.
    #[command(hide = true)]
    MemoryHere { place: isolation::Place },
    /// Creates one form of a model of the corpus (in a separate process for each).
    #[command(hide = true)]
    MakeForm { form: Form, folder: PathBuf, out: PathBuf },
    /// Loads a model and computes its first result; prints the wall time and the CPU time in milliseconds.
    #[command(hide = true)]
    FirstResult {
        model: PathBuf,
        input: PathBuf,
        /// Folder in which drivers and the engine cache compiled code.
        cache: PathBuf,
    },
}

/// Options of every benchmark.
#[derive(clap::Args)]
struct Args {
    /// Rounds of each figure; slow ones use fewer, as the page says.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Only figures whose name contains this text.
    #[arg(long, value_name = "NAME", default_value = "")]
    only: String,
    /// Also write the rows to this file, as a JSON array.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let verb = Cli::parse().verb;
    // Needs a process with one thread, and prints nothing on standard output.
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
        Verb::Wgpu(args) => print_rows(&wgpu::rows(args.rounds, &args.only)?, args),
        Verb::Quantize(args) => {
            let program = std::env::current_exe().context("find this program")?;
            print_rows(&quantize::rows::rows(&program, args.rounds, &args.only)?, args)
        }
        Verb::MakeForm { form, folder, out } => quantize::ours::make(*form, &Entry::at(folder), out),
        Verb::Isolation(args) => print_rows(&isolation::rows(args.rounds, &args.only), args),
        Verb::Route(args) => print_rows(&route::rows(args.rounds, &args.only), args),
        Verb::Serve(args) => print_rows(&serve::rows(args.rounds, &args.only), args),
        Verb::Fleet { args, options } => print_rows(&fleet::rows(args.rounds, &args.only, *options)?, args),
        Verb::Cascade(args) => print_rows(&cascade::rows(&args.only)?, args),
        Verb::EngineHost => Ok(()),
        Verb::MemoryHere { place } => {
            println!("{:.3}", isolation::memory_here(*place)?);
            Ok(())
        }
        Verb::Delta(args) => {
            let mut rows = delta::rows(args.rounds, &args.only)?;
            rows.extend(transfer::rows(&args.only));
            print_rows(&rows, args)
        }
        Verb::Size(args) => print_rows(&size::rows(&args.only), args),
        Verb::FirstResult { model, input, cache } => {
            let [took, busy] = wgpu::load::first_result(model, input, cache)?;
            println!("{took:.3} {busy:.3}");
            Ok(())
        }
    }
}

/// Prints the rows. A missed target is no error: a software adapter or a busy machine can be the reason.
#[expect(clippy::print_stdout, reason = "the table is this command's result")]
fn print_rows(rows: &[Row], args: &Args) -> Result<()> {
    anyhow::ensure!(!rows.is_empty(), "no figure has {:?} in its name", args.only);
    print!("{}", report::table(rows));
    args.json.as_ref().map_or(Ok(()), |file| report::write_json(rows, file))
}
