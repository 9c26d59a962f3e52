//! Messages that keep thresholds valid in the field: scores of audits and alarms of drift from the device, thresholds from the hub.
//!
//! A device sends scores and alarms only to hubs whose `Welcome` has [`super::feature::CALIBRATION`]; a hub sends thresholds only to
//! devices whose `Hello` has it.

use serde::{Deserialize, Serialize};
use types::{Digest, ModelName, VariantName, Version};

use super::hello::MODELS_MAX;
use super::rollout::{AUDIT_SHARE_MAX, COUNTERS_MAX, ModelCounters};
use super::{at_most, count};
use crate::wire;

/// Maximum number of [`ScoreBin`] of one variant: 64 thresholds, and the scores below the last one.
pub const SCORE_BINS_MAX: usize = 65;

/// Maximum number of [`VariantThreshold`] in one message: with the longest names they fit into a small message.
pub const THRESHOLDS_MAX: usize = 64;

/// Counters of a period, with the scores of the audits in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Counters, as in [`super::DeviceRequest::Counters`].
    pub counters: Vec<ModelCounters>,
    /// Scores of audits; each belongs to the counters of its version.
    pub scores: Vec<AuditScores>,
}

/// Audited requests of one variant in one period, counted by score.
///
/// An audited request was drawn before its answer was known; its answer was kept and then compared, or it was deferred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditScores {
    /// Name of the model.
    pub model: ModelName,
    /// Version that answered.
    pub version: Version,
    /// Variant that answered.
    pub variant: VariantName,
    /// Counts between neighbouring thresholds of the variant's curve.
    pub bins: Vec<ScoreBin>,
}

/// Audited requests whose scores are between two thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoreBin {
    /// Lower threshold as the bits of a finite `f32`; `None` for scores below all thresholds, and for answers without a score.
    pub threshold_bits: Option<u32>,
    /// Answers that agree with the full model's.
    pub agreed: u32,
    /// Answers that differ.
    pub differing: u32,
}

/// Thresholds of all variants on the device that the hub watches, in place of an earlier list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thresholds {
    /// At most [`THRESHOLDS_MAX`]. A variant that is not in the list has the author's threshold and is not audited for it.
    pub variants: Vec<VariantThreshold>,
}

/// Threshold of one variant on the devices of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariantThreshold {
    /// Name of the model.
    pub model: ModelName,
    /// Version of the model.
    pub version: Version,
    /// Variant of the version.
    pub variant: VariantName,
    /// Digest of its model file: the threshold holds for no other one.
    #[serde(with = "wire::digest")]
    pub digest: Digest,
    /// Share of the requests in thousandths that the device audits, at most 1000.
    pub share_per_mille: u16,
    /// Number of times that the group's threshold was changed.
    pub changes: u32,
    /// Threshold in force.
    pub threshold: ThresholdOrder,
}

/// Threshold in force on a group of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ThresholdOrder {
    /// The author's.
    Author,
    /// None: audits broke the promise of the last one, and none was shown since.
    Nothing,
    /// At least this one, as the bits of a finite `f32`. The device never keeps an answer below the author's threshold.
    AtLeast {
        /// Bits of the threshold.
        bits: u32,
    },
}

/// Alarm of a variant that serves: its scores have left the distribution of the calibration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftAlarm {
    /// Name of the model.
    pub model: ModelName,
    /// Version that serves.
    pub version: Version,
    /// Whether scores are lower than in the calibration; otherwise they are higher.
    pub is_less_sure: bool,
    /// Time at which the alarm was raised, in seconds since 1970 by the device's clock.
    pub since_unix_s: u64,
}

fn finite(field: &str, bits: u32) -> Result<(), String> {
    if f32::from_bits(bits).is_finite() { Ok(()) } else { Err(format!("{field} is not a finite number")) }
}

impl Evidence {
    pub(super) fn check(&self) -> Result<(), String> {
        ModelCounters::check_all(&self.counters)?;
        count("scores", self.scores.len(), COUNTERS_MAX)?;
        for scores in &self.scores {
            count("bins", scores.bins.len(), SCORE_BINS_MAX)?;
            scores.bins.iter().filter_map(|bin| bin.threshold_bits).try_for_each(|bits| finite("threshold", bits))?;
        }
        Ok(())
    }
}

impl Thresholds {
    pub(super) fn check(&self) -> Result<(), String> {
        count("variants", self.variants.len(), THRESHOLDS_MAX)?;
        for variant in &self.variants {
            at_most("share_per_mille", variant.share_per_mille.into(), AUDIT_SHARE_MAX.into())?;
            if let ThresholdOrder::AtLeast { bits } = variant.threshold {
                finite("threshold", bits)?;
            }
        }
        Ok(())
    }
}

impl DriftAlarm {
    pub(super) fn check_all(alarms: &[Self]) -> Result<(), String> {
        count("alarms", alarms.len(), MODELS_MAX)
    }
}
