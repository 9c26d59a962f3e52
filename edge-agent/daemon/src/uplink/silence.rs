//! A hub that shows no sign of life: noticed by requests ([`super::Link`]), acted on by the uplink task.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use transport::Connection;

/// The connection on which the hub fell silent last. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Silence {
    heard: Arc<Mutex<Option<Heard>>>,
    noticed: Arc<Notify>,
}

/// Amount of data that was heard on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heard {
    connection: usize,
    bytes: u64,
}

impl Heard {
    pub(super) fn on(connection: &Connection) -> Self {
        Self { connection: connection.number(), bytes: connection.traffic().bytes_received }
    }
}

impl Silence {
    /// Notes that nothing more than this was heard, although something was sent, and wakes the uplink task.
    pub(super) fn note(&self, heard: Heard) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(heard);
        self.noticed.notify_one();
    }

    /// Returns whether the hub fell silent on this connection and was not heard since.
    pub(super) fn lasts_on(&self, connection: &Connection) -> bool {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.is_some_and(|heard| heard == Heard::on(connection))
    }

    /// Waits for the next [`Silence::note`]; one that nobody waited for counts.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn noticed(&self) {
        self.noticed.notified().await;
    }
}
