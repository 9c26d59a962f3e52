//! How an answer came to be: what ran, where, and why there.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Digest, ModelName, PolicyMode, RequestId, VariantName, Version};

/// Where an answer was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// On this device.
    Device,
    /// By the hub.
    Hub,
}

impl Place {
    /// The name in answers, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Hub => "hub",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What ran the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineName {
    /// ONNX Runtime.
    Ort,
    /// Our own wgpu engine.
    Wgpu,
    /// The deterministic stand-in of tests; never in a shipped binary's configuration.
    Fake,
}

impl EngineName {
    /// The name in config files, answers, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ort => "ort",
            Self::Wgpu => "wgpu",
            Self::Fake => "fake",
        }
    }
}

impl fmt::Display for EngineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the answer was made where it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The policy names this place first and nothing stood against it.
    Policy,
    /// Cascade kept the device's answer: its score reached the threshold.
    Confident,
    /// Cascade deferred to the hub: the score was under the threshold.
    LowConfidence,
    /// Cascade has no threshold for this version, so it deferred.
    NotCalibrated,
    /// The device has no ready session for the model.
    NoLocalModel,
    /// The device's queue was full.
    DeviceBusy,
    /// The device's engine failed or overran the deadline.
    DeviceFailed,
    /// The hub could not be reached.
    HubUnreachable,
    /// The hub answered with an error.
    HubFailed,
    /// The hub was too late for the request's deadline.
    HubTooLate,
    /// Cascade could not score the device's answer (a NaN, no classes, no score rule), so it deferred.
    NoScore,
}

impl Reason {
    /// Every reason, for metrics that start at zero and for documentation.
    pub const ALL: [Self; 11] = [
        Self::Policy,
        Self::Confident,
        Self::LowConfidence,
        Self::NotCalibrated,
        Self::NoLocalModel,
        Self::DeviceBusy,
        Self::DeviceFailed,
        Self::HubUnreachable,
        Self::HubFailed,
        Self::HubTooLate,
        Self::NoScore,
    ];

    /// The code in answers, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Confident => "confident",
            Self::LowConfidence => "low-confidence",
            Self::NotCalibrated => "not-calibrated",
            Self::NoLocalModel => "no-local-model",
            Self::DeviceBusy => "device-busy",
            Self::DeviceFailed => "device-failed",
            Self::HubUnreachable => "hub-unreachable",
            Self::HubFailed => "hub-failed",
            Self::HubTooLate => "hub-too-late",
            Self::NoScore => "no-score",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the time of a request went. Each part is zero where it did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timings {
    /// Waiting for the session that answered.
    pub queue: Duration,
    /// Inside the engine that answered.
    pub compute: Duration,
    /// From the first byte towards the hub to the last byte back, less the hub's queue and compute.
    pub network: Duration,
    /// From the whole request at the door to the whole answer.
    pub total: Duration,
}

/// How one answer came to be; it travels with the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The request this belongs to.
    pub request_id: RequestId,
    /// The model that answered.
    pub model: ModelName,
    /// Its version.
    pub version: Version,
    /// The form of that version that ran.
    pub variant: VariantName,
    /// Digest of the model file that ran.
    pub digest: Digest,
    /// The engine that ran it.
    pub engine: EngineName,
    /// The execution provider (ort) or adapter (wgpu) that really ran, like `CPUExecutionProvider`.
    pub provider: String,
    /// Where it ran.
    pub place: Place,
    /// Why there.
    pub reason: Reason,
    /// The policy that was in force for this request.
    pub policy: PolicyMode,
    /// The score of the device's own answer, 0 to 1, where one was made and could be scored.
    pub score: Option<f32>,
    /// The threshold that score was held against.
    pub threshold: Option<f32>,
    /// Where the time went.
    pub timings: Timings,
}
