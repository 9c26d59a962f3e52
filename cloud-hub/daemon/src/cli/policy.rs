//! `cloud-hub policy check FILE`, and `cloud-hub policy replay FILE`.

use std::path::PathBuf;

use clap::Subcommand;
use console::{CliError, Output};
use service::policy_verb;

use super::policy_replay;

#[derive(Debug, Subcommand)]
pub(super) enum PolicyVerb {
    /// Read a policy and report every mistake in it, or what it says.
    #[command(after_help = "Example:\n  cloud-hub policy check models/catalog/digits/v1/model.toml")]
    Check {
        /// File with the fields of a policy, or with a table [policy] like model.toml.
        file: PathBuf,
        /// Print JSON for programs.
        #[arg(long)]
        json: bool,
    },
    /// Predict the effect of another policy on the requests in exported logs of devices.
    #[command(after_help = policy_replay::HELP)]
    Replay(policy_replay::Replaying),
}

pub(super) fn run(verb: &PolicyVerb) -> Result<(), CliError> {
    match verb {
        PolicyVerb::Check { file, json } => policy_verb::check(file, Output::from_json_flag(*json)),
        PolicyVerb::Replay(verb) => policy_replay::run(verb),
    }
}
