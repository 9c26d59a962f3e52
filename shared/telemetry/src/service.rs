//! What the service manager (systemd) is told: ready, stopping, and still alive. The same in both daemons.
//!
//! Without one (`NOTIFY_SOCKET` unset) each of these does nothing.

use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use sd_notify::NotifyState;

/// Tells the service manager that the daemon serves.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells the service manager that the end has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Feeds the service manager's watchdog once.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] should be said; `None` where no watchdog is kept.
///
/// Half of the limit is what sd_watchdog_enabled(3) recommends.
#[must_use]
pub fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| (limit / 2).max(Duration::from_millis(1)))
}

/// States that may wait for the service manager; further ones are dropped.
const WAITING_MAX: usize = 4;

/// Tells the service manager from a thread of its own: one that reads nothing would hold up whoever tells it.
fn tell(state: &[NotifyState<'_>]) {
    static TELLER: OnceLock<Option<SyncSender<String>>> = OnceLock::new();
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let lines: Vec<String> = state.iter().map(ToString::to_string).collect();
    let sent = TELLER.get_or_init(teller).as_ref().map(|teller| teller.try_send(lines.join("\n")));
    if !matches!(sent, Some(Ok(()))) {
        tracing::warn!("the service manager does not listen");
    }
}

/// The thread; `None` when the system gives none. It is never joined: it may be blocked for good.
fn teller() -> Option<SyncSender<String>> {
    let (teller, told) = sync_channel::<String>(WAITING_MAX);
    let tell_all = move || {
        for lines in told {
            if let Err(error) = sd_notify::notify(&[NotifyState::Custom(&lines)]) {
                tracing::warn!(error = crate::chain(&error), "the service manager was not told");
            }
        }
    };
    std::thread::Builder::new().name("service-manager".to_owned()).spawn(tell_all).ok()?;
    Some(teller)
}
