//! `edge-agent doctor`: looks for what is wrong on this device and says what to do.

use clap::Args;
use console::doctor;
pub(super) use console::doctor::Check;
use console::{CliError, ExitKind};
use service::clock;
use transport::{Alpn, CloseCode, Dialer, DialerConfig, Limits};

use super::{
    Context, doctor_engines, doctor_models, doctor_ports, doctor_routing, doctor_state, doctor_trust, enroll, folder_of,
};
use crate::config::AgentConfig;
use crate::identity::{self, Enrolment};
use crate::state::Folder;

/// Looks for what is wrong on this device and says what to do.
///
/// Tries what the agent does: writes a file into the state folder (and removes it), opens the engines, binds the ports of
/// an agent that does not run, dials the hub. With sudo it tries as the user that the agent runs as. The exit code is that
/// of the first check that failed.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  edge-agent doctor\n  sudo edge-agent doctor                        names programs of other \
                  users too\n  edge-agent doctor --json | jq '.[] | select(.result != \"ok\")'"
)]
pub struct Doctor {}

impl Doctor {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        let config = match context.configuration() {
            Ok(config) => config,
            // What else to look at is what the file says.
            Err(error) => return doctor::finish(&[service::doctor::wrong_configuration(error)], context.output),
        };
        let folder = folder_of(&config);
        let running = doctor_ports::own_agent(&folder);
        let mut checks = vec![configuration(context, &config)];
        checks.extend(doctor_state::checks(&folder, &config));
        checks.extend(doctor_engines::engines(&config, &folder));
        let (identity, enrolment) = certificate(&folder);
        checks.push(identity);
        checks.push(udp_buffers());
        checks.extend(running.iter().filter_map(cloned));
        checks.extend(doctor_trust::trust(&folder, running.as_ref()));
        checks.extend(doctor_models::checks(&config, &folder, running.as_ref()));
        checks.extend(running.iter().flat_map(|status| &status.models).filter_map(doctor_routing::routing));
        checks.push(match &running {
            Some(status) => running_hub(status),
            None => dialled_hub(&config, enrolment),
        });
        checks.extend(doctor_ports::checks(&config, running.as_ref()));
        checks.push(match &running {
            Some(status) => Check::ok("agent", format!("version {} runs", status.agent_version)),
            None => Check::warning("agent", "does not run on this state folder", "start it: `edge-agent run`"),
        });
        doctor::finish(&checks, context.output)
    }
}

fn configuration(context: &Context, config: &AgentConfig) -> Check {
    let from = context.config_file().map_or_else(|| "defaults".to_owned(), |file| file.display().to_string());
    if config.models.is_empty() {
        let advice = "add a [models.<name>] table for each model that this device shall follow";
        return Check::warning("config", format!("{from}: it follows no model"), advice);
    }
    let names: Vec<&str> = config.models.keys().map(types::ModelName::as_str).collect();
    Check::ok("config", format!("{from}: it follows {}", names.join(", ")))
}

fn certificate(folder: &Folder) -> (Check, Option<Enrolment>) {
    const NAME: &str = "identity";
    let enrolment = match identity::read(&folder.identity()) {
        Ok(Some(enrolment)) => enrolment,
        Ok(None) => {
            let advice = "enrol it with a token from `cloud-hub token create`: `edge-agent enroll TOKEN`";
            return (Check::warning(NAME, "this machine is not enrolled", advice), None);
        }
        Err(error) => {
            let advice = "enrol it again: `edge-agent enroll --force TOKEN`";
            return (Check::failed(NAME, ExitKind::Refused, telemetry::chain(&error), advice), None);
        }
    };
    let now = clock::signed_unix_s();
    let until = clock::rfc3339(enrolment.identity.not_after_unix_s());
    let check = if now > enrolment.identity.not_after_unix_s() {
        let advice = "set the clock if it is wrong; if it is right, run the agent: the hub renews the certificate for some \
                      time (90 days by default), later enrol again: `edge-agent enroll TOKEN`";
        Check::warning(NAME, format!("the certificate expired at {until} by this clock"), advice)
    } else if now < enrolment.identity.not_before_unix_s() {
        let begins = clock::rfc3339(enrolment.identity.not_before_unix_s());
        let found = format!("the certificate begins at {begins}: this clock is behind");
        Check::warning(NAME, found, "set the clock, for example with NTP")
    } else {
        Check::ok(NAME, format!("device {}, certificate until {until}", enrolment.hub.device))
    };
    (check, Some(enrolment))
}

