//! `edge-agent doctor`: looks for what is wrong on this device and says what to do.

use std::path::Path;

use clap::Args;
use console::{CliError, ExitKind, OrExit, Output};
use edge_core::slots::Slots;
use serde::Serialize;
use store::files;
use transport::{Alpn, CloseCode, Dialer, DialerConfig, Limits};

use super::client::Client;
use super::{Context, doctor_engines, doctor_routing, doctor_trust, enroll, folder_of, show, status};
use crate::config::AgentConfig;
use crate::identity::{self, Enrolment};
use crate::state::Folder;
use crate::updater::read_slots;

/// Looks for what is wrong on this device and says what to do.
///
/// Changes nothing. The exit code is that of the first check that failed.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  edge-agent doctor\n  edge-agent doctor --json | jq '.[] | select(.result != \"ok\")'"
)]
pub struct Doctor {}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Ok,
    Warning,
    Failed,
}

impl Verdict {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// One check.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    check: &'static str,
    result: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    /// The same for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<serde_json::Value>,
    #[serde(skip)]
    exit: ExitKind,
}

impl Check {
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, result: Verdict::Ok, found: found.into(), advice: None, details: None, exit: ExitKind::Ok }
    }

    pub(super) fn is_ok(&self) -> bool {
        self.result == Verdict::Ok
    }

    /// A failure becomes a warning: something else does the work.
    pub(super) fn not_fatal(self) -> Self {
        match self.result {
            Verdict::Failed => Self { result: Verdict::Warning, ..self },
            Verdict::Ok | Verdict::Warning => self,
        }
    }

    #[cfg(feature = "wgpu")]
    pub(super) fn with_details(self, details: &impl Serialize) -> Self {
        Self { details: serde_json::to_value(details).ok(), ..self }
    }

    pub(super) fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { result: Verdict::Warning, advice: Some(advice.into()), ..Self::ok(check, found) }
    }

    pub(super) fn failed(
        check: &'static str,
        exit: ExitKind,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { result: Verdict::Failed, exit, ..Self::warning(check, found, advice) }
    }
}

impl Doctor {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        let config = context.configuration()?;
        let folder = folder_of(&config);
        let mut checks = vec![configuration(context, &config), state_folder(&folder, &config)];
        let running = status::fetch(&Client::new(None, context)?).ok();
        checks.extend(doctor_engines::engines(&config));
        let (identity, enrolment) = certificate(&folder);
        checks.push(identity);
        checks.extend(doctor_trust::trust(&folder, running.as_ref()));
        checks.extend(config.models.keys().map(|model| installed(&folder, model)));
        checks.extend(running.iter().flat_map(|status| &status.models).filter_map(doctor_routing::routing));
        checks.push(match &running {
            Some(status) => running_hub(status),
            None => dialled_hub(&config, enrolment),
        });
        checks.push(match &running {
            Some(status) => Check::ok("agent", format!("version {} runs", status.agent_version)),
            None => Check::warning("agent", "does not run on this state folder", "start it: `edge-agent run`"),
        });
        print(&checks, context.output)?;
        match checks.iter().find(|check| check.result == Verdict::Failed) {
            None => Ok(()),
            Some(check) => {
                let error = CliError::new(check.exit, format!("{}: {}", check.check, check.found));
                Err(check.advice.iter().fold(error, |error, advice| error.hint(advice)))
            }
        }
    }
}

fn print(checks: &[Check], output: Output) -> Result<(), CliError> {
    match output {
        Output::Json => console::print_json(&checks).or_exit(ExitKind::Storage),
        Output::Table => {
            let row = |check: &Check| {
                [
                    check.check.to_owned(),
                    check.result.as_str().to_owned(),
                    check.found.clone(),
                    check.advice.clone().unwrap_or_default(),
                ]
            };
            console::table(["check", "result", "found", "try"], checks.iter().map(row)).or_exit(ExitKind::Storage)
        }
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

fn state_folder(folder: &Folder, config: &AgentConfig) -> Check {
    const NAME: &str = "state folder";
    let root = folder.root();
    if !root.exists() {
        let advice = "`edge-agent enroll` makes it; it needs a folder that this user may write";
        return Check::warning(NAME, format!("{} does not exist yet", root.display()), advice);
    }
    match files::free_bytes(root) {
        Err(error) => {
            Check::failed(NAME, ExitKind::Storage, telemetry::chain(&error), "check the disk and who owns it")
        }
        Ok(free) if free < config.updates.disk_free_min_bytes => Check::failed(
            NAME,
            ExitKind::Storage,
            format!(
                "{} has {} free, updates must leave {}",
                root.display(),
                show::bytes(free),
                show::bytes(config.updates.disk_free_min_bytes)
            ),
            "free some space: until then requests are answered and updates are refused",
        ),
        Ok(free) => Check::ok(NAME, format!("{}, {} free", root.display(), show::bytes(free))),
    }
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
    let now = i64::try_from(crate::clock::unix_ms() / 1000).unwrap_or(i64::MAX);
    let until = show::unix_time(enrolment.identity.not_after_unix_s());
    let check = if now > enrolment.identity.not_after_unix_s() {
        let advice = "set the clock if it is wrong, else enrol again: `edge-agent enroll TOKEN`";
        Check::failed(NAME, ExitKind::Refused, format!("the certificate expired at {until} by this clock"), advice)
    } else if now < enrolment.identity.not_before_unix_s() {
        let begins = show::unix_time(enrolment.identity.not_before_unix_s());
        let found = format!("the certificate begins at {begins}: this clock is behind");
        Check::failed(NAME, ExitKind::Refused, found, "set the clock, for example with NTP")
    } else {
        Check::ok(NAME, format!("device {}, certificate until {until}", enrolment.hub.device))
    };
    (check, Some(enrolment))
}

fn installed(folder: &Folder, model: &types::ModelName) -> Check {
    const NAME: &str = "model";
    let damaged = |version| missing(&folder.version(model, version));
    match read_slots(folder, model) {
        Err(error) => Check::failed(NAME, ExitKind::Storage, telemetry::chain(&error), "check the disk"),
        Ok(Slots { active: None, .. }) => {
            let advice = "it is fetched when the hub offers it: see `edge-agent status` and `cloud-hub model list`";
            Check::warning(NAME, format!("{model}: no version is installed yet"), advice)
        }
        Ok(Slots { active: Some(active), .. }) => match damaged(active.version) {
            true => {
                let found = format!("{model}: the files of version {} are not there", active.version);
                Check::failed(NAME, ExitKind::Storage, found, "restart the agent: it falls back and fetches again")
            }
            false => Check::ok(NAME, format!("{model}: version {} {}", active.version, active.variant)),
        },
    }
}

fn missing(place: &Path) -> bool {
    !place.join(crate::state::MANIFEST_FILE).exists()
}

fn running_hub(status: &crate::board::Status) -> Check {
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
