//! `operator.toml`: which hub the operator's verbs speak to, whom they trust, and who they are.
//!
//! Written by `cloud-hub init` and `cloud-hub operator create` with mode 0600, because it holds a secret.

use std::fmt;
use std::path::{Path, PathBuf};

use console::{CliError, ExitKind};
use serde::{Deserialize, Serialize};
use store::files::{self, FileError, Mode};

use crate::api::Listening;

/// Largest context file, in bytes; a real one has about one thousand.
const CONTEXT_BYTES_MAX: u64 = 64 * 1024;

/// Whom to speak to, and as who.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Address of the operator API, like `https://hub.example:8443`.
    ///
    /// Where `listening.json` lies beside this file, as in the hub's own folder, the port is the one it says.
    pub url: String,
    /// The operator's token.
    pub token: String,
    /// The hub's CA certificate in PEM; nobody else is believed.
    pub ca: String,
}

impl fmt::Debug for Context {
    /// Leaves the token out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Context {
    /// Reads the context from the given file or the user's own.
    ///
    /// # Errors
    /// When there is none, or it is not a context.
    pub fn load(given: Option<&Path>) -> Result<Self, CliError> {
        let path = given.map(Path::to_owned).or_else(default_path).ok_or_else(|| {
            CliError::new(ExitKind::Config, "no operator context is known").hint("give one with --context FILE")
        })?;
        let bytes = files::read_secret(&path, CONTEXT_BYTES_MAX).map_err(|error| {
            if error.is_exposed() {
                return CliError::new(ExitKind::Refused, error)
                    .hint("others may have read the token: revoke it with `cloud-hub operator revoke` if they should not have it");
            }
            CliError::new(ExitKind::Config, error).hint(
                "give the operator.toml that `cloud-hub init` wrote with --context FILE or SANDERLING_OPERATOR=FILE",
            )
        })?;
        let text = String::from_utf8_lossy(&bytes);
        let mut context: Self = toml::from_str(&text).map_err(|error| {
            // The parser quotes the line, which may hold the token: only its own sentence is passed on.
            let problem = format!("{} is not an operator context: {}", path.display(), error.message());
            CliError::new(ExitKind::Config, problem).hint("make a new one: cloud-hub operator create --help")
        })?;
        context.fill_port(&path)?;
        Ok(context)
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

    /// Beside a hub's own state, its `listening.json` knows the port better than what was written at `init`.
    fn fill_port(&mut self, path: &Path) -> Result<(), CliError> {
        let listening = path.parent().unwrap_or(Path::new(".")).join("listening.json");
        let Some((host, port)) = self.url.rsplit_once(':') else { return Ok(()) };
        match files::read_bounded(&listening, CONTEXT_BYTES_MAX) {
            Ok(bytes) => {
                let listening: Listening = serde_json::from_slice(&bytes).map_err(|error| {
                    CliError::new(ExitKind::Unavailable, error).hint("start the hub again: listening.json is broken")
                })?;
                self.url = format!("{host}:{}", listening.admin.port());
                Ok(())
            }
            Err(error) if port == "0" => {
                Err(CliError::new(ExitKind::Unavailable, error)
                    .hint("start the hub: cloud-hub serve --config hub.toml"))
            }
            Err(_elsewhere) => Ok(()),
        }
    }
}

/// `$XDG_CONFIG_HOME/sanderling/operator.toml`, or the same under `~/.config`.
fn default_path() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")))?;
    Some(base.join("sanderling").join("operator.toml"))
}
