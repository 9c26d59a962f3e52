//! Devices: list, labels, revocation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use types::{DeviceId, Digest, EngineName, ModelName, VariantName, Version};

use crate::{ClonedView, FiguresView, UnknownDevice};

/// Query of the list of devices.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceListQuery {
    /// Filter, like `site=berlin and version<3`; every device without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Maximum number of devices, at most [`crate::PAGE_MAX`]. Without it the list is complete, as for clients of 0.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Cursor: `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Page of devices, by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceList {
    /// The devices of this page.
    pub devices: Vec<DeviceView>,
    /// Devices that have no record here and show a certificate of this hub's CA, by name, on the first page: they were
    /// enrolled after the backup from which this hub was restored. `POST /devices/{id}/readmit` lets one in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<UnknownDevice>,
    /// Cursor of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Request to revoke a device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    /// Reason for later readers, at most 200 bytes. Clients of 0.1.0 call it `why`.
    #[serde(default, alias = "why")]
    pub reason: String,
}

/// Change of a device's labels.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelChange {
    /// Labels to set, by key.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Keys of labels to remove; a key that the device does not have is ignored.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// State of a device's enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// The device may connect.
    Enrolled,
    /// The device is refused for ever.
    Revoked,
}

/// State of one device as the hub knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceView {
    /// Name, as in its certificate.
    pub device: DeviceId,
    /// State of its enrolment.
    pub state: DeviceState,
    /// Reason of its revocation, in the operator's words. Hubs of 0.1.0 call it `why`.
    #[serde(default, alias = "why", skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Labels that operators gave it, by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether it is connected now.
    pub connected: bool,
    /// Its network address, while it is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Time of its enrolment.
    pub enrolled_unix_ms: u64,
    /// Time at which it last connected or disconnected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_unix_ms: Option<u64>,
    /// Expiry of its newest certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_until_unix_ms: Option<u64>,
    /// Last time at which it can renew its certificate, once that has expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewable_until_unix_ms: Option<u64>,
    /// Set while two machines use this device's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloned: Option<ClonedView>,
    /// Version of its agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// Operating system, like `linux`; absent for agents of 0.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Processor architecture, like `aarch64`; absent for agents of 0.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Engines that it can run models with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub engines: Vec<EngineOfDevice>,
    /// Models that it follows, with its last report on an update.
    pub models: Vec<DeviceModelView>,
}

/// Engine of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineOfDevice {
    /// Name: `ort` or `wgpu`.
    pub name: String,
    /// Version of its runtime.
    pub version: String,
    /// Execution providers or adapters that it can use.
    pub providers: Vec<String>,
}

/// State of one model on one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceModelView {
    /// Name of the model.
    pub model: ModelName,
    /// Variant that serves now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<FormView>,
    /// Variant that the device can roll back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<FormView>,
    /// Version that an operator keeps on the device, whatever is rolled out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<Version>,
    /// Engine and provider that run the active variant, where the device reported them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<RunningView>,
    /// Last report of the device on an update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ReportView>,
    /// Alarm that the device reports because the scores have left the distribution of the calibration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftView>,
    /// Figures of each version over the last day, as the device counts them, newest first. Only in
    /// `GET /devices/{device}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub figures: Vec<FiguresView>,
}

/// Alarm of drift on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftView {
    /// Version whose scores have changed.
    pub version: Version,
    /// Direction of the change: `less-sure` or `more-sure`.
    pub shift: String,
    /// Time at which the device raised the alarm, by its clock.
    pub since_unix_ms: u64,
}

/// Session that serves a model on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningView {
    /// Engine of the session.
    pub engine: EngineName,
    /// Execution provider that runs it, as the engine names it.
    pub provider: String,
}

/// One variant of one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormView {
    /// Number of the version.
    pub version: Version,
    /// Name of the variant.
    pub variant: VariantName,
    /// Digest of its model file.
    pub digest: Digest,
}

/// Report of a device on an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportView {
    /// Version that the report is about.
    pub version: Version,
    /// Variant of it, once the device has chosen one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<VariantName>,
    /// Stage that the update reached.
    pub stage: String,
    /// Outcome: one of the labels of `types::update::Outcome`.
    pub outcome: String,
    /// Reason in the device's words, bounded and without control characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Time at which the hub received the report.
    pub at_unix_ms: u64,
}
