//! `operator.toml`: which hub the operator's verbs speak to, whom they trust, and who they are.
//!
//! Written by `cloud-hub init` and `cloud-hub operator create` with mode 0600, because it holds a secret.

use std::fmt;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use console::{CliError, ExitKind};
use serde::{Deserialize, Serialize};
use store::StateLock;
use store::files::{self, FileError, Mode};

use crate::api::Listening;
use crate::config::HubConfig;
use crate::reach;
use crate::state::Folder;

/// Largest context file, in bytes; a real one has about one thousand.
const CONTEXT_BYTES_MAX: u64 = 64 * 1024;

/// Longest wait for a connection to a port of this machine.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// Whom to speak to, and as who.
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
    /// Leaves the token out.
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
    pub fn load(given: Option<&Path>) -> Result<Self, CliError> {
        let path = given.map_or_else(default_path, Path::to_owned);
        let mut context = Self::read(&path)?;
        context.find_own_hub(&path)?;
        Ok(context)
    }

    /// Reads a context as it is in its file.
    ///
    /// # Errors
    /// When the file cannot be read, or is not a context.
    pub(super) fn read(path: &Path) -> Result<Self, CliError> {
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

    /// On the hub's own machine, waits for a hub that is starting and takes the port that it has bound.
    ///
    /// The hub's machine is known by its config beside the context.
    fn find_own_hub(&mut self, path: &Path) -> Result<(), CliError> {
        let config = path.with_file_name(super::init::CONFIG_FILE);
        let Ok(config) = HubConfig::read(&config) else { return Ok(()) };
        self.find_hub(&config)
    }

    /// Waits for the hub of this config on this machine if it is starting, and takes the port that it has bound.
    ///
    /// # Errors
    /// When only a running hub could tell its port, and it does not run.
    pub(super) fn find_hub(&mut self, config: &HubConfig) -> Result<(), CliError> {
        let folder = Folder::new(&config.hub.state_dir);
        let is_up = || match (listening(&folder), self.authority()) {
            (Some(listening), _) => accepts(&listening.admin.to_string()),
            (None, None) => false,
            (None, Some((host, port))) => port != "0" && accepts(&format!("{host}:{port}")),
        };
        let is_starting = || StateLock::holder(folder.root()).is_some() && listening(&folder).is_none();
        let is_up = console::until_up("the hub", "serve", is_up, is_starting);
        let Some((host, port)) = self.authority() else { return Ok(()) };
        match listening(&folder) {
            Some(listening) => self.url = format!("https://{host}:{}", listening.admin.port()),
            None if port == "0" && !is_up => {
                let problem = format!("the hub in {} does not run", folder.root().display());
                let hint = format!("start it: cloud-hub serve --config {}", reach::file_of(config));
                return Err(CliError::new(ExitKind::Unavailable, problem).hint(hint));
            }
            None => {}
        }
        Ok(())
    }

    /// Splits the address of the API into host and port.
    fn authority(&self) -> Option<(&str, &str)> {
        self.url.strip_prefix("https://")?.trim_end_matches('/').rsplit_once(':')
    }
}

/// Reads where a hub says that it listens.
pub(super) fn listening(folder: &Folder) -> Option<Listening> {
    service::listening::read(&folder.listening())
}

/// Returns whether something on this machine accepts connections there.
fn accepts(address: &str) -> bool {
    let addresses = address.to_socket_addrs().into_iter().flatten();
    addresses.into_iter().any(|address| TcpStream::connect_timeout(&address, CONNECT_WITHIN).is_ok())
}

/// Returns the user's own context, `~/.config/sanderling/operator.toml`, if there is one, else that of the hub that is
/// installed on this machine.
pub(super) fn default_path() -> PathBuf {
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    let own = base.map(|base| base.join("sanderling").join(super::init::OPERATOR_FILE));
    let installed = ::config::installed_file(super::init::OPERATOR_FILE);
    match own {
        Some(own) if own.exists() || !installed.exists() => own,
        Some(_) | None => installed,
    }
}
