//! `cloud-hub status`: a summary of the hub's state.

use clap::Args;
use console::CliError;

use hub_api::endpoints::Status;
use hub_api::{HubStatus, Listening};

use crate::{Locate, Operate};

/// Arguments of `cloud-hub status`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cloud-hub status --json")]
pub struct StatusArgs {
    #[command(flatten)]
    operate: Operate,
}

/// Runs the verb and prints its result.
///
/// # Errors
/// When the hub does not answer, or refuses.
pub fn run(args: &StatusArgs, locate: Locate) -> Result<(), CliError> {
    let status = args.operate.client(locate)?.get::<Status>(&())?;
    Ok(args.operate.output().print(&status, page)?)
}

fn page(status: &HubStatus) -> String {
    let facts = [
        ("version", status.version.clone()),
        ("up", format!("{}s", status.uptime_s)),
        ("device server", format!("{} (QUIC)", status.listening.quic)),
        ("admin server", format!("https://{}", status.listening.admin)),
        ("metrics", format!("http://{}/metrics", status.listening.metrics)),
        ("inference", inference(&status.listening)),
        ("CA", status.ca.to_string()),
        ("engine", format!("{} {}", status.engine.name, status.engine.version)),
        ("isolation", isolation(status)),
        ("devices", format!("{}, {} connected", status.devices, status.devices_connected)),
        ("requests", format!("{} waiting, {} running", status.requests_waiting, status.requests_running)),
        ("models", format!("{}, loaded: {}", status.models, status.loaded.join(", "))),
    ];
    let facts = facts.iter().map(|(name, value)| format!("{name:16} {value}"));
    let warnings = status.warnings.iter().map(|warning| format!("warning          {warning}"));
    facts.chain(warnings).collect::<Vec<_>>().join("\n")
}

/// Returns the addresses of the inference servers.
fn inference(listening: &Listening) -> String {
    let shown =
        |protocol: &str, address: Option<std::net::SocketAddr>| address.map(|address| format!("{protocol} {address}"));
    let shown = [shown("HTTP", listening.inference), shown("gRPC", listening.inference_grpc)];
    let shown: Vec<String> = shown.into_iter().flatten().collect();
    if shown.is_empty() { "off".to_owned() } else { shown.join(", ") }
}

/// Returns the isolation of the engine and the state of its child processes.
fn isolation(status: &HubStatus) -> String {
    let Some(isolation) = status.isolation else { return "unknown".to_owned() };
    if status.hosts.is_empty() {
        return isolation.as_str().to_owned();
    }
    let restarts: u64 = status.hosts.iter().map(|host| host.restarts).sum();
    let last = status.hosts.iter().rev().find_map(|host| host.last_death.as_deref());
    let last = last.map_or_else(String::new, |last| format!(", the last one {last}"));
    format!("{}: {} child processes, {restarts} restarts{last}", isolation.as_str(), status.hosts.len())
}
