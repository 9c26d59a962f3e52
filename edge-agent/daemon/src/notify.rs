//! The proof of life: feeds the service manager's watchdog while the runtime turns and store and engines make progress.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use store::Store;
use telemetry::service;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use types::ModelName;

use crate::models::Models;

/// Interval of the proof where the service manager keeps no watchdog: a store that hangs is then noticed all the same.
const PROOF_EVERY: Duration = Duration::from_secs(20);

/// Time over the run limit after which an engine counts as lost that answers nothing while requests wait.
const OVERDUE_MAX: Duration = Duration::from_secs(60);

/// The parts of the agent whose progress is proven.
pub struct Proof {
    /// The records.
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
    let mut engines = EngineProgress::default();
    let feeding = async {
        loop {
            tick.tick().await;
            if let Some(model) = engines.stuck(&proof, Instant::now()) {
                tracing::error!(%model, "no progress: requests wait and the engine answers none; the watchdog is not fed");
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

/// Answers of each model's engine, and since when there were no further ones although requests wait.
#[derive(Default)]
struct EngineProgress {
    waiting: BTreeMap<ModelName, (u64, Instant)>,
}

impl EngineProgress {
    /// Returns a model whose engine makes no progress.
    fn stuck(&mut self, proof: &Proof, now: Instant) -> Option<ModelName> {
        let mut stuck = None;
        for model in proof.models.iter() {
            let waits = model.serving().is_some_and(|serving| serving.session.waiting() > 0);
            if !waits {
                self.waiting.remove(&model.name);
                continue;
            }
            let by_hub = model.statistics.by_hub.load(Ordering::Relaxed);
            let answers = model.statistics.compute.count().saturating_sub(by_hub);
            let (seen, since) = self.waiting.entry(model.name.clone()).or_insert((answers, now));
            if *seen != answers {
                (*seen, *since) = (answers, now);
            } else if now.duration_since(*since) > proof.run_limit.saturating_add(OVERDUE_MAX) {
                stuck = Some(model.name.clone());
            }
        }
        stuck
    }
}
