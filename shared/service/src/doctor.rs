//! Checks that the `doctor` verbs of both daemons make: state folder, ONNX Runtime, ports, configuration.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use console::doctor::{Check, try_in_child, unusable_library};
use console::port::{self, Protocol};
use console::{CliError, ExitKind};
use engine::LibrarySearch;
use store::{files, owner};

use crate::units;

/// Names of a daemon in advice.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// The daemon in prose: `agent`.
    pub daemon: &'static str,
    /// The name of its program: `edge-agent`.
    pub program: &'static str,
}

/// Reports a config file that does not read.
#[must_use]
pub fn wrong_configuration(error: CliError) -> Check {
    let found = telemetry::chain(error.source.as_ref());
    Check::failed("config", error.kind, found, error.hint.unwrap_or_default())
}

/// Checks that this user may act as the owner of the state folder, and that everything in it belongs to that owner.
///
/// # Errors
/// When the folder cannot be looked at.
pub fn ownership(root: &Path, names: Names) -> std::io::Result<Check> {
    const NAME: &str = "state folder";
    let owner_number = std::fs::metadata(root)?.uid();
    let (this_user, owner_name) = (owner::this_user(), owner::user_name(owner_number));
    let Names { daemon, program } = names;
    let shown = root.display();
    if this_user != 0 && this_user != owner_number {
        let found = format!("{shown} belongs to {owner_name}, and this is {}", owner::user_name(this_user));
        let advice = format!("run the {daemon}, and this, as that user: sudo -u {owner_name} {program} doctor");
        return Ok(Check::failed(NAME, ExitKind::Storage, found, advice));
    }
    if let Some(entry) = owner::foreign_entry(root) {
        let found = format!("{} does not belong to {owner_name}, who owns the folder", entry.display());
        let advice = format!("give it back: sudo chown -R {owner_name}: {shown}");
        return Ok(Check::failed(NAME, ExitKind::Storage, found, advice));
    }
    Ok(Check::ok(NAME, format!("{shown}, of user {owner_name}")))
}

/// Writes a file into the state folder as its owner, as the daemon will; removes it again.
#[must_use]
pub fn writing(root: &Path) -> Check {
    const NAME: &str = "writing";
    match try_in_child(owner::owner_of(root), &["trial".as_ref(), "folder".as_ref(), root.as_os_str()]) {
        Ok(_written) => Check::ok(NAME, "a file was written, made durable, renamed and removed"),
        Err(problem) => {
            let advice =
                "make the folder writable for its owner (chmod u+rwx), mount its disk writable, or free some space";
            Check::failed(NAME, ExitKind::Storage, problem, advice)
        }
    }
}

/// Checks that at least `least_bytes` are free on the disk of the state folder; `short` makes the check for less.
pub fn disk_space(root: &Path, least_bytes: u64, short: impl FnOnce(&'static str, &str) -> Check) -> Check {
    const NAME: &str = "disk space";
    match files::free_bytes(root) {
        Err(error) => Check::failed(NAME, ExitKind::Storage, telemetry::chain(&error), "check the disk"),
        Ok(free) if free < least_bytes => short(NAME, &units::bytes(free)),
        Ok(free) => Check::ok(NAME, format!("{} free", units::bytes(free))),
    }
}

/// Opens ONNX Runtime in a child process as the owner of the state folder: a library for another machine may end its process.
///
/// `field` is the setting that names the library, `note` is added to what was found.
#[must_use]
pub fn library(root: &Path, configured: Option<&Path>, field: &str, note: &str) -> Check {
    const NAME: &str = "ONNX Runtime";
    let mut arguments: Vec<&OsStr> = vec!["trial".as_ref(), "library".as_ref()];
    arguments.extend(configured.map(Path::as_os_str));
    match try_in_child(owner::owner_of(root), &arguments) {
        Ok(found) => Check::ok(NAME, format!("{found}{note}")),
        Err(problem) => {
            let file = LibrarySearch { configured: configured.map(Path::to_owned) }.find().ok();
            let found = unusable_library(file.as_deref(), problem);
            let advice = format!(
                "install the package that ships it for this machine, or set {field} to a file that this user may read"
            );
            Check::failed(NAME, ExitKind::Runtime, found, advice)
        }
    }
}

/// Binds a port of a daemon that does not run; `holder` names the process that has it.
pub fn port(
    field: &'static str,
    protocol: Protocol,
    address: SocketAddr,
    holder: impl FnOnce(SocketAddr) -> String,
) -> Check {
    const NAME: &str = "port";
    let bound = match protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
    };
    let problem = match bound {
        Ok(()) => return Check::ok(NAME, format!("{field} {address} is free")),
        Err(problem) => problem,
    };
    let (exit, found, advice) = match problem.kind() {
        ErrorKind::AddrInUse => (
            ExitKind::Conflict,
            format!("{field} {address} is held by {}", holder(address)),
            format!("stop that one, or set {field} to another address (port 0 takes a free one)"),
        ),
        ErrorKind::AddrNotAvailable => (
            ExitKind::Failed,
            format!("{field} {address} is no address of this machine"),
            format!("set {field} to an address of this machine, for example 127.0.0.1:{}", address.port()),
        ),
        ErrorKind::PermissionDenied => (
            ExitKind::Refused,
            format!("{field} {address} needs a privilege: ports below 1024 are reserved"),
            format!("set {field} to a higher port, or grant CAP_NET_BIND_SERVICE to doctor and the daemon"),
        ),
        _ => (ExitKind::Failed, format!("{field} {address}: {problem}"), format!("correct {field}")),
    };
    Check::failed(NAME, exit, found, advice)
}

/// Names the process that has a port, for [`port`].
#[must_use]
pub fn any_holder(protocol: Protocol, address: SocketAddr) -> String {
    port::holder_in_words(protocol, address)
}
