//! `operator.toml`: address of a hub, its CA and the token of an operator.
//!
//! Written by `cloud-hub init` and `cloud-hub operator create` with mode 0600, because it holds a secret.

use std::fmt;
use std::path::{Path, PathBuf};

use console::{CliError, ExitKind};
use serde::{Deserialize, Serialize};
use store::files::{self, FileError, Mode};

use crate::Locate;

/// Maximum length of a context file in bytes; a real one has about one thousand.
const CONTEXT_BYTES_MAX: u64 = 64 * 1024;

/// Name of the context file.
pub const OPERATOR_FILE: &str = "operator.toml";

/// Address, CA and token for the admin API of one hub.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Address of the operator API, like `https://hub.example:8443`.
    ///
    /// Where the hub's own `hub.toml` is beside this file, the port is the one that the running hub has bound.
    pub url: String,
    /// The operator's token.
    pub token: String,
    /// The hub's CA certificate in PEM; nobody else is believed.
    pub ca: String,
}

impl fmt::Debug for Context {
    /// Prints everything but the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Context {
    /// Reads the context from the given file, or the user's own, or that of the hub that is installed on this machine; waits
    /// for a hub of this machine that is starting.
    ///
    /// # Errors
    /// When there is none, or it is not a context.
    pub fn load(given: Option<&Path>, locate: Locate) -> Result<Self, CliError> {
        let path = given.map_or_else(default_path, Path::to_owned);
        let mut context = Self::read(&path)?;
        locate(&path, &mut context)?;
        Ok(context)
    }

    /// Reads a context as it is in its file.
    ///
    /// # Errors
    /// When the file cannot be read, or is not a context.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let bytes = files::read_secret(path, CONTEXT_BYTES_MAX).map_err(|error| {
            if error.is_exposed() {
                return CliError::new(ExitKind::Refused, error)
                    .hint("others may have read the token: revoke it with `cloud-hub operator revoke` if they should not have it");
            }
            let hint = match error.is_permission_denied() {
                true => {
                    "run this as the file's owner (sudo cloud-hub …), or copy it to ~/.config/sanderling/operator.toml"
                }
                false => {
                    "give the operator.toml that `cloud-hub init` wrote with --context FILE or SANDERLING_OPERATOR=FILE"
                }
            };
            CliError::new(ExitKind::Config, error).hint(hint)
        })?;
        let text = String::from_utf8_lossy(&bytes);
        toml::from_str(&text).map_err(|error| {
            // The parser quotes the line, which may hold the token: only its own sentence is passed on.
            let problem = format!("{} is not an operator context: {}", path.display(), error.message());
            CliError::new(ExitKind::Config, problem).hint("make a new one: cloud-hub operator create --help")
        })
    }

    /// Writes the context for its owner alone.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        // Three texts always serialise; should they not, an empty context says so at its first use.
        let body = toml::to_string(self).unwrap_or_default();
        let text = format!("# Context of the cloud-hub command line. Holds a secret: keep it to yourself.\n{body}");
        files::write_atomic(path, text.as_bytes(), Mode::Private)
    }

    /// Splits the address of the API into host and port.
    #[must_use]
    pub fn authority(&self) -> Option<(&str, &str)> {
        self.url.strip_prefix("https://")?.trim_end_matches('/').rsplit_once(':')
    }
}

/// Returns the user's own context, `~/.config/sanderling/operator.toml`, if there is one, else that of the hub that is
/// installed on this machine.
#[must_use]
pub fn default_path() -> PathBuf {
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    let own = base.map(|base| base.join("sanderling").join(OPERATOR_FILE));
    let installed = config::installed_file(OPERATOR_FILE);
    match own {
        Some(own) if own.exists() || !installed.exists() => own,
        Some(_) | None => installed,
    }
}
