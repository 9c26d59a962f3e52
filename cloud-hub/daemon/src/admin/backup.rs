//! The call behind `cloud-hub backup create`: a snapshot of the store in the hub's own folder. The content is never sent.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};

use super::Refused;
use super::auth::Operator;
use crate::api::BackupSnapshot;
use crate::hub::Hub;

/// `POST /backup`.
pub(super) async fn snapshot(
    State(hub): State<Arc<Hub>>,
    Extension(Operator(by)): Extension<Operator>,
) -> Result<Json<BackupSnapshot>, Refused> {
    let file = hub.backup_snapshot().await.map_err(|error| Refused::storage(&error))?;
    tracing::info!(operator = by, file, "snapshot for a backup written");
    Ok(Json(BackupSnapshot { file }))
}
