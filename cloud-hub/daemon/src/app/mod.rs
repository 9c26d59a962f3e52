//! The use cases of the hub and what they keep, one module per noun. A change by an operator records one audit event.
//!
//! Fed by [`crate::servers`] and [`crate::jobs`]. Composed once, by [`crate::hub::start`].

pub mod backups;
pub mod calibrations;
pub mod counters;
pub mod deltas;
pub mod fleet;
pub mod issuer;
pub mod join_tokens;
pub mod models;
pub mod offers;
pub mod operators;
pub mod overview;
pub mod registry;
pub mod rollouts;
pub mod tokens;
pub mod trust;
pub mod uploads;

use std::sync::Arc;

use crate::app::calibrations::Calibrations;
use crate::app::fleet::Fleet;
use crate::app::operators::Operators;
use crate::app::rollouts::Rollouts;
use crate::storage::audit::AuditLog;

/// Every use case, for the server's router to hand out.
#[derive(Debug, Clone)]
pub struct App {
    /// Devices: list, labels, revocation, readmission.
    pub devices: Arc<Fleet>,
    /// Operators and their tokens.
    pub operators: Arc<Operators>,
    /// Join tokens: creation and listing.
    pub tokens: Arc<join_tokens::JoinTokens>,
    /// Models and their versions: list, publication, offer, withdrawal.
    pub models: Arc<models::Models>,
    /// Rollouts, pins and assigned models.
    pub rollouts: Arc<Rollouts>,
    /// Thresholds that are kept valid in the field.
    pub calibrations: Arc<Calibrations>,
    /// Uploads of a version's files.
    pub uploads: Arc<uploads::Uploads>,
    /// Signed metadata: reading, new keys, changes.
    pub trust: Arc<trust::Trust>,
    /// Status of the hub.
    pub overview: Arc<overview::Overview>,
    /// Snapshots of the store for backups.
    pub backups: Arc<backups::Backups>,
    /// Audit log, for its listing and verification.
    pub audit: AuditLog,
}
