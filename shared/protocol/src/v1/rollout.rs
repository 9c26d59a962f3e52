//! Messages of a rollout: ways back, pins, audits and assigned models from the hub; counters and measurements from the
//! device.
//!
//! A hub sends these requests only to devices whose `Hello` has the feature [`super::feature::ROLLOUTS`]; a device sends
//! counters and measurements only to hubs whose `Welcome` has [`super::feature::MODEL_COUNTERS`].

use serde::{Deserialize, Serialize};
use types::histogram::BUCKETS;
use types::{EngineName, ModelName, VariantName, Version};

use super::hello::MODELS_MAX;
use super::{at_most, count, text};
use crate::wire;

/// Request to serve an earlier version again, in place of one that behaves badly.
///
/// The device does so only if its signed metadata lists the earlier version and its trust floor allows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Return {
    /// Name of the model.
    pub model: ModelName,
    /// Version to leave. The device ignores the request when it neither serves nor installs this version.
    pub from: Version,
    /// Version to serve again.
    pub to: Version,
    /// Reason for the log and the report.
    pub reason: String,
}

/// Request to keep one version of a model until the next such request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Name of the model.
    pub model: ModelName,
    /// Version to keep; `None` ends the pin.
    pub version: Option<Version>,
}

/// Request to send a share of the kept answers' inputs to the hub too, and to count how often both answers agree.
///
/// The device takes at most the share that its owner allows, and none for requests whose policy keeps them on the device.
/// It ends with the connection: the hub asks again over the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Name of the model.
    pub model: ModelName,
    /// Version whose answers are audited.
    pub version: Version,
    /// Share of the kept answers in thousandths, at most 1000; 0 ends the audit.
    pub share_per_mille: u16,
}

/// Models that the hub assigns to the device beside those of its configuration, in place of an earlier list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// Names of the models, at most [`ASSIGNED_MAX`].
    pub models: Vec<ModelName>,
}

/// Maximum number of models in [`Assigned`]: their names fill half of a small message.
pub const ASSIGNED_MAX: usize = 128;

/// Maximum share of an [`Audit`] in thousandths.
pub const AUDIT_SHARE_MAX: u16 = 1000;

/// Maximum number of [`ModelCounters`] in one message: one period of two versions of every model.
pub const COUNTERS_MAX: usize = 2 * MODELS_MAX;

/// What one version of a model did on a device during one period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCounters {
    /// Name of the model.
    pub model: ModelName,
    /// Version that is counted.
    pub version: Version,
    /// Number of the period on this device. A hub that has counted it drops a repeat.
    pub sequence: u64,
    /// Start of the period in seconds since 1970, by the device's clock.
    pub from_unix_s: u64,
    /// Length of the period in seconds.
    pub seconds: u32,
    /// Requests that the device answered itself.
    pub kept: u64,
    /// Requests that the device passed to the hub because its own answer was not confident.
    pub deferred: u64,
    /// Runs that ended in an error that was not the request's fault.
    pub failed: u64,
    /// Ends of the process that ran the model.
    pub crashed: u64,
    /// Kept answers that were compared with those of the full model.
    pub audited: u64,
    /// Of these, the answers that agreed.
    pub agreed: u64,
    /// Answers of this version, not yet serving, that were compared with those of the serving version.
    pub shadowed: u64,
    /// Of these, the answers that agreed.
    pub shadow_agreed: u64,
    /// Runs by their duration, in the buckets of [`types::histogram`]; buckets at the end that are empty are left out.
    pub latency: Vec<u32>,
    /// Memory of the version's session in bytes, where the device knows it.
    pub memory_bytes: Option<u64>,
}

impl ModelCounters {
    fn check(&self) -> Result<(), String> {
        count("latency", self.latency.len(), BUCKETS)?;
        at_most("agreed", self.agreed, self.audited)?;
        at_most("shadow_agreed", self.shadow_agreed, self.shadowed)
    }

    pub(super) fn check_all(counters: &[Self]) -> Result<(), String> {
        count("counters", counters.len(), COUNTERS_MAX)?;
        counters.iter().try_for_each(Self::check)
    }
}

/// Figures of a version that a device measured before it served, beside those of the version that served then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measurement {
    /// Name of the model.
    pub model: ModelName,
    /// Version that was measured.
    pub version: Version,
    /// Variants that were measured, the chosen one first.
    pub variants: Vec<VariantFigures>,
    /// The version that served, measured at the same time; `None` if none did.
    pub active: Option<VariantFigures>,
}

/// Figures of one variant on one engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariantFigures {
    /// Version of the model.
    pub version: Version,
    /// Name of the variant.
    pub variant: VariantName,
    /// Engine that ran it.
    #[serde(with = "wire::engine")]
    pub engine: EngineName,
    /// Median duration of a run in microseconds.
    pub p50_us: u64,
    /// Duration that 95 % of the runs do not exceed, in microseconds.
    pub p95_us: u64,
    /// Memory that the session took in bytes, where the device knows it.
    pub memory_bytes: Option<u64>,
    /// Golden inputs that were compared with the answers of the active version.
    pub compared: u32,
    /// Of these, the inputs with equal answers.
    pub agreed: u32,
    /// Reason for which the variant cannot serve; `None` if it can.
    pub refused: Option<String>,
}

/// Maximum number of variants in a [`Measurement`]: those of a bundle on two engines.
const VARIANTS_MAX: usize = 64;

impl Measurement {
    pub(super) fn check(&self) -> Result<(), String> {
        count("variants", self.variants.len(), VARIANTS_MAX)?;
        self.variants.iter().chain(&self.active).try_for_each(|figures| {
            at_most("agreed", figures.agreed.into(), figures.compared.into())?;
            figures.refused.as_deref().map_or(Ok(()), |refused| text("refused", refused))
        })
    }
}

impl Return {
    pub(super) fn check(&self) -> Result<(), String> {
        text("reason", &self.reason)
    }
}

impl Audit {
    pub(super) fn check(&self) -> Result<(), String> {
        at_most("share_per_mille", self.share_per_mille.into(), AUDIT_SHARE_MAX.into())
    }
}

impl Assigned {
    pub(super) fn check(&self) -> Result<(), String> {
        count("models", self.models.len(), ASSIGNED_MAX)
    }
}
