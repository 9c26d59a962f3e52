//! The proof of life: feeds the service manager's watchdog while the runtime turns and store and engines make progress.

use std::sync::Arc;
use std::time::{Duration, Instant};

use store::Store;
use telemetry::service;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use types::ModelName;

use crate::models::{Model, Models};

/// Interval of the proof where the service manager keeps no watchdog: a store that hangs is then noticed all the same.
const PROOF_EVERY: Duration = Duration::from_secs(20);

/// Time over the run limit after which a run counts as lost: stopping it takes one node of the model.
const OVERDUE_MAX: Duration = Duration::from_secs(60);

/// The parts of the agent whose progress is proven.
pub struct Proof {
    /// Store of the agent's records.
    pub store: Arc<dyn Store>,
    /// The models and their sessions.
    pub models: Arc<Models>,
    /// Longest run of a model.
    pub run_limit: Duration,
}

/// Proves the agent's progress from time to time, and feeds the service manager's watchdog, if it keeps one, until
/// cancelled.
///
/// Runs on the same runtime as the servers: when that no longer turns, the watchdog is no longer fed. A store that hangs is
/// noticed by the probe, whose deadline ends the agent (see [`store::Health`]).
///
/// # Cancel safety
/// May be dropped at any time.
pub async fn feed_watchdog(proof: Proof, stop: CancellationToken) {
    let mut tick = tokio::time::interval(service::watchdog_period().unwrap_or(PROOF_EVERY));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let feeding = async {
        loop {
            tick.tick().await;
            if let Some(model) = stuck(&proof, Instant::now()) {
                tracing::error!(%model, "no progress: a run does not come back; the watchdog is not fed");
                continue;
            }
            match proof.store.probe().await {
                Err(error) if error.is_stalled() => {
                    tracing::error!(error = telemetry::chain(&error), "no progress: the watchdog is not fed");
                }
                // Other failures are those of single writes, which their callers answer for.
                Ok(()) | Err(_) => service::alive(),
            }
        }
    };
    stop.run_until_cancelled(feeding).await;
}

/// Returns a model whose session hangs: nothing in this process can stop it, so only a new process helps.
///
/// The session is asked, not the requests: clients give up and go, and the session still hangs. One in a host process never
/// hangs for long, because a host that does not answer is killed.
fn stuck(proof: &Proof, now: Instant) -> Option<ModelName> {
    let most = proof.run_limit.saturating_add(OVERDUE_MAX);
    let hangs = |since: Instant| now.saturating_duration_since(since) > most;
    let session = |model: &Arc<Model>| model.serving().and_then(|serving| serving.session.oldest_run());
    proof.models.iter().find(|model| session(model).is_some_and(hangs)).map(|model| model.name.clone())
}
