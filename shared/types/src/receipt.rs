//! The receipt of a response: which model ran, on which engine and host, and why that host was chosen.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Amendment, Digest, ModelName, PolicyMode, RequestId, VariantName, Version};

/// Host that computed a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The device that received the request.
    Device,
    /// The hub that the device is connected to.
    Hub,
}

impl Place {
    /// Returns the name used in responses, metrics and logs.
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

/// Engine that ran the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineName {
    /// ONNX Runtime, through the crate `ort`.
    Ort,
    /// The wgpu engine of this project.
    Wgpu,
    /// A deterministic engine for tests, which no shipped binary can be configured to use.
    Fake,
}

impl EngineName {
    /// Returns the name used in config files, responses, metrics and logs.
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

/// Reason for the choice of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The policy prefers this host, and no condition prevented it.
    Policy,
    /// Cascade kept the device's response: its score reached the threshold.
    Confident,
    /// Cascade deferred to the hub: the score was below the threshold.
    LowConfidence,
    /// Cascade deferred to the hub: this version has no threshold.
    NotCalibrated,
    /// The device has no ready session for the model.
    NoLocalModel,
    /// The device's queue was full.
    DeviceBusy,
    /// The engine of the device failed or exceeded the deadline.
    DeviceFailed,
    /// The hub could not be reached.
    HubUnreachable,
    /// The hub responded with an error.
    HubFailed,
    /// The hub did not respond within the request's deadline.
    HubTooLate,
    /// Cascade deferred to the hub: the device's response has no score (NaN, no classes, or no score rule).
    NoScore,
    /// The device had not answered when the hedge delay was over, so the hub was asked too and was first.
    Hedged,
    /// The device could not answer within the deadline, by what it took before, so the hub was asked.
    DeviceTooLate,
    /// The hub was not asked: by what it took before, it could not answer within the deadline.
    HubPredictedLate,
    /// The hub was not asked: the privacy class `never-leaves` keeps the input on the device.
    NeverLeaves,
    /// The hub was not asked: the privacy class is `personal`, or the policy demands consent, and there is no consent.
    NoConsent,
    /// The hub was not asked: the link is metered, and the policy sends nothing over a metered link.
    MeteredLink,
    /// The hub was not asked: the battery is below the policy's minimum.
    BatteryLow,
    /// The hub was not asked: the local time is outside the hours of the policy.
    OutsideHours,
    /// The hub was not asked: the request has none of the tags that the policy demands.
    NoTag,
    /// The hub was not asked: today's budget of bytes to the hub is used up.
    BytesSpent,
    /// The hub was not asked: today's budget of requests to the hub is used up.
    CallsSpent,
    /// The hub was not asked: this minute's budget of deferred answers is used up.
    EscalationsSpent,
    /// The device has no version of the model yet, and is fetching one: the hub answered meanwhile.
    Downloading,
    /// Cascade deferred to the hub: the scores have left the distribution of the calibration, and the owner wants the hub then.
    Drifted,
    /// The same input was answered before, and that answer was given again.
    Cached,
    /// Cascade deferred to the hub: audits broke the promise of the threshold, and the hub has shown no other one since.
    BoundBroken,
}

impl Reason {
    /// All reasons, so that metrics start at zero and the documentation is complete.
    pub const ALL: [Self; 27] = [
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
        Self::Hedged,
        Self::DeviceTooLate,
        Self::HubPredictedLate,
        Self::NeverLeaves,
        Self::NoConsent,
        Self::MeteredLink,
        Self::BatteryLow,
        Self::OutsideHours,
        Self::NoTag,
        Self::BytesSpent,
        Self::CallsSpent,
        Self::EscalationsSpent,
        Self::Downloading,
        Self::Drifted,
        Self::Cached,
        Self::BoundBroken,
    ];

