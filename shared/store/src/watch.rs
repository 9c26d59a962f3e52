//! Notifications of changes under a prefix.
//!
//! The stores notify after a batch is durable; users react to changed records (the hub's offers, caches). Changes are
//! coalesced: a slow watcher receives one notification, reads, and has missed nothing.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::StoreError;

/// Receiver of notifications of changes under its prefix.
#[derive(Debug, Clone)]
pub struct Watch {
    changes: watch::Receiver<()>,
}

impl Watch {
    /// Waits for a change since the last call.
    ///
    /// # Errors
    /// Returns [`StoreError::Closed`] if the store was shut down: there will be no more changes.
    ///
    /// # Cancel safety
    /// Cancel safe: the next call reports the change.
    pub async fn changed(&mut self) -> Result<(), StoreError> {
        // The only possible error is that the store was closed.
        self.changes.changed().await.map_err(|_closed| StoreError::Closed)
    }
}

/// The watchers of one store.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    senders: Mutex<Vec<(Bytes, watch::Sender<()>)>>,
}

impl Watchers {
    /// Returns a watcher of a prefix; watchers of the same prefix share one channel.
    pub(crate) fn watch(&self, prefix: &[u8]) -> Watch {
        let mut senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        senders.retain(|(_, sender)| !sender.is_closed());
        if let Some((_, sender)) = senders.iter().find(|(watched, _)| watched == prefix) {
            return Watch { changes: sender.subscribe() };
        }
        let (sender, changes) = watch::channel(());
        senders.push((Bytes::copy_from_slice(prefix), sender));
        Watch { changes }
    }

    /// Notifies the watchers of every prefix that one of the keys has.
    pub(crate) fn notify<'a>(&self, keys: impl Iterator<Item = &'a [u8]> + Clone) {
        let senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        for (prefix, sender) in senders.iter() {
            if keys.clone().any(|key| key.starts_with(prefix)) {
                sender.send_replace(());
            }
        }
    }

    /// Ends every watch.
    pub(crate) fn close(&self) {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
