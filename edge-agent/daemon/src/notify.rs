//! Feeds the service manager's watchdog from the runtime that serves.

use telemetry::service;
use tokio_util::sync::CancellationToken;

/// Feeds the service manager's watchdog, if it keeps one, until cancelled.
///
/// Runs on the same runtime as the doors: when that no longer turns, the watchdog is no longer fed.
///
/// # Cancel safety
/// May be dropped at any time.
pub async fn feed_watchdog(stop: CancellationToken) {
    let Some(period) = service::watchdog_period() else { return };
    let mut tick = tokio::time::interval(period);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _instant = tick.tick() => service::alive(),
        }
    }
}
