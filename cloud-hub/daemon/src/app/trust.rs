//! Changes of the signed metadata: new online keys, new roots, newly signed lists.

use std::sync::Arc;

use hub_core::audit::Change;
use jiff::Timestamp;
use tokio_util::task::TaskTracker;

use crate::api::trust::{OnlineKeysView, TrustChange, TrustChanged};
use crate::app::operators::Caller;
use crate::app::registry::Registry;
use crate::app::registry::metadata::MetadataError;
use crate::clock;
use crate::storage::audit::AuditLog;

/// Use cases of the signed metadata.
#[derive(Debug)]
pub struct Trust {
    /// Registry with the metadata.
    pub registry: Arc<Registry>,
    /// Changes in progress, which the end of the hub waits for.
    pub publications: TaskTracker,
    /// Audit log, which records each change.
    pub audit: AuditLog,
}

impl Trust {
    /// Creates the online keys that the next root will name, or returns those that wait.
    ///
    /// # Errors
    /// When they cannot be made or stored.
    pub async fn next_online_keys(&self, by: &Caller) -> Result<OnlineKeysView, MetadataError> {
        let keys = self.registry.next_online_keys().await?;
        let change = Change::new(clock::unix_ms(), &by.name, "trust.online-keys", "online keys");
        let after = format!("snapshot {}, timestamp {}", keys.snapshot, keys.timestamp);
        self.audit.record(change.states(None, Some(after))).await;
        Ok(keys)
    }

    /// Publishes a new root, a newly signed list, or both.
    ///
    /// # Errors
    /// When a device would refuse the change, or the disk does; nothing is changed then.
    pub async fn change(self: &Arc<Self>, by: &Caller, change: TrustChange) -> Result<TrustChanged, MetadataError> {
        // In a task of its own: an operator who hangs up must not leave a change half way.
        let (trust, by) = (Arc::clone(self), by.clone());
        let work = async move {
            let before = trust.versions();
            let changed = TrustChanged::from(trust.registry.change_trust(&change, Timestamp::now()).await?);
            if !changed.unchanged {
                let after = format!("root {}, targets {}", changed.root_version, changed.targets_version);
                let event = Change::new(clock::unix_ms(), &by.name, "trust.change", "signed metadata");
                trust.audit.record(event.states(before, Some(after))).await;
            }
            Ok(changed)
        };
        match self.publications.spawn(work).await {
            Ok(changed) => changed,
            Err(_lost) => Err(MetadataError::NotNext("the change was broken off: see cloud-hub trust status")),
        }
    }

    /// Returns the versions in force, for the audit log.
    fn versions(&self) -> Option<String> {
        let view = self.registry.trust_view(Timestamp::now()).ok()?;
        let version = |role: &str| view.roles.iter().find(|view| view.role == role).map(|view| view.version);
        Some(format!("root {}, targets {}", version("root")?, version("targets")?))
    }
}
