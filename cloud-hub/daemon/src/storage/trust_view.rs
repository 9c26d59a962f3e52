//! The state of the signed metadata, as the API shows it.

use jiff::Timestamp;
use model_tools::sign::{PublicKey, Role, Signed};

use super::metadata::{Metadata, MetadataError};
use super::rotation::{Changed, OnlinePublic};
use super::standing;
use crate::api::trust::{OnlineKeysView, TrustChanged, TrustRoleView, TrustView};

impl From<Changed> for TrustChanged {
    fn from(changed: Changed) -> Self {
        let Changed { root, targets, unchanged } = changed;
        Self { root_version: root, targets_version: targets, unchanged }
    }
}

impl From<OnlinePublic> for OnlineKeysView {
    fn from(keys: OnlinePublic) -> Self {
        Self { snapshot: keys.snapshot.to_string(), timestamp: keys.timestamp.to_string() }
    }
}

/// Reads the state of the signed metadata from a hub's folder, running or stopped.
///
/// # Errors
/// When a file is missing or damaged.
pub fn read_view(metadata: &Metadata, mut warnings: Vec<String>, now: Timestamp) -> Result<TrustView, MetadataError> {
    let (current, roles) = (metadata.current()?, metadata.roles()?);
    let root = Signed::read(Role::Root, &current.root)?;
    let files = [&root, &current.targets, &current.snapshot, &current.timestamp];
    let roles = files.map(|file| {
        let authority = roles.of(file.role);
        let offline = standing::is_offline(file.role);
        TrustRoleView {
            role: file.role.as_str().to_owned(),
            version: file.version,
            expires_unix_ms: u64::try_from(file.expires.as_millisecond()).unwrap_or(0),
            days_left: file.expires.duration_since(now).as_secs().div_euclid(24 * 3600),
            keys: authority.keys.iter().map(PublicKey::to_string).collect(),
            threshold: authority.threshold,
            renewed_by: (if offline { "operator" } else { "hub" }).to_owned(),
            todo: standing::advice(file.role, file.version, file.expires, now),
        }
    });
    let mut stopped = current.require_fresh(now).is_err();
    if let Err(error) = metadata.keys() {
        stopped = true;
        let command = error.command().unwrap_or_default();
        warnings.push(format!("{}; run: {command}", telemetry::chain(&error)));
    }
    warnings.dedup();
    let next_online_keys = metadata.waiting_online_keys().map(OnlineKeysView::from);
    Ok(TrustView { roles: roles.into(), publishing_stopped: stopped, next_online_keys, warnings })
}
