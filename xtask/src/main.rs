//! `cargo xtask`: tasks for newcomers and CI that need more than one cargo command.
//!
//! Each verb is one module; the others also call `setup`, so that a clean checkout needs no preparation.

mod bench;
mod demo;
mod gpu_check;
mod package;
mod setup;
mod test;
mod vulkan;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Sets up, shows, tests and packages Sanderling.")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Fetch ONNX Runtime and the other requirements of the demo and the tests; a second run does nothing.
    Setup(setup::Args),
    /// Build both daemons, run a hub and two agents on loopback and display their work.
    Demo(demo::Args),
    /// Run every test of the workspace.
    Test(test::Args),
    /// Measure speed or size side by side with peers and print which claims hold.
    Bench(bench::Args),
    /// Pack the wgpu engine's tests and benches for a machine with a GPU, or run a packed folder.
    GpuCheck(gpu_check::Args),
    /// Create a tarball per daemon, ready to install.
    Package(package::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Setup(args) => setup::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::GpuCheck(args) => gpu_check::run(&args),
        Verb::Package(args) => package::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
