//! The use cases of operators, one file per noun. Each receives the few parts that it works on and records one audit event
//! for each change.
//!
//! Fed by [`crate::servers::admin`]. Composed once, by [`crate::hub::start`].

pub mod backups;
pub mod issuer;
pub mod models;
pub mod offers;
pub mod overview;
pub mod tokens;
pub mod trust;
pub mod uploads;

use std::sync::Arc;

use crate::fleet::Fleet;
use crate::operators::Operators;
use crate::rollouts::Rollouts;
use crate::storage::audit::AuditLog;

/// Every use case, for the server's router to hand out.
#[derive(Debug, Clone)]
pub struct App {
    /// Devices: list, labels, revocation, readmission.
    pub devices: Arc<Fleet>,
    /// Operators and their tokens.
    pub operators: Arc<Operators>,
    /// Join tokens: creation and listing.
    pub tokens: Arc<tokens::JoinTokens>,
    /// Models and their versions: list, publication, offer, withdrawal.
    pub models: Arc<models::Models>,
    /// Rollouts, pins and assigned models.
    pub rollouts: Arc<Rollouts>,
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
