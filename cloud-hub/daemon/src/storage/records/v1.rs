//! Records of schema 1.

use std::collections::BTreeMap;

use hub_core::authorise::{DeviceRecord, Standing};
use hub_core::labels::Labels;
use hub_core::registry::VersionRecord;
use hub_core::tokens::{self, TokenRecord};
use serde::{Deserialize, Serialize};
use store::Record;
use types::{DeviceId, Digest, Version};

use crate::api::{Role, UnknownRole};
use crate::storage::values::{CurrentRecord, OperatorRecord, StoredToken};

mod audit;
mod calibration;
mod counters;
mod device_state;
mod rollout;
mod start_loads;

pub use audit::{AuditEvent, AuditLink, NEWEST, OLDEST};
pub use calibration::Calibration;
pub use counters::{CounterCell, Measurement};
pub use device_state::DeviceState;
pub use rollout::{Assignment, Pin, Rollout, RolloutMember};
pub use start_loads::{SCHEMA, StartLoad, StartLoads};

/// An enrolled device, under its name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Device {
    id: DeviceId,
    key: Digest,
    #[serde(default)]
    next_key: Option<Digest>,
    enrolled_unix_s: u64,
    standing: DeviceStanding,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
}

/// Standing of a device: served or revoked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DeviceStanding {
    Good,
    Revoked { at_unix_s: u64, why: String },
}

/// A join token, under the hash of its secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinToken {
    record: TokenLife,
    device: DeviceId,
    replace: bool,
}

/// The life of a join token.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct TokenLife {
    secret: Digest,
    minted_unix_s: u64,
    expires_unix_s: u64,
    device: Option<DeviceId>,
    state: TokenState,
}

/// State of a join token.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TokenState {
    Open,
    Used { device: DeviceId, key: Digest, at_unix_s: u64 },
    Withdrawn,
}

/// An operator, under the hash of the token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Operator {
    name: String,
    created_unix_ms: u64,
    expires_unix_ms: u64,
    #[serde(default)]
    last_used_unix_ms: Option<u64>,
    /// Role: one of `viewer`, `releaser`, `operator` and `admin`. Records of 0.1.0 have none and are admins.
    #[serde(default = "admin", skip_serializing_if = "is_admin")]
    role: String,
}

fn admin() -> String {
    Role::Admin.as_str().to_owned()
}

/// Returns whether a role is the default, which is left out.
fn is_admin(role: &str) -> bool {
    role == Role::Admin.as_str()
}

/// A published version of a model, under `<model>/<version>`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelVersion {
    version: Version,
    manifest: Digest,
    published_unix_s: u64,
    #[serde(default)]
    held: bool,
    /// Whether a rollout brings or brought it to devices. Records of 0.1.0 have none.
    #[serde(default, skip_serializing_if = "is_false")]
    released: bool,
}

/// Returns whether a switch has its default, which is left out.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(switch: &bool) -> bool {
    !switch
}

/// The version of a model that devices follow, under the name of the model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CurrentVersion {
    version: Version,
    #[serde(default)]
    before: Option<Version>,
}

impl Record for Device {
    type Value = DeviceRecord;
    const TABLE: &'static str = "device";

    fn from_value(value: &DeviceRecord) -> Self {
        let DeviceRecord { id, key, next_key, enrolled_unix_s, standing, labels } = value.clone();
        let standing = match standing {
            Standing::Good => DeviceStanding::Good,
            Standing::Revoked { at_unix_s, why } => DeviceStanding::Revoked { at_unix_s, why },
        };
        Self { id, key, next_key, enrolled_unix_s, standing, labels: labels.as_map().clone() }
    }

    fn into_value(self) -> Result<DeviceRecord, String> {
        let Self { id, key, next_key, enrolled_unix_s, standing, labels } = self;
        let standing = match standing {
            DeviceStanding::Good => Standing::Good,
            DeviceStanding::Revoked { at_unix_s, why } => Standing::Revoked { at_unix_s, why },
        };
        Ok(DeviceRecord { id, key, next_key, enrolled_unix_s, standing, labels: Labels::restored(labels) })
    }
}

impl Record for JoinToken {
    type Value = StoredToken;
    const TABLE: &'static str = "token";

    fn from_value(value: &StoredToken) -> Self {
        let StoredToken { record, device, replace } = value.clone();
        let TokenRecord { secret, minted_unix_s, expires_unix_s, device: bound_to, state } = record;
        let state = match state {
            tokens::TokenState::Open => TokenState::Open,
            tokens::TokenState::Used { device, key, at_unix_s } => TokenState::Used { device, key, at_unix_s },
            tokens::TokenState::Withdrawn => TokenState::Withdrawn,
        };
        let record = TokenLife { secret, minted_unix_s, expires_unix_s, device: bound_to, state };
        Self { record, device, replace }
    }

    fn into_value(self) -> Result<StoredToken, String> {
        let Self { record, device, replace } = self;
        let TokenLife { secret, minted_unix_s, expires_unix_s, device: bound_to, state } = record;
        let state = match state {
            TokenState::Open => tokens::TokenState::Open,
            TokenState::Used { device, key, at_unix_s } => tokens::TokenState::Used { device, key, at_unix_s },
            TokenState::Withdrawn => tokens::TokenState::Withdrawn,
        };
        let record = TokenRecord { secret, minted_unix_s, expires_unix_s, device: bound_to, state };
        Ok(StoredToken { record, device, replace })
    }
}

impl Record for Operator {
    type Value = OperatorRecord;
    const TABLE: &'static str = "operator";

    fn from_value(value: &OperatorRecord) -> Self {
        let OperatorRecord { name, created_unix_ms, expires_unix_ms, last_used_unix_ms, role } = value.clone();
        Self { name, created_unix_ms, expires_unix_ms, last_used_unix_ms, role: role.as_str().to_owned() }
    }

    fn into_value(self) -> Result<OperatorRecord, String> {
        let Self { name, created_unix_ms, expires_unix_ms, last_used_unix_ms, role } = self;
        let role = role.parse().map_err(|unknown: UnknownRole| unknown.to_string())?;
        Ok(OperatorRecord { name, created_unix_ms, expires_unix_ms, last_used_unix_ms, role })
    }
}

impl Record for ModelVersion {
    type Value = VersionRecord;
    const TABLE: &'static str = "version";

    fn from_value(value: &VersionRecord) -> Self {
        let VersionRecord { version, manifest, published_unix_s, held, released } = *value;
        Self { version, manifest, published_unix_s, held, released }
    }

    fn into_value(self) -> Result<VersionRecord, String> {
        let Self { version, manifest, published_unix_s, held, released } = self;
        Ok(VersionRecord { version, manifest, published_unix_s, held, released })
    }
}

impl Record for CurrentVersion {
    type Value = CurrentRecord;
    const TABLE: &'static str = "current";

    fn from_value(value: &CurrentRecord) -> Self {
        let CurrentRecord { version, before } = *value;
        Self { version, before }
    }

    fn into_value(self) -> Result<CurrentRecord, String> {
        let Self { version, before } = self;
        Ok(CurrentRecord { version, before })
    }
}

#[cfg(test)]
mod tests;
