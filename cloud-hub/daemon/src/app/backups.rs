//! Snapshots of the store for backups.

use std::sync::Arc;

use hub_core::audit::Change;
use store::Store;

use crate::app::operators::Caller;
use crate::app::registry::Registry;
use crate::clock;
use crate::storage::audit::AuditLog;
use crate::storage::backup::SNAPSHOT_PREFIX;
use crate::storage::backup::snapshot::{self, SnapshotError};
use crate::storage::folder::Folder;

/// Snapshots of the store.
#[derive(Debug)]
pub struct Backups {
    /// Store of records that is copied.
    pub store: Arc<dyn Store>,
    /// Registry, which holds publications back meanwhile.
    pub registry: Arc<Registry>,
    /// State folder, for the file.
    pub folder: Folder,
    /// Audit log, which records each backup.
    pub audit: AuditLog,
}

impl Backups {
    /// Writes the store and the published timestamp to a file in the state folder. Returns its name.
    ///
    /// # Errors
    /// When store or disk fail; no file is left then.
    pub async fn snapshot(&self, by: &Caller) -> Result<String, SnapshotError> {
        let file = format!("{SNAPSHOT_PREFIX}{}.snapshot", uuid::Uuid::new_v4());
        // Before the snapshot, so that the backup has the event too.
        self.audit.commit(store::Batch::new(), Change::new(clock::unix_ms(), &by.name, "backup.create", "hub")).await?;
        let (_held, timestamp) = self.registry.hold_still().await.map_err(std::io::Error::other)?;
        let path = self.folder.root().join(&file);
        snapshot::write(self.store.as_ref(), &timestamp, clock::unix_s(), &path).await?;
        Ok(file)
    }
}
