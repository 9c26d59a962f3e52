//! The deadline of store operations, and the notification that one was missed.
//!
//! Set by [`crate::SledStore`]; read by the daemons, which end when their store makes no progress: a flush that waits
//! for a disk that lost its request never returns, and only a new process can open the store again.

use std::time::Duration;

use tokio::sync::watch;

/// Deadline for one operation of a store, from the call to the result. An fsync takes seconds on a worn memory card
/// under load, and every caller waits for at most two of them. With the watchdog notification every 30 s (half of
/// `WatchdogSec=60`) the daemon ends with its reason before the service manager kills it.
pub const OPERATION_LIMIT: Duration = Duration::from_secs(25);

/// Deadline for opening a store: 128 MiB are read and checked, on a slow disk.
pub const OPEN_LIMIT: Duration = Duration::from_secs(300);

/// Environment variable that shortens [`OPERATION_LIMIT`], in milliseconds. Read in builds with debug assertions only.
pub const LIMIT_VARIABLE: &str = "SANDERLING_STORE_LIMIT_MS";

/// Environment variable that names a file; while it exists, every write hangs like a lost disk request. Read in builds
/// with debug assertions only.
pub const HANG_VARIABLE: &str = "SANDERLING_STORE_HANG";

/// Returns the deadline of an operation; a variable can shorten it.
#[cfg(debug_assertions)]
pub(crate) fn operation_limit() -> Duration {
    let named = std::env::var(LIMIT_VARIABLE).ok().and_then(|text| text.parse().ok());
    named.map_or(OPERATION_LIMIT, Duration::from_millis)
}

/// Returns the deadline of an operation.
#[cfg(not(debug_assertions))]
pub(crate) fn operation_limit() -> Duration {
    OPERATION_LIMIT
}

/// Blocks forever if a test requested it.
#[cfg(debug_assertions)]
pub(crate) fn hang_if_asked() {
    let is_asked = || std::env::var_os(HANG_VARIABLE).is_some_and(|file| std::path::Path::new(&file).exists());
    while is_asked() {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// Does nothing: release builds have no such variable.
#[cfg(not(debug_assertions))]
pub(crate) fn hang_if_asked() {}

/// Receiver of the notification that a store has missed the deadline of an operation.
#[derive(Debug, Clone, Default)]
pub struct Health {
    missed: Option<watch::Receiver<bool>>,
}

impl Health {
    /// Waits until an operation misses its deadline; never returns for a store without deadlines.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn stalled(mut self) {
        let missed = match &mut self.missed {
            Some(missed) => missed.wait_for(|missed| *missed).await.map(drop),
            None => std::future::pending().await,
        };
        if missed.is_err() {
            // The store was closed in time.
            std::future::pending::<()>().await;
        }
    }
}

/// Sender of the notification.
#[derive(Debug)]
pub(crate) struct Pulse(watch::Sender<bool>);

impl Default for Pulse {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Pulse {
    pub(crate) fn health(&self) -> Health {
        Health { missed: Some(self.0.subscribe()) }
    }

    pub(crate) fn miss(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn has_missed(&self) -> bool {
        *self.0.borrow()
    }
}
