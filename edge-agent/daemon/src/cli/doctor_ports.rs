//! The part of `edge-agent doctor` that tries the ports: whether the agent has them, can have them, or who has them.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;

use console::ExitKind;
use console::doctor::Check;
use console::port::{self, Protocol};
use service::doctor;

use super::client::Client;
use super::status;
use crate::config::AgentConfig;
use crate::state::Folder;
use crate::status::Status;

/// Returns what the agent on this state folder says of itself; `None` when none runs there.
///
/// The port alone does not tell: after a crash, the agent of another folder may have it.
pub(super) fn own_agent(folder: &Folder) -> Option<Status> {
    let listening = folder.read_listening()?;
    let status = status::fetch(&Client::probe(listening.http)).ok()?;
    (status.listening.as_ref().map(|said| said.pid) == Some(listening.pid)).then_some(status)
}

/// Tries to bind the ports of the configuration, if the agent does not run.
pub(super) fn checks(config: &AgentConfig, running: Option<&Status>) -> Vec<Check> {
    if running.is_some() {
        return Vec::new();
    }
    let grpc = config.inference.grpc_address().map(|address| {
        let check = doctor::port("inference.grpc", Protocol::Tcp, address, holder);
        // The agent serves without gRPC where nobody set the port and another program has it.
        if config.inference.grpc.is_none() { check.not_fatal() } else { check }
    });
    let ports = [("inference.http", config.inference.http), ("metrics.listen", config.metrics.listen)];
    let checked = ports.into_iter().map(|(field, address)| doctor::port(field, Protocol::Tcp, address, holder));
    checked.chain(grpc).chain(config.inference.socket.as_deref().map(socket)).collect()
}

/// Checks that the Unix socket can be bound.
fn socket(path: &Path) -> Check {
    const NAME: &str = "socket";
    let shown = path.display();
    if UnixStream::connect(path).is_ok() {
        let found = format!("inference.socket {shown} is held by another program");
        return Check::failed(
            NAME,
            ExitKind::Conflict,
            found,
            "stop that one, or set inference.socket to another path",
        );
    }
    match path.parent() {
        Some(folder) if folder.is_dir() => Check::ok(NAME, format!("inference.socket {shown} is free")),
        Some(_) | None => {
            let found = format!("the folder of inference.socket {shown} does not exist");
            Check::failed(NAME, ExitKind::Storage, found, "create the folder, or set inference.socket to another path")
        }
    }
}

/// Names the process that has a port; of an agent with another state folder also its device.
fn holder(address: SocketAddr) -> String {
    let other = status::fetch(&Client::probe(address)).ok();
    let held = port::holder_in_words(Protocol::Tcp, address);
    match other {
        None => held,
        Some(status) => {
            let device = status.device.map_or_else(|| "not enrolled".to_owned(), |device| format!("device {device}"));
            let pid = status
                .listening
                .map(|listening| format!("process {} ({})", listening.pid, port::command(listening.pid)));
            format!("an agent with another state folder ({device}): {}", pid.unwrap_or(held))
        }
    }
}
