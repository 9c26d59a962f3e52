//! `cloud-hub config check [FILE]` and `cloud-hub config example`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use console::{CliError, Output};
use service::config_verb;

use crate::config::reach;
use crate::config::{EXAMPLE, HubConfig};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigVerb {
    /// Read a config file and report all its mistakes, without starting anything.
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
            let warnings = reach::unreachable(&config, config.gateway.listen.port());
            config_verb::print_checked(&file, &config, "", &warnings, Output::Table)
        }
        ConfigVerb::Example => config_verb::print_example(EXAMPLE),
    }
}

/// Returns the config file that verbs of the hub's machine read: the named one, or the installed one.
pub(super) fn file(named: Option<&Path>) -> PathBuf {
    let variable = std::env::var_os("SANDERLING_HUB_CONFIG").map(PathBuf::from);
    config_verb::file(named.map(Path::to_owned).or(variable), super::init::CONFIG_FILE)
}

/// Reads a config file for any verb that needs one.
pub(super) fn read(file: &Path) -> Result<HubConfig, CliError> {
    let when_missing = "name another file, or make one together with a hub: cloud-hub init --help";
    HubConfig::read(file).map_err(|error| config_verb::explain(error, "cloud-hub", when_missing))
}
