//! `edge-agent status`: what the running agent says of itself.

use clap::Args;
use console::{CliError, ExitKind, OrExit, Output};
use edge_core::trust::Standing;

use super::Context;
use super::client::Client;
use crate::drift::DriftStatus;
use crate::engines::EngineStatus;
use crate::status::{ModelStatus, OutboxStatus, ProbationStatus, Status, TrustStatus};
use crate::thresholds::RefitStatus;
use engine::HostStatus;
use service::{clock, units};

/// Shows the running agent: hub, models, updates.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  edge-agent status\n  edge-agent status --json | jq .hub.state")]
pub struct StatusVerb {
    /// Agent's server; without it the agent on the configured state folder
    #[arg(long)]
    url: Option<String>,
}

impl StatusVerb {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        let status = fetch(&Client::new(self.url.as_deref(), context)?)?;
        match context.output {
            Output::Json => console::print_json(&status).or_exit(ExitKind::Storage),
            Output::Table => print(&status),
        }
    }
}

pub(super) fn fetch(client: &Client) -> Result<Status, CliError> {
    let answer = client.get("/sanderling/v1/status")?.good()?;
    serde_json::from_slice(&answer.body).or_exit_try(ExitKind::Failed, "agent and command line differ in version")
}

fn print(status: &Status) -> Result<(), CliError> {
    let device = status.device.as_ref().map_or("not enrolled", |device| device.as_str());
    let mut lines = vec![format!("device {device}, agent {}", status.agent_version)];
    if let Some(listening) = &status.listening {
        let also = listening.grpc.iter().map(|grpc| format!("gRPC {grpc}"));
        let also = also.chain(listening.socket.iter().map(|socket| format!("socket {}", socket.display())));
        let servers = [format!("serving http://{}", listening.http)].into_iter().chain(also);
        lines.push(servers.collect::<Vec<_>>().join(", "));
    }
    let hub = &status.hub;
    let address = hub.address.as_deref().unwrap_or("-");
    lines.push(format!("hub {address}: {}", hub.state));
    if let Some(error) = &hub.last_error {
        lines.push(format!("  last error: {error}"));
    }
    if let Some(advice) = &hub.advice {
        lines.push(format!("  try: {advice}"));
    }
    if let Some(not_after) = hub.certificate_not_after_unix_s {
        let until = clock::rfc3339(i64::try_from(not_after).unwrap_or(i64::MAX));
        lines.push(format!("  certificate until {until}, {} reports waiting", hub.reports_waiting));
    }
    if let Some(address) = &hub.identity_also_at {
        lines.push(format!("  warning: another machine uses the identity of this device: {address}"));
        lines.push(format!("  try: {}", crate::status::CLONE_ADVICE));
    }
    lines.extend(status.outbox.as_ref().and_then(OutboxStatus::line));
    lines.push(trust(&status.trust));
    lines.extend(status.engines.iter().map(engine));
    lines.extend(status.unreadable_records.iter().map(|record| {
        format!("warning: record {} of table {} was set aside: {}", record.key, record.table, record.reason)
    }));
    lines.push(String::new());
    let headers = [
        "model", "active", "variant", "previous", "policy", "engine", "provider", "update", "answered", "by hub",
        "failed",
    ];
    lines.push(console::render_table(headers, status.models.iter().map(row)));
    for model in &status.models {
        let told = model.share().into_iter().chain(model.without_threshold().map(str::to_owned));
        let told = told.chain(model.drift.as_ref().map(DriftStatus::sentence));
        let told = told.chain(model.refit.as_ref().map(RefitStatus::sentence));
        lines.extend(told.map(|text| format!("{}: {text}", model.model)));
        lines.extend(
            model.withheld.map(|reason| format!("{}: no input goes to the hub: {}", model.model, reason.sentence())),
        );
        lines.extend(model.budget.as_ref().map(|budget| format!("{}: {}", model.model, budget.line())));
        lines.extend(model.orders.iter().map(|orders| format!("{} {orders}", model.model)));
        lines.extend(model.probation.iter().map(|probation| {
            let ProbationStatus { version, left_s, answers, failures } = probation;
            let left = format!("{left_s} s left, {answers} answers, {failures} failed runs");
            format!("{} version {version} is on probation: {left}", model.model)
        }));
        if let Some(failover) = &model.failover {
            let to = failover.to.map_or_else(|| "no engine".to_owned(), |to| to.to_string());
            lines.push(format!("{} went from {} to {to}: {}", model.model, failover.from, failover.cause));
        }
        for failed in &model.failed {
            lines.push(format!(
                "{} version {} was given up: {}: {}",
                model.model, failed.version, failed.kind, failed.detail
            ));
        }
        lines.extend(model.hub_problem.iter().map(|problem| format!("{}: {problem}", model.model)));
        if model.update.bytes_saved > 0 {
            lines.push(format!(
                "{}: deltas saved {} of downloads",
                model.model,
                units::bytes(model.update.bytes_saved)
            ));
        }
        if let Some(error) = &model.update.delta_error {
            let count = model.update.delta_failures;
            lines.push(format!(
                "{}: {count} deltas could not be used, the files were fetched; the last: {error}",
                model.model
            ));
        }
        if let Some(error) = &model.update.last_error {
            lines.push(format!("{} last update error: {error}", model.model));
        }
    }
    let text: Vec<String> =
        lines.iter().flat_map(|line| line.lines().chain(line.is_empty().then_some(""))).map(safe).collect();
    console::print_line(&text.join("\n")).or_exit(ExitKind::Storage)
}

