//! The command line: verbs and the modules that carry them out.
//!
//! Verbs of the machine the hub runs on ([`init`], [`serve`], [`config`], [`backup`]) read `hub.toml`; verbs of the operator
//! ([`token`], [`operator`], [`device`], [`model`], [`calibration`], [`trust`], [`audit`], [`status`]) speak to a running hub from any machine that has an
//! `operator.toml` ([`Context`]).

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use clap_complete::Shell;
use console::{CliError, ExitKind};
use service::trial::Trial;

mod backup;
mod calibrate;
mod check;
mod compare;
mod compress;
mod config;
mod doctor;
mod doctor_hub;
mod evaluate;
mod examined;
mod init;
mod inspect;
mod locate;
mod machine;
mod make_delta;
mod model;
mod new_form;
mod operator;
mod policy;
mod policy_replay;
mod push;
mod renew;
mod serve;
mod trust;
mod withdraw;
mod words;

pub use hub_cli::Context;
use hub_cli::{Operate, audit, calibration, device, rollout, status, token};

use locate::own_hub;

const FIRST_STEPS: &str = "\
First steps:
  cloud-hub init --dir hub --keys offline-keys --name hub.example
  cloud-hub serve --config hub/hub.toml
  export SANDERLING_OPERATOR=$PWD/hub/operator.toml
  cloud-hub token create --name kitchen          # prints what to run on the device
  cloud-hub model push models/catalog/digits/v1 --keys offline-keys
  cloud-hub model status digits
";

/// Runs a Sanderling hub, and operates one from any laptop.
#[derive(Debug, Parser)]
#[command(
    name = "cloud-hub",
    version,
    arg_required_else_help = true,
    after_help = FIRST_STEPS,
    after_long_help = format!("{FIRST_STEPS}\n{}", ExitKind::help_table())
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a new hub: its CA, its trust keys, its config and the operator's context.
    Init(init::InitArgs),
    /// Run the hub until it gets SIGTERM or SIGINT.
    Serve(serve::ServeArgs),
    /// Check a config file, or print a commented example.
    #[command(subcommand)]
    Config(config::ConfigVerb),
    /// Let devices join.
    #[command(subcommand)]
    Token(token::TokenVerb),
    /// Let people operate this hub.
    #[command(subcommand)]
    Operator(operator::OperatorVerb),
    /// Write the whole hub into one file, or make a hub out of one.
    #[command(subcommand)]
    Backup(backup::BackupVerb),
    /// List, label and revoke devices.
    #[command(subcommand)]
    Device(device::DeviceVerb),
    /// Publish models and see where they got to.
    #[command(subcommand)]
    Model(model::ModelVerb),
    /// Check policies, and predict their effect on recorded requests.
    #[command(subcommand)]
    Policy(policy::PolicyVerb),
    /// Bring versions to devices in waves, and take them back.
    #[command(subcommand)]
    Rollout(rollout::RolloutVerb),
    /// See which thresholds hold in the field, and put the author's in force again.
    #[command(subcommand)]
    Calibration(calibration::CalibrationVerb),
    /// See and renew who may sign what: expiry, keys, thresholds.
    #[command(subcommand)]
    Trust(trust::TrustVerb),
    /// Show the log of changes, or check it.
    Audit(audit::AuditArgs),
    /// Show a summary of the hub's state.
    Status(status::StatusArgs),
    /// Run an engine for the hub, which starts it itself.
    #[command(hide = true)]
    EngineHost,
    /// Make one delta for the hub, which starts it itself.
    #[command(hide = true, name = crate::app::deltas::VERB)]
    MakeDelta(make_delta::MakeDeltaArgs),
    /// Look for what is wrong on the hub's machine and say what to do.
    Doctor(doctor::DoctorArgs),
    /// Try one step of `doctor`.
    #[command(subcommand, hide = true)]
    Trial(Trial),
    /// Print a completion script for a shell.
    #[command(
        after_help = "Example:\n  cloud-hub completions bash > ~/.local/share/bash-completion/completions/cloud-hub"
    )]
    Completions {
        /// Shell that the script is for.
        shell: Shell,
    },
}

/// Runs what was asked for and says how it went by the exit code.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let done = match cli.verb {
        Verb::Init(args) => init::run(&args),
        Verb::Serve(args) => serve::run(&args),
        Verb::Config(verb) => config::run(&verb),
        Verb::Token(verb) => token::run(&verb, own_hub),
        Verb::Operator(verb) => operator::run(&verb),
        Verb::Backup(verb) => backup::run(&verb),
        Verb::Device(verb) => device::run(&verb, own_hub),
        Verb::Model(verb) => model::run(&verb),
        Verb::Policy(verb) => policy::run(&verb),
        Verb::Rollout(verb) => rollout::run(&verb, own_hub),
        Verb::Calibration(verb) => calibration::run(&verb, own_hub),
        Verb::Trust(verb) => trust::run(&verb),
        Verb::Audit(args) => audit::run(&args, own_hub),
        Verb::Status(args) => status::run(&args, own_hub),
        Verb::EngineHost => return crate::workers::host::serve(),
        Verb::MakeDelta(args) => make_delta::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Trial(verb) => verb.run(),
        Verb::Completions { shell } => console::completions::<Cli>(shell).map_err(CliError::from),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => console::report(&error),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
