//! `edge-agent run`: the daemon.

use std::time::Duration;

use clap::Args;
use console::{CliError, ExitKind, OrExit};
use store::owner;
use telemetry::metrics::Metrics;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::agent::{Agent, StartError};
use crate::config::AgentConfig;
use crate::engines::Runtime;
use crate::shutdown::{StopSignals, Stopped, outlive_signals};

/// Environment variable that goes before `log.filter`.
const LOG_VARIABLE: &str = "SANDERLING_LOG";

/// How long the runtime waits for blocking work (a model that is still loading) when all else has ended.
const RUNTIME_GRACE: Duration = Duration::from_secs(1);

/// Runs the agent until it gets SIGTERM or SIGINT.
///
/// The first signal lets requests in flight finish within agent.stop_grace, the second stops at once. SIGHUP is ignored:
/// restart the agent to read a changed configuration.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  edge-agent run\n  edge-agent run --config ./agent.toml --state-dir ./state\n\n\
                        Other ports than 8000, 8001 and 8002: see door.http, door.grpc and metrics.listen; the addresses that were bound \
                        are logged and written to <state_dir>/listening.json.")]
pub struct Run {}

impl Run {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        store::files::make_private_by_default();
        let mut config = context.configuration()?;
        if let Some(filter) = std::env::var_os(LOG_VARIABLE).and_then(|filter| filter.into_string().ok()) {
            config.log.filter = filter;
        }
        // What ONNX Runtime says while it is well is of interest only to who asks for it.
        if !config.log.filter.contains("ort=") {
            config.log.filter.push_str(",ort=warn");
        }
        let _log = telemetry::init(config.log.clone()).or_exit(ExitKind::Config)?;
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
        let stopped = runtime.block_on(serve(config, library, metrics));
        runtime.shutdown_timeout(RUNTIME_GRACE);
        if let Err(error) = owner::give_to_owner(&folder) {
            tracing::warn!(%error, "files of root stay in the state folder: `edge-agent doctor` names them");
        }
        match stopped? {
            Stopped::Stalled => {
                let problem = "the agent's store makes no progress: its disk has not answered for too long";
                let hint = "start the agent again (a service manager does); look for disk errors: journalctl -k";
                return Err(CliError::new(ExitKind::Stalled, problem).hint(hint));
            }
            Stopped::Drained => tracing::info!("stopped: every request was answered"),
            Stopped::CutOff { unfinished } => tracing::warn!(unfinished, "stopped: connections were cut off"),
        }
        Ok(())
    }
}

async fn serve(config: AgentConfig, library: Runtime, metrics: Metrics) -> Result<Stopped, CliError> {
    let mut signals = StopSignals::listen()?;
    let mut others = tokio::task::JoinSet::new();
    others.spawn(outlive_signals());
    let (stop, hurry) = (CancellationToken::new(), CancellationToken::new());
    let starting = Agent::start(config, library, metrics);
    let agent = tokio::select! {
        agent = starting => agent.map_err(explain)?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped while starting");
            return Ok(Stopped::Drained);
        }
    };
    let obey_signals = async {
        tracing::info!(signal = signals.next().await, "stopping");
        stop.cancel();
        tracing::warn!(signal = signals.next().await, "stopping at once");
        hurry.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        stopped = agent.run_until(stop.clone(), hurry.clone()) => Ok(stopped),
        () = obey_signals => Ok(Stopped::CutOff { unfinished: 0 }),
    }
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
            "another program has the port: stop it, or set door.http, door.grpc and metrics.listen to other addresses (port 0 takes a free one)",
        ),
        StartError::Bind { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            (ExitKind::Refused, "ports below 1024 need a privilege: take a higher one")
        }
        StartError::Socket { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
            (ExitKind::Conflict, "another program listens on the socket: stop it, or set door.socket to another path")
        }
        StartError::Socket { .. } => {
            (ExitKind::Storage, "check that the folder of door.socket exists and that the agent may write it")
        }
        StartError::Bind { .. } => (ExitKind::Failed, "check that the address belongs to this machine"),
    };
    CliError::new(kind, error).hint(hint)
}