/// Checks the buffers that the kernel grants to the socket on which the hub is dialled.
fn udp_buffers() -> Check {
    const NAME: &str = "udp buffers";
    match transport::granted_buffers() {
        Ok(buffers) => {
            let kib = |bytes: usize| bytes / 1024;
            let found =
                format!("{} KiB to receive, {} KiB to send", kib(buffers.receive_bytes), kib(buffers.send_bytes));
            match buffers.are_short() {
                true => Check::warning(NAME, format!("{found}: large requests lose packets"), buffers.advice()),
                false => Check::ok(NAME, found),
            }
        }
        Err(error) => Check::failed(NAME, ExitKind::Failed, error.to_string(), "check that this machine has a network"),
    }
}

/// A warning if the hub said that another machine uses this device's identity.
fn cloned(status: &crate::status::Status) -> Option<Check> {
    let address = status.hub.identity_also_at.as_ref()?;
    let found = format!("another machine uses the identity of this device: {address}");
    Some(Check::warning("clone", found, crate::status::CLONE_ADVICE))
}

fn running_hub(status: &crate::status::Status) -> Check {
    const NAME: &str = "hub";
    let hub = &status.hub;
    if hub.state == "online" {
        let skew = hub.clock_skew_s;
        if skew.unsigned_abs() >= edge_core::renewal::SKEW_S_TOLD {
            let found = format!("online, and this device's clock differs by {skew} s");
            return Check::warning(NAME, found, "set the clock, for example with NTP");
        }
        return Check::ok(NAME, format!("online at {}", hub.address.as_deref().unwrap_or("-")));
    }
    let found = format!("{}: {}", hub.state, hub.last_error.as_deref().unwrap_or("no error yet"));
    let advice = hub.advice.clone().unwrap_or_else(|| "check that the hub runs and that UDP reaches it".to_owned());
    Check::failed(NAME, ExitKind::Unavailable, found, advice)
}

/// Without a running agent nobody else uses this identity, so the hub may be dialled with it.
fn dialled_hub(config: &AgentConfig, enrolment: Option<Enrolment>) -> Check {
    const NAME: &str = "hub";
    let Some(enrolment) = enrolment else {
        return Check::warning(NAME, "not looked for: this machine is not enrolled", "enrol it first");
    };
    let addresses = match config.hub.addresses.is_empty() {
        true => enrolment.hub.addresses.clone(),
        false => config.hub.addresses.clone(),
    };
    let dialer = Dialer::new(DialerConfig {
        identity: Some(enrolment.identity),
        trust: transport::Trust::CaDer(enrolment.ca_der),
        server_name: enrolment.hub.server_name,
        alpn: Alpn::Device,
        limits: Limits::agent(),
        congestion: config.hub.congestion,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (dialer, runtime) = match (dialer, runtime) {
        (Ok(dialer), Ok(runtime)) => (dialer, runtime),
        (Err(error), _) => {
            return Check::failed(NAME, ExitKind::Refused, telemetry::chain(&error), "enrol this device again");
        }
        (_, Err(error)) => return Check::failed(NAME, ExitKind::Failed, error.to_string(), "free some memory"),
    };
    runtime.block_on(async {
        match dialer.dial(&addresses).await {
            Ok(connection) => {
                let found = format!("answers at {}", connection.remote_addr());
                connection.close(CloseCode::Done, "doctor");
                connection.drain().await;
                Check::ok(NAME, found)
            }
            Err(error) => Check::failed(NAME, enroll::dial_exit(&error), telemetry::chain(&error), error.advice()),
        }
    })
}
