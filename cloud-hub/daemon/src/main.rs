//! `cloud-hub`: the hub's daemon and the operator's command line.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cloud_hub::cli::run(cloud_hub::cli::Cli::parse())
}
