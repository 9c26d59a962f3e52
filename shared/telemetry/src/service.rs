//! Notifies the service manager (systemd) of the state of a daemon: ready, stopping, alive.
//!
//! Without a service manager (`NOTIFY_SOCKET` unset) each function does nothing.

use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use sd_notify::NotifyState;

/// Notifies the service manager that the daemon serves.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Notifies the service manager that the daemon is stopping.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Resets the service manager's watchdog once.
pub fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// Returns the interval at which to call [`alive`]; `None` without a watchdog.
///
/// Half of the limit, as sd_watchdog_enabled(3) recommends.
#[must_use]
pub fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| (limit / 2).max(Duration::from_millis(1)))
}

/// Maximum number of notifications that wait for the service manager; further ones are dropped.
const WAITING_MAX: usize = 4;

/// Notifies the service manager from a separate thread, because a service manager that does not read would block the
/// caller.
fn notify(state: &[NotifyState<'_>]) {
    static SENDER: OnceLock<Option<SyncSender<String>>> = OnceLock::new();
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let lines: Vec<String> = state.iter().map(ToString::to_string).collect();
    let sent = SENDER.get_or_init(start_sender).as_ref().map(|sender| sender.try_send(lines.join("\n")));
    if !matches!(sent, Some(Ok(()))) {
        tracing::warn!("the service manager does not read notifications");
    }
}

/// Returns the sender to the notification thread; `None` if the system cannot create the thread. The thread is never
/// joined, because it may be blocked.
fn start_sender() -> Option<SyncSender<String>> {
    let (sender, notifications) = sync_channel::<String>(WAITING_MAX);
    let notify_all = move || {
        for lines in notifications {
            if let Err(error) = sd_notify::notify(&[NotifyState::Custom(&lines)]) {
                tracing::warn!(error = crate::chain(&error), "the service manager was not notified");
            }
        }
    };
    std::thread::Builder::new().name("service-manager".to_owned()).spawn(notify_all).ok()?;
    Some(sender)
}
