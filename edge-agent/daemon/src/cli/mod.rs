//! The command line of a device.
//!
//! [`Cli`] says what there is, each verb has a file. Results go to standard output (`--json` for programs), progress and
//! errors to standard error; the exit code tells the kind of failure.

mod check;
mod client;
mod config;
mod doctor;
mod doctor_engines;
mod doctor_models;
mod doctor_ports;
mod doctor_routing;
mod doctor_state;
mod doctor_trust;
mod enroll;
mod infer;
mod log;
mod model;
mod outbox;
mod policy;
mod policy_check;
mod policy_replay;
mod run;
mod status;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use clap_complete::Shell;
use console::{CliError, ExitKind, OrExit, Output};
use serde::de::IntoDeserializer as _;
use service::config_verb;
use service::trial::Trial;

use crate::config::AgentConfig;
use crate::state::Folder;

/// Name of the configuration file that the packages install.
pub const CONFIG_FILE: &str = "agent.toml";

/// Runs models on this device, defers to the hub, takes signed updates.
#[derive(Debug, Parser)]
#[command(
    name = "edge-agent",
    version,
    about,
    long_about = "Runs models on this device, defers to the hub what they are not sure of, and takes signed updates.\n\n\
                  A device is enrolled once, then the agent runs:\n\n  \
                  edge-agent enroll sandjoin1_…     with a token from `cloud-hub token create`\n  \
                  edge-agent run                    serves http://127.0.0.1:8000 (Open Inference Protocol v2)\n  \
                  edge-agent infer digits --image 7.png",
    after_long_help = ExitKind::help_table(),
    propagate_version = true
)]
pub struct Cli {
    /// Config file; without it /etc/sanderling/agent.toml, and where that is missing the defaults
    #[arg(long, global = true, value_name = "FILE", env = "SANDERLING_AGENT_CONFIG")]
    pub config: Option<PathBuf>,
    /// Folder of the agent's state, in place of agent.state_dir
    #[arg(long, global = true, value_name = "FOLDER", env = "SANDERLING_AGENT_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Prints JSON for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// Verbs of the command line.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Makes this machine a device of a hub, with a join token
    Enroll(enroll::Enroll),
    /// Runs the agent until it gets SIGTERM or SIGINT
    Run(run::Run),
    /// Asks a model of the running agent
    Infer(infer::Infer),
    /// Shows the running agent: hub, models, updates
    Status(status::StatusVerb),
    /// Decides on the version of a model on this device: rollback, pin, hold
    Model(model::ModelVerb),
    /// Lists or removes requests that wait for the hub, and their answers
    Outbox(outbox::OutboxVerb),
    /// Checks, shows or exports the log of receipts
    Log(log::LogVerb),
    /// Checks policies, and explains why a request was served where it was
    #[command(subcommand)]
    Policy(policy::PolicyVerb),
    /// Looks for what is wrong on this device and says what to do
    Doctor(doctor::Doctor),
    /// Says whether an engine can run a model file
    Check(check::Check),
    /// Checks or prints configuration
    #[command(subcommand)]
    Config(config::ConfigVerb),
    /// Runs an engine for the agent, which starts it itself
    #[command(hide = true)]
    EngineHost,
    /// Tries one step of `doctor`
    #[command(subcommand, hide = true)]
    Trial(Trial),
    /// Prints a completion script for a shell
    #[command(after_help = "Example: edge-agent completions bash > /etc/bash_completion.d/edge-agent")]
    Completions {
        /// Shell to print the script for
        shell: Shell,
    },
}

/// Does what the command line says; returns the exit code.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let context = Context { config: cli.config, state_dir: cli.state_dir, output: Output::from_json_flag(cli.json) };
    let done = match cli.verb {
        Verb::Enroll(verb) => verb.run(&context),
        Verb::Run(verb) => verb.run(&context),
        Verb::Infer(verb) => verb.run(&context),
        Verb::Status(verb) => verb.run(&context),
        Verb::Model(verb) => verb.run(&context),
        Verb::Outbox(verb) => verb.run(&context),
        Verb::Log(verb) => verb.run(&context),
        Verb::Policy(verb) => verb.run(&context),
        Verb::Doctor(verb) => verb.run(&context),
        Verb::Check(verb) => verb.run(&context),
        Verb::Config(verb) => verb.run(&context),
        Verb::EngineHost => return crate::engines::host::serve(),
        Verb::Trial(verb) => verb.run(),
        Verb::Completions { shell } => console::completions::<Cli>(shell).or_exit(ExitKind::Storage),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => console::report(&error),
    }
}

/// Global options that every verb may need.
#[derive(Debug, Clone)]
struct Context {
    config: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    output: Output,
}

impl Context {
    /// The config file: the named one, or that of the package where it is there.
    fn config_file(&self) -> Option<PathBuf> {
        let packaged = ::config::installed_file(CONFIG_FILE);
        self.config.clone().or_else(|| packaged.exists().then_some(packaged))
    }

    /// The configuration in force.
    fn configuration(&self) -> Result<AgentConfig, CliError> {
        let mut config = match self.config_file() {
            Some(file) => read_config(&file)?,
            None => AgentConfig::default(),
        };
        if let Some(state_dir) = &self.state_dir {
            config.agent.state_dir.clone_from(state_dir);
        }
        Ok(config)
    }
}

/// Reads a config file for any verb.
fn read_config(file: &Path) -> Result<AgentConfig, CliError> {
    let when_missing = "name another file with --config, or write one: edge-agent config example > agent.toml";
    AgentConfig::read(file).map_err(|error| config_verb::explain(error, "edge-agent", when_missing))
}

/// Parses a duration as config files write it, like `7d`.
fn duration(text: &str) -> Result<Duration, String> {
    let read: Result<Duration, serde::de::value::Error> = ::config::duration::deserialize(text.into_deserializer());
    read.map_err(|_unreadable| format!("{text:?} is not a time: write it like 90m, 24h or 7d"))
}

/// The layout of the configured state folder.
fn folder_of(config: &AgentConfig) -> Folder {
    Folder::new(&config.agent.state_dir)
}