fn trust(trust: &TrustStatus) -> String {
    let error = trust.last_error.as_ref().map_or_else(String::new, |error| format!("; last refresh: {error}"));
    match trust.standing() {
        Standing::Unknown => format!("trust: never refreshed{error}"),
        Standing::Valid { role, until } => format!("trust: valid until {} ({role}){error}", clock::rfc3339(until)),
        Standing::Expired { role, since } => format!("trust: expired since {} ({role}){error}", clock::rfc3339(since)),
    }
}

fn engine(status: &EngineStatus) -> String {
    let EngineStatus { engine, state, problem, description, hosts, reopened } = status;
    let made_of = description.as_ref().map_or_else(String::new, |description| {
        format!(" {}: {}", description.version, description.providers.join(", "))
    });
    let problem = problem.as_ref().map_or_else(String::new, |problem| format!(": {problem}"));
    let hosts: String = hosts.iter().map(host).collect();
    let reopened = if *reopened > 0 { format!(", opened again {reopened} times") } else { String::new() };
    format!("engine {engine}{made_of}, {state}{problem}{reopened}{hosts}")
}

/// A line for one child process of an engine.
fn host(status: &HostStatus) -> String {
    let HostStatus { pid, shared, sessions, restarts, last_death, memory_max_bytes } = status;
    let pid = pid.map_or_else(|| "starting".to_owned(), |pid| pid.to_string());
    let whose = if *shared { "shared" } else { "own" };
    let memory = memory_max_bytes.map_or_else(String::new, |bytes| format!(", at most {}", units::bytes(bytes)));
    let last = last_death.as_ref().map_or_else(String::new, |last| format!(", the last one {last}"));
    format!("\n  child process {pid} ({whose}): {}{memory}, {restarts} restarts{last}", sessions.join(", "))
}

/// Error texts may quote what a peer said.
fn safe(line: &str) -> String {
    telemetry::escape_control(line).into_owned()
}

fn row(model: &ModelStatus) -> [String; 11] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let update = match (&model.update.version, model.update.bytes_total) {
        (None, _) => model.update.state.clone(),
        (Some(version), 0) => format!("{} {version}", model.update.state),
        (Some(version), total) => {
            format!(
                "{} {version} ({} of {})",
                model.update.state,
                units::bytes(model.update.bytes_done),
                units::bytes(total)
            )
        }
    };
    [
        model.model.to_string(),
        or_dash(model.active.as_ref().map(|active| active.version.to_string())),
        or_dash(model.active.as_ref().map(|active| active.variant.to_string())),
        or_dash(model.previous.as_ref().map(|previous| previous.version.to_string())),
        model.policy.to_string(),
        or_dash(model.engine.map(|engine| engine.to_string())),
        or_dash(model.provider.clone()),
        update,
        model.answered.to_string(),
        model.answered_by_hub.to_string(),
        model.not_answered.to_string(),
    ]
}
