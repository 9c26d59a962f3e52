//! Thresholds that are kept valid in the field.

use serde::{Deserialize, Serialize};
use types::{ModelName, VariantName, Version};

/// Watches over thresholds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibrationList {
    /// A watch for each variant and group of devices from which audits have arrived, by model.
    pub calibrations: Vec<CalibrationView>,
    /// Variants of offered versions that are not watched, with the reason.
    pub notes: Vec<String>,
}

/// Watch over the threshold of one variant on one group of devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibrationView {
    /// Name of the model.
    pub model: ModelName,
    /// Version of the model.
    pub version: Version,
    /// Variant of the version.
    pub variant: VariantName,
    /// Group of devices: `all`, or by the label of `calibration.group_by` like `site=berlin` or `without site`.
    pub group: String,
    /// `author` (the author's threshold is in force), `refitted`, or `withdrawn` (nothing is kept).
    pub state: String,
    /// Threshold in force; absent while nothing is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// Threshold of the author: the loosest one that the hub ever puts in force.
    pub author_threshold: f32,
    /// Promise: largest share of all requests that is kept and answered otherwise than by the full model, 0 to 1.
    pub alpha: f64,
    /// Confidence of the promise, 0 to 1.
    pub confidence: f64,
    /// Audits since the present threshold is in force.
    pub audits: u64,
    /// Of these, answers that were kept and differ.
    pub wrong: u64,
    /// Lower bound of the share that is kept and differs, valid at any time; absent without audits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Upper bound of that share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// Audits since the promise was broken last, or since the first one.
    pub recorded: u64,
    /// While nothing is kept: the least number of audits that can show a threshold, all of them agreeing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audits_needed: Option<u64>,
    /// Times that the promise was broken.
    pub refits: u32,
    /// Times that the threshold was changed.
    pub changes: u32,
    /// Devices of all groups that serve the version and report an alarm of drift.
    pub drifting_devices: u64,
    /// Time of the last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_change_unix_ms: Option<u64>,
    /// The last change with its figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_change: Option<String>,
    /// Threshold in force in words.
    pub meaning: String,
}

/// Request to begin watches anew.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationReset {
    /// Version of the model; without it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Group of devices; without it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// Watches that were begun anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalibrationResetDone {
    /// Name of the model.
    pub model: ModelName,
    /// Number of the watches.
    pub reset: u64,
}
