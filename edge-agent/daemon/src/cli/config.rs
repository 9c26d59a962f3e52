//! `edge-agent config`: check a file, print the example, print what is in force.

use std::path::PathBuf;

use clap::Subcommand;
use console::{CliError, ExitKind};
use service::config_verb;

use super::Context;
use crate::config::EXAMPLE;

/// Verbs of configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Reads a config file and reports every mistake in it
    #[command(after_help = "Example: edge-agent config check /etc/sanderling/agent.toml")]
    Check {
        /// The file; without it the one that `run` would read
        file: Option<PathBuf>,
    },
    /// Prints a config file with every setting, its meaning and its default
    #[command(after_help = "Example: edge-agent config example > agent.toml")]
    Example,
    /// Prints the configuration in force, defaults filled in
    #[command(after_help = "Example: edge-agent config show --config agent.toml")]
    Show,
}

impl ConfigVerb {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::Check { file } => check(file, context),
            Self::Example => config_verb::print_example(EXAMPLE),
            Self::Show => config_verb::print_in_force(&context.configuration()?, context.output),
        }
    }
}

fn check(file: Option<PathBuf>, context: &Context) -> Result<(), CliError> {
    let Some(file) = file.or_else(|| context.config_file()) else {
        return Err(CliError::new(ExitKind::NotFound, "there is no config file to check").hint("name one"));
    };
    let config = super::read_config(&file)?;
    let summary = format!(": it follows {} models", config.models.len());
    config_verb::print_checked(&file, &config, &summary, &[], context.output)
}
