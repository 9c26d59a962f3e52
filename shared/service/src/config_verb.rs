//! The verbs `config check`, `config example` and `config show`, and reading a config file for any verb.

use std::path::{Path, PathBuf};

use config::LoadError;
use console::{CliError, ExitKind, OrExit, Output};
use serde::Serialize;

/// Returns the config file of a verb: the named one, or the installed one of the package.
#[must_use]
pub fn file(named: Option<PathBuf>, installed_name: &str) -> PathBuf {
    named.unwrap_or_else(|| config::installed_file(installed_name))
}

/// Turns a failure to read a config file into an error with advice; `program` has a verb `config example`.
///
/// `when_missing` is the advice for a file that cannot be read.
#[must_use]
pub fn explain(error: LoadError, program: &str, when_missing: &str) -> CliError {
    let hint = match &error {
        LoadError::Wrong(_) => format!("see every field and its default with: {program} config example"),
        LoadError::Read { .. } | LoadError::TooLarge { .. } => when_missing.to_owned(),
    };
    CliError::new(ExitKind::Config, error).hint(hint)
}

/// Prints the result of `config check`: the warnings on standard error, then that the file is right.
///
/// # Errors
/// When standard output is closed.
pub fn print_checked(
    file: &Path,
    config: &impl Serialize,
    summary: &str,
    warnings: &[String],
    output: Output,
) -> Result<(), CliError> {
    for warning in warnings {
        console::warn(warning);
    }
    output.print(config, |_| format!("{} is right{summary}", file.display())).or_exit(ExitKind::Storage)
}

/// Prints the commented example of a config file.
///
/// # Errors
/// When standard output is closed.
pub fn print_example(example: &str) -> Result<(), CliError> {
    console::print_line(example.trim_end()).or_exit(ExitKind::Storage)
}

/// Prints the configuration in force, with every default filled in: TOML, or JSON for programs.
///
/// # Errors
/// When standard output is closed.
pub fn print_in_force(config: &impl Serialize, output: Output) -> Result<(), CliError> {
    match output {
        Output::Json => console::print_json(config).or_exit(ExitKind::Storage),
        Output::Table => {
            let text = toml::to_string_pretty(config).or_exit(ExitKind::Failed)?;
            console::print_line(text.trim_end()).or_exit(ExitKind::Storage)
        }
    }
}
