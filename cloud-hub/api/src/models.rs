//! Models: versions, publication, withdrawal, uploaded files.

use serde::{Deserialize, Serialize};
use types::{DeviceId, Digest, ModelName, Version};

use crate::{FiguresView, FormView, ReportView, RunningView};

/// Page of models, by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelList {
    /// The models of this page.
    pub models: Vec<ModelView>,
    /// Cursor of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// State of one model in the registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelView {
    /// Name of the model.
    pub model: ModelName,
    /// Newest version that was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<Version>,
    /// Version that devices are offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<Version>,
    /// Versions of the model, newest first.
    pub versions: Vec<VersionView>,
    /// Devices that follow it, by name.
    pub devices: Vec<ModelDeviceView>,
    /// Requests of devices that this hub has answered since it started, by the device's reason for asking.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answered: Vec<ReasonView>,
    /// Figures of each version over the last day, as devices count them, newest first. Only in `GET /models/{model}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub figures: Vec<FiguresView>,
    /// Effects of the offered version that its author may not expect, like a missing threshold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Requests that devices sent to the hub for one reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReasonView {
    /// Reason of the device, as in receipts.
    pub reason: String,
    /// Number of requests with this reason.
    pub requests: u64,
    /// Share of the model's requests that this hub answered, in percent. Requests that devices answer themselves are not
    /// counted: the hub does not see them.
    #[serde(default)]
    pub share_percent: f64,
}

/// State of one published version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionView {
    /// Number of the version.
    pub version: Version,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Time of its publication.
    pub published_unix_ms: u64,
    /// Whether it has never been offered.
    pub held: bool,
    /// Names of its variants, the hub's own last.
    pub variants: Vec<String>,
    /// Whether the hub has it loaded.
    pub loaded: bool,
    /// Deltas to its files that the hub has made, smallest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deltas: Vec<DeltaView>,
}

/// File from which devices make a file of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaView {
    /// Version that it applies to; absent for the compressed file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Version>,
    /// Variant that the file belongs to.
    pub variant: String,
    /// Name of the file that it makes.
    pub file: String,
    /// Length of the delta in bytes.
    pub bytes: u64,
    /// Length of the file in bytes.
    pub of_bytes: u64,
}

/// Number and size of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FilesView {
    /// Number of files.
    pub files: u64,
    /// Their bytes on disk.
    pub bytes: u64,
}

/// State of one device that follows a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelDeviceView {
    /// Name of the device.
    pub device: DeviceId,
    /// Whether it is connected now.
    pub connected: bool,
    /// Variant that serves now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<FormView>,
    /// Engine and provider that run the active variant, where the device reported them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<RunningView>,
    /// Its last report on an update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ReportView>,
}

/// File that was uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobStored {
    /// Digest, which is its name.
    pub digest: Digest,
    /// Length of the file in bytes.
    pub bytes: u64,
}

/// Request to publish a version whose files are uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    /// Number of the version.
    pub version: Version,
    /// Digest of its manifest, which was uploaded as a blob.
    pub manifest: Digest,
    /// The newly signed `targets.json`, as text.
    pub targets: String,
    /// Whether to publish the version so that no device is offered it, although it is the first one of its model.
    #[serde(default)]
    pub hold: bool,
    /// Whether to make the version current and offer it to every device at once. Otherwise only the first version of a
    /// model is: a rollout brings later ones to devices.
    #[serde(default, skip_serializing_if = "is_false")]
    pub offer: bool,
    /// Whether to publish although the version is worse than the one in force: no threshold, no golden inputs, other labels, other
    /// inputs or outputs.
    #[serde(default, skip_serializing_if = "is_false")]
    pub force: bool,
    /// Whether to refuse the version if it has warnings that its author can mend: no score, no threshold, no golden inputs, a looser bound than
    /// the version before.
    #[serde(default, skip_serializing_if = "is_false")]
    pub strict: bool,
}

/// Returns whether a switch is off: it is left out of a request then, so that an older hub understands it.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(switch: &bool) -> bool {
    !switch
}

/// Request to offer a version to devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfferRequest {
    /// Number of the version.
    pub version: Version,
}

/// Result of publishing or offering a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Name of the model.
    pub model: ModelName,
    /// Number of the version.
    pub version: Version,
    /// Number of connected devices that were offered the version.
    pub devices_told: usize,
    /// Version that every device is offered now; absent when the model has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<Version>,
    /// Whether it was published already with the same content.
    pub unchanged: bool,
    /// Effects that the author may not expect, like a missing threshold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Request to withdraw a version that no device has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WithdrawRequest {
    /// Number of the version.
    pub version: Version,
    /// The newly signed `targets.json` without the version, as text.
    pub targets: String,
}

/// Result of a withdrawal: the number can be published again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    /// Name of the model.
    pub model: ModelName,
    /// Number of the version.
    pub version: Version,
    /// Version that devices are offered now; absent when the model has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<Version>,
}

/// Request to delete a version that no device holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteRequest {
    /// Number of the version.
    pub version: Version,
    /// The newly signed `targets.json` without the version, as text.
    pub targets: String,
}

/// Result of a deletion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Name of the model.
    pub model: ModelName,
    /// Number of the version.
    pub version: Version,
    /// Files that only this version had and that were removed.
    pub files: FilesView,
}

/// Request to remove files that nothing needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GarbageRequest {
    /// Whether to count the files without removing them.
    #[serde(default)]
    pub dry_run: bool,
}

/// Files that nothing needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Garbage {
    /// Whether they were only counted.
    pub dry_run: bool,
    /// Uploaded files of pushes that failed, older than a day.
    pub orphans: FilesView,
    /// Deltas to files that are not published, or from files that no device holds.
    pub deltas: FilesView,
    /// Versions that no device holds and that are not offered. They are never removed here: deleting one needs the targets key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<UnheldView>,
}

/// Version that could be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnheldView {
    /// Name of the model.
    pub model: ModelName,
    /// Number of the version.
    pub version: Version,
    /// Files that only this version has.
    pub files: FilesView,
}
