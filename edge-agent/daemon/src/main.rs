//! `edge-agent`: the agent's daemon and the device's command line.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    edge_agent::cli::run(edge_agent::cli::Cli::parse())
}
