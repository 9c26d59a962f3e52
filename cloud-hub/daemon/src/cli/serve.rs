//! `cloud-hub serve`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use console::{CliError, ExitKind, OrExit};

use crate::config::HubConfig;
use crate::hub::{self, RunError, StartError};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cloud-hub serve --config hub/hub.toml
  SANDERLING_LOG=debug cloud-hub serve --config hub/hub.toml

SIGTERM or Ctrl-C finishes what is in flight within hub.stop_grace; a second one stops at once.
SIGHUP is ignored: restart the hub to read a changed config.
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
    let mut config = super::config::read(&super::config::file(args.config.as_deref()))?;
    if let Ok(filter) = std::env::var("SANDERLING_LOG") {
        config.log.filter = filter;
    }
    let _log = telemetry::init(config.log.clone())
        .or_exit_try(ExitKind::Config, "see log.filter in hub.toml and SANDERLING_LOG")?;
    let metrics = telemetry::metrics::install(env!("CARGO_PKG_VERSION"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().or_exit(ExitKind::Failed)?;
    let served = runtime.block_on(serve(config, metrics));
    runtime.shutdown_timeout(RUNTIME_GRACE);
    served
}

async fn serve(config: HubConfig, metrics: telemetry::metrics::Metrics) -> Result<(), CliError> {
    let mut signals = tokio::task::JoinSet::new();
    signals.spawn(async {
        if let Err(error) = crate::shutdown::outlive_signals().await {
            tracing::error!(%error, "SIGHUP, SIGUSR1 and SIGUSR2 cannot be ignored: they end this hub");
        }
    });
    let running = hub::start(config).await.map_err(explain)?;
    if let Some(listening) = running.listening() {
        tracing::info!(
            quic = %listening.quic,
            admin = %listening.admin,
            metrics = %listening.metrics,
            ca = %running.hub().services.issuer.ca.fingerprint(),
            "hub is up"
        );
    }
    let stop = running.hub().stop.clone();
    signals.spawn(async move {
        if let Err(error) = stop.on_signals().await {
            tracing::error!(%error, "signals cannot be heard: only SIGKILL ends this hub");
        }
    });
    let stopped = running.run(metrics).await;
    signals.abort_all();
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
