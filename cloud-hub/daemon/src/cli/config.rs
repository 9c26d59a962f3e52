//! `cloud-hub config check [FILE]` and `cloud-hub config example`.

use std::path::{Path, PathBuf};

use ::config::LoadError;
use clap::Subcommand;
use console::{CliError, ExitKind};

use crate::config::{EXAMPLE, HubConfig};
use crate::reach;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigVerb {
    /// Read a config file and tell all its mistakes, without starting anything.
    #[command(after_help = "Example:\n  cloud-hub config check /etc/sanderling/hub.toml")]
    Check {
        /// The file [default: the one that `serve` reads].
        file: Option<PathBuf>,
    },
    /// Print a config file with every field, its meaning and its default.
    #[command(after_help = "Example:\n  cloud-hub config example > hub.toml")]
    Example,
}

pub(super) fn run(verb: &ConfigVerb) -> Result<(), CliError> {
    match verb {
        ConfigVerb::Check { file } => {
            let file = self::file(file.as_deref());
            let config = read(&file)?;
            for warning in reach::unreachable(&config, config.gateway.listen.port()) {
                console::warn(&warning);
            }
            console::print_line(&format!("{} is right", file.display()))?;
        }
        ConfigVerb::Example => console::print_line(EXAMPLE.trim_end())?,
    }
    Ok(())
}

/// Returns the config file that verbs of the hub's machine read: the named one, or the installed one.
pub(super) fn file(named: Option<&Path>) -> PathBuf {
    let variable = std::env::var_os("SANDERLING_HUB_CONFIG").map(PathBuf::from);
    named.map(Path::to_owned).or(variable).unwrap_or_else(|| ::config::installed_file(super::init::CONFIG_FILE))
}

/// Reads a config file for any verb that needs one.
pub(super) fn read(file: &Path) -> Result<HubConfig, CliError> {
    HubConfig::read(file).map_err(|error| {
        let hint = match &error {
            LoadError::Wrong(_) => "see every field with: cloud-hub config example",
            LoadError::Read { .. } | LoadError::TooLarge { .. } => {
                "name a file that is there, or make one together with a hub: cloud-hub init --help"
            }
        };
        CliError::new(ExitKind::Config, error).hint(hint)
    })
}
