//! Runs the hub: `cloud-hub serve`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use console::{CliError, ExitKind, OrExit};
use service::logs;
use service::signals::{Reload, Signals};
use service::stop::Stop;
use tokio::task::JoinSet;

use crate::config::HubConfig;
use crate::hub::{self, RunError, StartError};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cloud-hub serve --config hub/hub.toml
  SANDERLING_LOG=debug cloud-hub serve --config hub/hub.toml

SIGTERM or Ctrl-C finishes what is in flight within hub.stop_grace; a second one stops at once.
SIGHUP reads log.filter again; every other change of the config needs a restart.
The bound addresses are written to listening.json in the state folder.")]
pub(super) struct ServeArgs {
    /// The config file [default: /etc/sanderling/hub.toml].
    #[arg(long, value_name = "FILE", env = "SANDERLING_HUB_CONFIG")]
    config: Option<PathBuf>,
}

/// Time that blocking work may take when all else has ended: work that hangs must not keep the process from ending.
const RUNTIME_GRACE: Duration = Duration::from_secs(1);

pub(super) fn run(args: &ServeArgs) -> Result<(), CliError> {
    store::files::make_private_by_default();
    let file = super::config::file(args.config.as_deref());
    let mut config = super::config::read(&file)?;
    config.log = logs::in_force(&config.log);
    let guard = telemetry::init(config.log.clone())
        .or_exit_try(ExitKind::Config, "see log.filter in hub.toml and SANDERLING_LOG")?;
    let metrics = telemetry::metrics::install(env!("CARGO_PKG_VERSION"))?;
    let configured = move || match HubConfig::read(&file) {
        Ok(config) => Ok(config.log),
        Err(error) => Err(telemetry::chain(&error)),
    };
    let reload: Reload = Arc::new(move || logs::reload(&guard, &configured));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().or_exit(ExitKind::Failed)?;
    let served = runtime.block_on(serve(config, metrics, reload));
    runtime.shutdown_timeout(RUNTIME_GRACE);
    served
}

async fn serve(config: HubConfig, metrics: telemetry::metrics::Metrics, reload: Reload) -> Result<(), CliError> {
    let stop = Stop::default();
    let mut signals = JoinSet::new();
    signals.spawn(Signals::listen()?.obey(stop.clone(), reload));
    // A task of its own: a start that blocks its thread must not keep a signal from ending the process.
    let mut starting = JoinSet::new();
    starting.spawn(hub::start(config, stop.clone()));
    let started = tokio::select! {
        started = starting.join_next() => started,
        () = stop.drain.cancelled() => {
            tracing::info!("stopped while starting");
            return Ok(());
        }
    };
    let running = match started {
        Some(Ok(started)) => started.map_err(explain)?,
        Some(Err(lost)) => return Err(explain(StartError::Lost(lost))),
        None => return Ok(()),
    };
    if let Some(listening) = running.listening() {
        tracing::info!(
            quic = %listening.quic,
            admin = %listening.admin,
            metrics = %listening.metrics,
            ca = %running.hub().services.issuer.ca.fingerprint(),
            "hub is up"
        );
    }
    let stopped = running.run(metrics).await;
    let stopped = stopped.map_err(|error| match &error {
        RunError::Stalled(_) => CliError::new(ExitKind::Stalled, error).hint(
            "start the hub again (a service manager does); look for disk errors in the kernel's log: journalctl -k",
        ),
        RunError::Server { .. } | RunError::Lost(_) => CliError::new(ExitKind::Failed, error),
    })?;
    tracing::info!(?stopped, "hub is down");
    Ok(())
}

/// Says what to do about a hub that does not come up.
fn explain(error: StartError) -> CliError {
    if error.is_in_the_way() {
        let hint = match &error {
            StartError::Lock(_) | StartError::Store(_) => "stop the other hub, or give this one its own hub.state_dir",
            _ => "stop what listens there, or choose another port in hub.toml (0 takes a free one)",
        };
        return CliError::new(ExitKind::Conflict, error).hint(hint);
    }
    let (kind, hint) = match &error {
        StartError::NoHub(_) => {
            (ExitKind::NotFound, Some("make one with `cloud-hub init`, or correct hub.state_dir in hub.toml"))
        }
        StartError::Engine(_) | StartError::Host(_) => (
            ExitKind::Runtime,
            Some("run `cargo xtask setup`, or name the library in inference.onnxruntime or SANDERLING_ONNXRUNTIME"),
        ),
        StartError::File(file) if file.is_exposed() => {
            (ExitKind::Refused, Some("see who read or replaced the key in the meantime before you trust it again"))
        }
        StartError::Store(store) if store.is_stalled() => {
            (ExitKind::Stalled, Some("look for disk errors in the kernel's log: journalctl -k"))
        }
        StartError::Lock(_) | StartError::File(_) | StartError::Store(_) => {
            (ExitKind::Storage, Some("is there room on the disk, and may this user write to hub.state_dir?"))
        }
        StartError::Registry(_) => (ExitKind::Storage, Some("restore the hub's folder from a backup")),
        StartError::Metadata(_) => (ExitKind::Storage, Some("restore the hub's folder `trust` from a backup")),
        StartError::Ca(_) => (ExitKind::Storage, Some("restore the hub's folder `ca` from a backup")),
        StartError::Bind { .. } | StartError::Listen(_) | StartError::Address(_) => {
            (ExitKind::Failed, Some("correct the address in hub.toml: it must be one of this machine"))
        }
        StartError::Lost(_) => (ExitKind::Failed, None),
    };
    let error = CliError::new(kind, error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
