//! Rollouts: order, state, devices, decisions; pins and assigned models.

use serde::{Deserialize, Serialize};
use types::{DeviceId, ModelName, Version};

/// Request to create a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutRequest {
    /// Name of the model.
    pub model: ModelName,
    /// Version that is rolled out; it is published.
    pub version: Version,
    /// Cohort: `all`, or a filter like `site=berlin and engine=ort`.
    pub to: String,
    /// Waves, like `1,5%@2h,25%,100%`; a default without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waves: Option<String>,
    /// Gate as TOML; installations alone are judged without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
    /// Whether each wave but the first waits for an operator.
    #[serde(default)]
    pub approve: bool,
    /// Time of the start; at once without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_unix_ms: Option<u64>,
    /// Label and number of devices that are updated at once, like `site=2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_per_site: Option<String>,
    /// Reaction to a broken gate: `pause` (the default) or `rollback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_breach: Option<String>,
    /// Seconds after which a wave without enough evidence pauses the rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience_s: Option<u64>,
    /// Seconds after which a device that has begun and reports no more counts as silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_after_s: Option<u64>,
}

/// Request to act on a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutAction {
    /// Action: `pause`, `resume`, `abort`, `approve`, `skip`, `retry` or `rollback`.
    pub action: String,
    /// Reason for later readers, at most 200 bytes.
    #[serde(default)]
    pub reason: String,
}

/// List of rollouts, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutList {
    /// The rollouts that the hub keeps.
    pub rollouts: Vec<RolloutView>,
}

/// State of one rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutView {
    /// Number of the rollout.
    pub rollout: u64,
    /// Name of the model.
    pub model: ModelName,
    /// Version that is rolled out.
    pub version: Version,
    /// Version that devices return to: the current one when the rollout was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Version>,
    /// Cohort, as the operator wrote it.
    pub to: String,
    /// Waves with their soaks.
    pub waves: Vec<String>,
    /// State: `scheduled`, `running`, `waiting-for-approval`, `paused`, `promoting`, `completed`, `aborted`, `rolling-back` or
    /// `rolled-back`.
    pub state: String,
    /// Number of the wave that is under way or has passed last, from 1; absent before the start and after the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<usize>,
    /// Reason of the state, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Next thing that happens, in words.
    pub next: String,
    /// Gate as TOML, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
    /// Whether each wave but the first waits for an operator.
    pub approve: bool,
    /// Label and number of devices that are updated at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_per_site: Option<String>,
    /// Reaction to a broken gate.
    pub on_breach: String,
    /// Time of its creation.
    pub created_unix_ms: u64,
    /// Operator who created it.
    pub created_by: String,
    /// Numbers of its devices by state.
    pub devices: RolloutCounts,
}

/// Numbers of devices in a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RolloutCounts {
    /// Devices of the cohort that can take part.
    pub cohort: u64,
    /// Devices that were admitted.
    pub admitted: u64,
    /// On these the version serves.
    pub active: u64,
    /// These work on it.
    pub working: u64,
    /// These were offered it long ago and have not begun.
    pub not_begun: u64,
    /// These are away: pending, not failed.
    pub pending: u64,
    /// These have given it up or gone back.
    pub failed: u64,
    /// These began and fell silent.
    pub silent: u64,
    /// Of a rollback: these still serve the version.
    #[serde(default)]
    pub to_return: u64,
}

/// One rollout with its devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutDetail {
    /// State of the rollout.
    pub rollout: RolloutView,
    /// Devices that take part, those that do not serve the version first.
    pub devices: Vec<RolloutDeviceView>,
    /// Number of devices that were left out of the list.
    #[serde(default)]
    pub devices_left_out: u64,
}

/// One device in a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutDeviceView {
    /// Name of the device.
    pub device: DeviceId,
    /// Wave that admitted it, from 1.
    pub wave: usize,
    /// State: `active`, `working`, `not-begun`, `pending`, `failed`, `silent`, `excused`, `gone`, or of a rollback `to-return` and
    /// `returned`.
    pub state: String,
    /// Reason in words; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Version that serves on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serves: Option<Version>,
    /// Time of its admission.
    pub admitted_unix_ms: u64,
}

/// Query of an explanation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    /// Name of a device whose part in the rollout is explained, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
}

/// Explanation of a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutExplanation {
    /// State of the rollout.
    pub rollout: RolloutView,
    /// State of its devices in words.
    pub now: Vec<String>,
    /// Part of the device of the query in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Decisions, oldest first, each with its evidence.
    pub decisions: Vec<DecisionView>,
}

/// One decision of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionView {
    /// Time of the decision.
    pub at_unix_ms: u64,
    /// Kind of the decision, like `wave-passed`.
    pub what: String,
    /// Reason of the decision in words.
    pub reason: String,
    /// Evidence in words, one figure each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
}

/// Request to keep a version of a model on a device, or to end that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    /// Name of the model.
    pub model: ModelName,
    /// Version to keep; absent to end the pin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
}

/// Pin of a model on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinView {
    /// Name of the device.
    pub device: DeviceId,
    /// Name of the model.
    pub model: ModelName,
    /// Version that is kept; absent without a pin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Whether the device is connected and was sent the pin. Otherwise it is told when it connects.
    pub told: bool,
    /// Effects that the operator may not expect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Request to let devices follow a model, or to end that.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssignRequest {
    /// Devices: `all` or a filter; absent to end the assignment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// Assignment of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentView {
    /// Name of the model.
    pub model: ModelName,
    /// Devices that follow it because of the hub; absent without an assignment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Number of devices that it includes now.
    pub devices: usize,
    /// Number of connected devices that were sent their list of models.
    pub told: usize,
    /// Effects that the operator may not expect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}
