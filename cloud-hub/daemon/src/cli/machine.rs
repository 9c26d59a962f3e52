//! Verbs with `--config` on the hub's own machine: they ask a running hub with the token in its state folder, and read the
//! store of a stopped one.

use std::io::ErrorKind;
use std::net::SocketAddr;

use console::{CliError, ExitKind, OrExit};
use store::StateLock;

use hub_cli::{Client, Context};

use crate::app::operators::local;
use crate::config::HubConfig;
use crate::storage::folder::Folder;

/// Advice to whoever may not read the state folder.
pub(super) const AS_ITS_USER: &str = "run this as the user that the hub runs as, or with sudo";

/// A hub of this machine.
pub(super) enum Reached {
    /// It runs, and this client may do everything.
    Running(Box<Client>),
    /// It does not run: its store can be opened.
    Stopped(Folder),
}

/// Reaches the hub of a config; waits for one that is starting.
///
/// # Errors
/// When it runs and its token cannot be read.
pub(super) fn reach(config: &HubConfig) -> Result<Reached, CliError> {
    let folder = Folder::new(&config.hub.state_dir);
    require_hub(&folder)?;
    if StateLock::holder(folder.root()).is_none() {
        return Ok(Reached::Stopped(folder));
    }
    Ok(Reached::Running(Box::new(running(config, &folder)?)))
}

/// Makes a client of the hub that runs on this folder.
///
/// # Errors
/// As [`reach`].
pub(super) fn running(config: &HubConfig, folder: &Folder) -> Result<Client, CliError> {
    let mut context =
        Context { url: loopback_url(config.admin.listen), token: String::new(), ca: certificate(folder)? };
    super::locate::locate(&mut context, config)?;
    context.token = local::read(folder).map_err(|error| {
        let hint = match error.is_permission_denied() {
            true => AS_ITS_USER,
            false => "stop the hub first, or ask it over its API: leave out --config",
        };
        CliError::new(ExitKind::Conflict, error).hint(hint)
    })?;
    Client::new(context)
}

/// Reads the certificate of the hub's CA.
///
/// # Errors
/// When there is none, or this user may not read it.
pub(super) fn certificate(folder: &Folder) -> Result<String, CliError> {
    let read = std::fs::read_to_string(folder.ca_certificate());
    let hint = match read.as_ref().map_err(std::io::Error::kind) {
        Err(ErrorKind::PermissionDenied) => AS_ITS_USER,
        Ok(_) | Err(_) => "is hub.state_dir right? a new hub is made with: cloud-hub init",
    };
    read.or_exit_try(ExitKind::Storage, hint)
}

/// Demands that there is a hub in a folder.
///
/// # Errors
/// When there is none, or this user may not look.
pub(super) fn require_hub(folder: &Folder) -> Result<(), CliError> {
    let shown = folder.root().display();
    match folder.ca_certificate().try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => Err(CliError::new(ExitKind::NotFound, format!("there is no hub in {shown}"))
            .hint("name its config with --config FILE")),
        Err(error) => Err(CliError::new(ExitKind::Storage, format!("look into {shown}: {error}")).hint(AS_ITS_USER)),
    }
}

/// Returns the address of the admin API as it is reached from this machine.
fn loopback_url(listen: SocketAddr) -> String {
    let ip = match listen {
        SocketAddr::V4(address) if address.ip().is_unspecified() => "127.0.0.1".to_owned(),
        SocketAddr::V6(address) if address.ip().is_unspecified() => "[::1]".to_owned(),
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    };
    format!("https://{ip}:{}", listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_that_listens_everywhere_is_asked_on_loopback() {
        for (listen, url) in [
            ("0.0.0.0:8443", "https://127.0.0.1:8443"),
            ("[::]:8443", "https://[::1]:8443"),
            ("127.0.0.1:0", "https://127.0.0.1:0"),
            ("10.0.0.5:8443", "https://10.0.0.5:8443"),
        ] {
            assert_eq!(loopback_url(listen.parse().unwrap()), url);
        }
    }
}
