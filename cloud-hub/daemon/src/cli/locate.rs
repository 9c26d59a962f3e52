//! The running hub of this machine, as its config and its state folder name it.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use console::{CliError, ExitKind};
use hub_cli::Context;
use store::StateLock;

use crate::api::Listening;
use crate::config::HubConfig;
use crate::config::reach;
use crate::storage::folder::Folder;

/// Timeout of a connection to a port of this machine.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// Waits for a hub that is starting and sets the port that it has bound, where the hub's config is beside the context file.
///
/// # Errors
/// As [`locate`].
pub(super) fn own_hub(context_file: &Path, context: &mut Context) -> Result<(), CliError> {
    let config = context_file.with_file_name(super::init::CONFIG_FILE);
    let Ok(config) = HubConfig::read(&config) else { return Ok(()) };
    locate(context, &config)
}

/// Waits for the hub of this config on this machine if it is starting, and takes the port that it has bound.
///
/// # Errors
/// When only a running hub could tell its port, and it does not run.
pub(super) fn locate(context: &mut Context, config: &HubConfig) -> Result<(), CliError> {
    let folder = Folder::new(&config.hub.state_dir);
    let is_up = || match (listening(&folder), context.authority()) {
        (Some(listening), _) => accepts(&listening.admin.to_string()),
        (None, None) => false,
        (None, Some((host, port))) => port != "0" && accepts(&format!("{host}:{port}")),
    };
    let is_starting = || StateLock::holder(folder.root()).is_some() && listening(&folder).is_none();
    let is_up = console::until_up("the hub", "serve", is_up, is_starting);
    let Some((host, port)) = context.authority() else { return Ok(()) };
    match listening(&folder) {
        Some(listening) => context.url = format!("https://{host}:{}", listening.admin.port()),
        None if port == "0" && !is_up => {
            let problem = format!("the hub in {} does not run", folder.root().display());
            let hint = format!("start it: cloud-hub serve --config {}", reach::file_of(config));
            return Err(CliError::new(ExitKind::Unavailable, problem).hint(hint));
        }
        None => {}
    }
    Ok(())
}

/// Reads the addresses that a running hub has bound.
pub(super) fn listening(folder: &Folder) -> Option<Listening> {
    service::listening::read(&folder.listening())
}

/// Returns whether something on this machine accepts connections there.
fn accepts(address: &str) -> bool {
    let addresses = address.to_socket_addrs().into_iter().flatten();
    addresses.into_iter().any(|address| TcpStream::connect_timeout(&address, CONNECT_WITHIN).is_ok())
}
