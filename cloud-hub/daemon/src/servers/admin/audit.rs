//! Calls about the audit log.

use std::sync::Arc;

use super::Refused;
use super::call::Call;
use crate::api::PAGE_MAX;
use crate::api::audit::{AuditPage, AuditVerification};
use crate::api::endpoints::{ReadAudit, VerifyAudit};
use crate::storage::audit::AuditLog;

/// Answers `GET /audit`, newest event first.
pub(super) async fn read(log: Arc<AuditLog>, call: Call<ReadAudit>) -> Result<AuditPage, Refused> {
    let limit = call.query.limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
    log.page(call.query.before, limit).await.map_err(|error| Refused::storage(&error))
}

/// Answers `GET /audit/verification`.
pub(super) async fn verify(log: Arc<AuditLog>, _call: Call<VerifyAudit>) -> Result<AuditVerification, Refused> {
    log.verification().await.map_err(|error| Refused::storage(&error))
}
