//! `cloud-hub config check FILE` and `cloud-hub config example`.

use std::path::PathBuf;

use ::config::LoadError;
use clap::Subcommand;
use console::{CliError, ExitKind};

use crate::config::{EXAMPLE, HubConfig};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigVerb {
    /// Read a config file and tell all its mistakes, without starting anything.
    #[command(after_help = "Example:\n  cloud-hub config check /etc/sanderling/hub.toml")]
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Print a config file with every field, its meaning and its default.
    #[command(after_help = "Example:\n  cloud-hub config example > hub.toml")]
    Example,
}

pub(super) fn run(verb: &ConfigVerb) -> Result<(), CliError> {
    match verb {
        ConfigVerb::Check { file } => {
            read(file)?;
            console::print_line(&format!("{} is in order", file.display()))?;
        }
        ConfigVerb::Example => console::print_line(EXAMPLE.trim_end())?,
    }
    Ok(())
}

/// Reads a config file for any verb that needs one.
pub(super) fn read(file: &std::path::Path) -> Result<HubConfig, CliError> {
    HubConfig::read(file).map_err(|error| {
        let hint = match &error {
            LoadError::Wrong(_) => "see every field with: cloud-hub config example",
            LoadError::Read { .. } | LoadError::TooLarge { .. } => {
                "name the file with --config, or make one: cloud-hub init --help"
            }
        };
        CliError::new(ExitKind::Config, error).hint(hint)
    })
}