    /// Returns the code used in responses, metrics and logs.
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
            Self::Hedged => "hedged",
            Self::DeviceTooLate => "device-too-late",
            Self::HubPredictedLate => "hub-predicted-late",
            Self::NeverLeaves => "never-leaves",
            Self::NoConsent => "no-consent",
            Self::MeteredLink => "metered-link",
            Self::BatteryLow => "battery-low",
            Self::OutsideHours => "outside-hours",
            Self::NoTag => "no-tag",
            Self::BytesSpent => "bytes-spent",
            Self::CallsSpent => "calls-spent",
            Self::EscalationsSpent => "escalations-spent",
            Self::Downloading => "downloading",
            Self::Drifted => "drifted",
            Self::Cached => "cached",
            Self::BoundBroken => "bound-broken",
        }
    }

    /// Returns the reason as a sentence for people, without a full stop.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Policy => "the policy prefers this place, and nothing prevented it",
            Self::Confident => "the score of the device's answer reached the threshold",
            Self::LowConfidence => "the score of the device's answer was below the threshold",
            Self::NotCalibrated => "this version has no threshold, so no answer of the device counts as sure",
            Self::NoLocalModel => "the device has no loaded version of the model",
            Self::DeviceBusy => "the device's queue was full",
            Self::DeviceFailed => "the device's engine failed or did not answer in time",
            Self::HubUnreachable => "the hub could not be reached",
            Self::HubFailed => "the hub answered with an error",
            Self::HubTooLate => "the hub did not answer within the deadline",
            Self::NoScore => "the device's answer has no score, so it does not count as sure",
            Self::Hedged => "the device had not answered when the hedge delay was over, and the hub was first",
            Self::DeviceTooLate => "the device could not answer within the deadline, by its recent latency",
            Self::HubPredictedLate => "the hub could not answer within the deadline, by its recent latency",
            Self::NeverLeaves => "the privacy class never-leaves keeps the input on the device",
            Self::NoConsent => "the input is personal, or the policy demands consent, and there is no consent",
            Self::MeteredLink => "the policy sends nothing to the hub over a metered link",
            Self::BatteryLow => "the battery is below the policy's minimum for using the hub",
            Self::OutsideHours => "the local time is outside the policy's hours for using the hub",
            Self::NoTag => "the request has none of the tags that the policy demands for using the hub",
            Self::BytesSpent => "today's budget of bytes to the hub is used up",
            Self::CallsSpent => "today's budget of requests to the hub is used up",
            Self::EscalationsSpent => "this minute's budget of deferred answers is used up",
            Self::Downloading => "the device is still fetching its version of the model",
            Self::Cached => "the same input was answered before, and that answer was given again",
            Self::Drifted => {
                "the scores have left the distribution of the calibration, so no answer of the device counts as sure"
            }
            Self::BoundBroken => {
                "audits broke the promise of the threshold and no other one is shown yet, so no answer of the device counts as sure"
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Guarantee behind the threshold of the device's variant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Calibration {
    /// The variant has no threshold.
    NotCalibrated,
    /// The manifest has a threshold, and no calibration curve with a bound for it; or the bound is void because of drift.
    Uncertified,
    /// The manifest has a bound for the threshold.
    Certified {
        /// Upper bound, 0 to 1, of the share of requests that the device keeps and that the full model would answer otherwise.
        alpha: f32,
        /// Confidence of the bound, 0 to 1.
        confidence: f32,
    },
    /// The hub has refitted the threshold from audits of the device's group, so that the bound of the manifest holds there.
    Refitted {
        /// Upper bound as in [`Self::Certified`].
        alpha: f32,
        /// Confidence of the bound, 0 to 1.
        confidence: f32,
    },
}

impl Calibration {
    /// Returns the name used in responses and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotCalibrated => "not-calibrated",
            Self::Uncertified => "uncertified",
            Self::Certified { .. } => "certified",
            Self::Refitted { .. } => "refitted",
        }
    }

    /// Returns the bound and its confidence.
    #[must_use]
    pub const fn bound(self) -> Option<(f32, f32)> {
        match self {
            Self::Certified { alpha, confidence } | Self::Refitted { alpha, confidence } => Some((alpha, confidence)),
            Self::NotCalibrated | Self::Uncertified => None,
        }
    }
}

/// Durations of the parts of a request. A part that did not occur is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timings {
    /// Time in the queue of the session that served the request.
    pub queue: Duration,
    /// Time inside the engine that served the request.
    pub compute: Duration,
    /// Time from the first byte sent to the hub to the last byte received, less the hub's queue and compute times.
    pub network: Duration,
    /// Time from asking the hub to its answer, its failure or the end of the request; also where the device answered.
    pub hub: Duration,
    /// Time from the receipt of the whole request to the whole response.
    pub total: Duration,
}

/// Origin of one response; returned with the response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Identifier of the request.
    pub request_id: RequestId,
    /// Name of the model that ran.
    pub model: ModelName,
    /// Version of the model that ran.
    pub version: Version,
    /// Variant of the version that ran.
    pub variant: VariantName,
    /// Digest of the model file that ran.
    pub digest: Digest,
    /// Engine that ran the model.
    pub engine: EngineName,
    /// Execution provider (ort) or adapter (wgpu) that was used, like `CPUExecutionProvider`.
    pub provider: String,
    /// Host that computed the response.
    pub place: Place,
    /// Reason for the choice of the host.
    pub reason: Reason,
    /// Policy that applied to this request.
    pub policy: PolicyMode,
    /// Score of the device's own response, 0 to 1; `None` if there was none or it could not be scored.
    pub score: Option<f32>,
    /// Threshold that the score was compared with.
    pub threshold: Option<f32>,
    /// Guarantee behind the threshold; `None` at a hub, which compares with none.
    pub calibration: Option<Calibration>,
    /// Bytes of input that were handed to the connection to the hub, whoever answered. 0 if nothing left the device.
    pub hub_bytes: u64,
    /// Whether no later answer to this request will replace this one.
    pub is_final: bool,
    /// Reference to the later answer; `None` if none will come.
    #[serde(skip)]
    pub amendment: Option<Amendment>,
    /// Durations of the parts of the request.
    pub timings: Timings,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_a_code_and_a_sentence_of_its_own() {
        let codes: BTreeSet<_> = Reason::ALL.into_iter().map(Reason::as_str).collect();
        let sentences: BTreeSet<_> = Reason::ALL.into_iter().map(Reason::sentence).collect();
        assert_eq!((codes.len(), sentences.len()), (Reason::ALL.len(), Reason::ALL.len()));
    }
}
