//! The call behind `cloud-hub backup create`: a snapshot of the store in the hub's own folder. The content is never sent.

use std::sync::Arc;

use super::Refused;
use super::call::Call;
use crate::api::BackupSnapshot;
use crate::api::endpoints::Backup;
use crate::app::backups::Backups;

/// Answers `POST /backup`: writes a snapshot.
pub(super) async fn snapshot(backups: Arc<Backups>, call: Call<Backup>) -> Result<BackupSnapshot, Refused> {
    let file = backups.snapshot(&call.by).await.map_err(|error| Refused::storage(&error))?;
    Ok(BackupSnapshot { file })
}
