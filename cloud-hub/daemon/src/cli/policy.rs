//! `cloud-hub policy check FILE`.

use std::path::PathBuf;

use clap::Subcommand;
use console::{CliError, Output};
use service::policy_verb;

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
}

pub(super) fn run(verb: &PolicyVerb) -> Result<(), CliError> {
    let PolicyVerb::Check { file, json } = verb;
    policy_verb::check(file, Output::from_json_flag(*json))
}
