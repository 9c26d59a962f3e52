//! The proof of life: feeds the service manager's watchdog while the runtime turns and the store makes progress.

use std::sync::Arc;
use std::time::Duration;

use store::Store;
use telemetry::service;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Interval of the proof where the service manager keeps no watchdog: a store that hangs is then noticed all the same.
const PROOF_EVERY: Duration = Duration::from_secs(20);

/// Proves the agent's progress from time to time, and feeds the service manager's watchdog, if it keeps one, until
/// cancelled.
///
/// Runs on the same runtime as the servers: when that no longer turns, the watchdog is no longer fed. A store that hangs is
/// noticed by the probe, whose deadline ends the agent (see [`store::Health`]).
///
/// # Cancel safety
/// May be dropped at any time.
pub async fn feed_watchdog(store: Arc<dyn Store>, stop: CancellationToken) {
    let mut proof = tokio::time::interval(service::watchdog_period().unwrap_or(PROOF_EVERY));
    proof.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let feeding = async {
        loop {
            proof.tick().await;
            match store.probe().await {
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
