//! What systemd is told: ready, stopping, and still alive.
//!
//! Without systemd (`NOTIFY_SOCKET` unset) each of these does nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// Tells the service manager that the door answers.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells the service manager that the end has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Feeds the service manager's watchdog, if it keeps one, until cancelled.
///
/// Runs on the same runtime as the doors: when that no longer turns, the watchdog is no longer fed.
///
/// # Cancel safety
/// May be dropped at any time.
pub async fn feed_watchdog(stop: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    // Half of the limit is what sd_watchdog_enabled(3) recommends.
    let mut tick = tokio::time::interval((limit / 2).max(Duration::from_millis(1)));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _instant = tick.tick() => tell(&[NotifyState::Watchdog]),
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(error = telemetry::chain(&error), "the service manager was not told");
    }
}
