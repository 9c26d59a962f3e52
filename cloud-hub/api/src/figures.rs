//! Figures of versions in use, as devices count them.

use serde::{Deserialize, Serialize};
use types::{DeviceId, EngineName, ModelName, VariantName, Version};

/// Figures of a model's versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelFigures {
    /// Name of the model.
    pub model: ModelName,
    /// Time in seconds that the figures of the versions cover, until now.
    pub seconds: u64,
    /// Figures of each version that was used in this time, newest first.
    pub versions: Vec<FiguresView>,
    /// Newest measurement of each device before a switch, by device.
    pub measured: Vec<MeasuredView>,
}

/// Figures of a version on one device or on all, over the last day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FiguresView {
    /// Number of the version.
    pub version: Version,
    /// Devices that counted something.
    pub devices: u64,
    /// Requests that devices answered themselves.
    pub kept: u64,
    /// Requests that devices passed to the hub because their own answers were not confident.
    pub deferred: u64,
    /// Runs that ended in an error that was not the request's fault.
    pub failed: u64,
    /// Ends of the process that ran the model.
    pub crashed: u64,
    /// Kept answers that were compared with those of the full model.
    pub audited: u64,
    /// Of these, the answers that agreed.
    pub agreed: u64,
    /// Answers of the version before it served that were compared with those of the serving version.
    pub shadowed: u64,
    /// Of these, the answers that agreed.
    pub shadow_agreed: u64,
    /// Upper bound of the median duration of a run in milliseconds; at most 19 % above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_ms_max: Option<f64>,
    /// Upper bound of the duration that 95 % of the runs do not exceed, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_ms_max: Option<f64>,
    /// Largest memory of a session in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes_max: Option<u64>,
}

/// Measurement of a version on a device before it served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeasuredView {
    /// Name of the device.
    pub device: DeviceId,
    /// Version that was measured.
    pub version: Version,
    /// Time at which the hub received it.
    pub at_unix_ms: u64,
    /// Variants that were measured, the chosen one first.
    pub variants: Vec<VariantFiguresView>,
    /// The version that served then, measured at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<VariantFiguresView>,
}

/// Figures of one variant on one engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VariantFiguresView {
    /// Number of the version.
    pub version: Version,
    /// Name of the variant.
    pub variant: VariantName,
    /// Engine that ran it.
    pub engine: EngineName,
    /// Median duration of a run in milliseconds.
    pub p50_ms: f64,
    /// Duration that 95 % of the runs do not exceed, in milliseconds.
    pub p95_ms: f64,
    /// Memory of the session in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Golden inputs that were compared with the answers of the active version.
    pub compared: u32,
    /// Of these, the inputs with equal answers.
    pub agreed: u32,
    /// Reason for which the variant cannot serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}
