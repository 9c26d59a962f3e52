//! The values that are stored, as the code works with them; [`super::records`] has their forms on disk.
//!
//! Here rather than beside their users, so that storage depends on none of them.

use hub_core::calibration::Watch;
use hub_core::evidence::{Cell, Counted};
use hub_core::fleet::Device;
use hub_core::rollout::Cohort;
use hub_core::tokens::TokenRecord;
use types::{DeviceId, Digest, EngineName, ModelName, VariantName, Version};

use crate::api::Role;

/// Stored state of a device beside its record: nothing here decides about its rights.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredState {
    /// State of the device as the fleet knows it.
    pub device: Device,
    /// The last second of its newest certificate.
    pub certificate_until_unix_s: Option<u64>,
}

/// One token as it is kept, under the hash of its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// State and times of the token.
    pub record: TokenRecord,
    /// Name of the device that joins with it.
    pub device: DeviceId,
    /// Whether it may give a device that is on record a new key.
    pub replace: bool,
}

/// Version of a model that devices follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentRecord {
    /// Version that devices are offered.
    pub version: Version,
    /// The version that devices followed before, for a withdrawal.
    pub before: Option<Version>,
}

/// Version of a model that an operator keeps on one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinRecord {
    /// The version; `None` after the end of a pin that the device may not have heard of.
    pub version: Option<Version>,
    /// Time of the call in seconds of the Unix clock.
    pub at_unix_s: u64,
    /// Name of the operator.
    pub by: String,
}

/// Devices that follow a model because the hub says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignmentRecord {
    /// The devices; `None` after the end of an assignment of which not every device may have heard.
    pub cohort: Option<Cohort>,
    /// Time of the call in seconds of the Unix clock.
    pub at_unix_s: u64,
    /// Name of the operator.
    pub by: String,
}

/// One operator token as it is kept, under the hash of its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorRecord {
    /// Name of the operator; a renewed token has the same.
    pub name: String,
    /// Time at which the token was made, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// First time at which the token is refused, in milliseconds since 1970.
    pub expires_unix_ms: u64,
    /// Time of the last call with this token, as of the last time that it was stored.
    pub last_used_unix_ms: Option<u64>,
    /// Role of the operator.
    pub role: Role,
}

/// Load of one version that ended badly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempt {
    /// Digest of the model file and version of the runtime: others begin anew.
    pub of: String,
    /// Ends of the hub during a load.
    pub hub_ends: u32,
    /// Whether a load was begun and has not ended.
    pub under_way: bool,
    /// Boot in which it was begun: a power cut is no fault of the version.
    pub boot: String,
    /// Reason why the version does not answer.
    pub problem: Option<String>,
}

/// Counters of one version on one device in one hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCell {
    /// Counts of the hour.
    pub cell: Cell,
    /// Last period that was counted in it.
    pub last: Counted,
}

/// Measurement of a version on a device before it served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMeasurement {
    /// Version that was measured.
    pub version: Version,
    /// Time at which the hub received it, in seconds of its Unix clock.
    pub at_unix_s: u64,
    /// Variants that were measured, the chosen one first.
    pub variants: Vec<MeasuredVariant>,
    /// Version that served then, measured at the same time.
    pub active: Option<MeasuredVariant>,
}

/// Figures of one variant on one engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeasuredVariant {
    /// Version of the model.
    pub version: Version,
    /// Name of the variant.
    pub variant: VariantName,
    /// Engine that ran it.
    pub engine: EngineName,
    /// Median duration of a run in microseconds.
    pub p50_us: u64,
    /// Duration that 95 % of the runs do not exceed, in microseconds.
    pub p95_us: u64,
    /// Memory of the session in bytes, where the device knows it.
    pub memory_bytes: Option<u64>,
    /// Golden inputs that were compared with the answers of the active version.
    pub compared: u32,
    /// Of these, the inputs with equal answers.
    pub agreed: u32,
    /// Reason for which the variant cannot serve.
    pub refused: Option<String>,
}

/// Watch over the threshold of a variant on a group of devices.
#[derive(Debug, Clone, PartialEq)]
pub struct CalibrationRecord {
    /// Name of the model.
    pub model: ModelName,
    /// Version of the model.
    pub version: Version,
    /// Variant of the version.
    pub variant: VariantName,
    /// Digest of its model file.
    pub digest: Digest,
    /// Group of devices.
    pub group: String,
    /// State of the watch.
    pub watch: Watch,
    /// Number of times that the threshold was changed.
    pub changes: u32,
    /// Last change of the threshold.
    pub last_change: Option<CalibrationChange>,
}

/// Change of a threshold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalibrationChange {
    /// Time in seconds of the hub's Unix clock.
    pub at_unix_s: u64,
    /// The change with its figures.
    pub what: String,
}
