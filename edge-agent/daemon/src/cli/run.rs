//! `edge-agent run`: the daemon.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use console::{CliError, ExitKind, OrExit};
use service::logs;
use service::signals::{Reload, Signals};
use service::stop::{Stop, Stopped};
use store::owner;
use telemetry::metrics::Metrics;

use super::Context;
use crate::agent::{Agent, StartError, StoreStalled};
use crate::config::AgentConfig;
use crate::engines::Runtime;

/// Time that blocking work (a model that is still loading) may take when everything else has ended.
const RUNTIME_GRACE: Duration = Duration::from_secs(1);

/// Runs the agent until it gets SIGTERM or SIGINT.
///
/// The first signal lets requests in flight finish within agent.stop_grace, the second stops at once. SIGHUP reads
/// log.filter again; every other change of the configuration needs a restart.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  edge-agent run\n  edge-agent run --config ./agent.toml --state-dir ./state\n\n\
                        Other ports than 8000, 8001 and 8002: see inference.http, inference.grpc and metrics.listen; the addresses that \
                        were bound are logged and written to <state_dir>/listening.json.\n\n\
                        SIGHUP reads log.filter again; every other change of the configuration needs a restart.")]
pub struct Run {}

impl Run {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        store::files::make_private_by_default();
        let mut config = context.configuration()?;
        config.log = logs::in_force(&config.log);
        let guard = telemetry::init(config.log.clone()).or_exit(ExitKind::Config)?;
        let metrics = telemetry::metrics::install(env!("CARGO_PKG_VERSION"))?;
        // Before the runtime has threads: opening the library changes the environment of the process.
        let library = Runtime::open(&config);
        let folder = config.agent.state_dir.clone();
        if let Some((user, _group)) = owner::owner_of(&folder) {
            let user = owner::user_name(user);
            let advice = format!("run it as that user: sudo -u {user} edge-agent run");
            tracing::warn!(state_dir = %folder.display(), advice, "root runs an agent on a folder of user {user}");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let context = context.clone();
        let configured = move || match context.configuration() {
            Ok(config) => Ok(config.log),
            Err(error) => Err(telemetry::chain(error.source.as_ref())),
        };
        let reload: Reload = Arc::new(move || logs::reload(&guard, &configured));
        let stopped = runtime.block_on(serve(config, library, metrics, reload));
        runtime.shutdown_timeout(RUNTIME_GRACE);
        if let Err(error) = owner::give_to_owner(&folder) {
            tracing::warn!(%error, "files of root stay in the state folder: `edge-agent doctor` names them");
        }
        match stopped? {
            Ok(stopped) => stopped.log(),
            Err(stalled) => {
                let hint = "start the agent again (a service manager does); look for disk errors: journalctl -k";
                return Err(CliError::new(ExitKind::Stalled, stalled).hint(hint));
            }
        }
        Ok(())
    }
}

async fn serve(
    config: AgentConfig,
    library: Runtime,
    metrics: Metrics,
    reload: Reload,
) -> Result<Result<Stopped, StoreStalled>, CliError> {
    let stop = Stop::default();
    let mut signals = tokio::task::JoinSet::new();
    signals.spawn(Signals::listen()?.obey(stop.clone(), reload));
    let agent = tokio::select! {
        agent = Agent::start(config, library, metrics) => agent.map_err(explain)?,
        () = stop.drain.cancelled() => {
            tracing::info!("stopped while starting");
            return Ok(Ok(Stopped::Drained));
        }
    };
    Ok(agent.run_until(stop).await)
}

/// The kind of a failure to start, and what to do about it.
fn explain(error: StartError) -> CliError {
    let (kind, hint) = match &error {
        StartError::Folder { .. } => {
            (ExitKind::Storage, "check that the folder is on a writable disk with free space, and who owns it")
        }
        StartError::Lock { source, .. } if source.is_held() => (
            ExitKind::Conflict,
            "an agent runs on this folder already: stop it, or give another folder with --state-dir",
        ),
        StartError::Lock { .. } => (ExitKind::Storage, "check the folder and who owns it"),
        StartError::Engine(_) => (
            ExitKind::Runtime,
            "install the package that ships ONNX Runtime, or set engine.onnxruntime (or SANDERLING_ONNXRUNTIME) to \
             libonnxruntime.so, or choose others with engine.engines; `edge-agent doctor` looks again",
        ),
        StartError::Store(error) if error.is_locked() => {
            (ExitKind::Conflict, "another process has the store open: stop it")
        }
        StartError::Store(error) if error.is_stalled() => {
            (ExitKind::Stalled, "look for disk errors in the kernel's log: journalctl -k")
        }
        StartError::Store(_) => (ExitKind::Storage, "check the disk of the state folder"),
        StartError::Bind { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => (
            ExitKind::Conflict,
            "another program has the port: stop it, or set inference.http, inference.grpc and metrics.listen to other addresses (port 0 takes a free one)",
        ),
        StartError::Bind { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            (ExitKind::Refused, "ports below 1024 need a privilege: take a higher one")
        }
        StartError::Socket { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => (
            ExitKind::Conflict,
            "another program listens on the socket: stop it, or set inference.socket to another path",
        ),
        StartError::Socket { .. } => {
            (ExitKind::Storage, "check that the folder of inference.socket exists and that the agent may write it")
        }
        StartError::Bind { .. } => (ExitKind::Failed, "check that the address belongs to this machine"),
    };
    CliError::new(kind, error).hint(hint)
}
