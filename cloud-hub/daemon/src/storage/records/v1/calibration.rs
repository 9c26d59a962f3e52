//! The record of a watch over the threshold of a variant on a group of devices.

use hub_core::calibration::{Bin, Force, Parts, Promise, Start, Watch};
use serde::{Deserialize, Serialize};
use store::Record;
use types::{Digest, ModelName, VariantName, Version};

use crate::storage::values::{CalibrationChange, CalibrationRecord};

/// Watch over a variant on a group of devices, under `<model>/<version>/<variant>/<group>`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Calibration {
    model: ModelName,
    version: Version,
    variant: VariantName,
    digest: Digest,
    group: String,
    alpha: f64,
    delta: f64,
    /// Thresholds, the strictest first; the last one is the author's.
    grid: Vec<f32>,
    threshold: Threshold,
    #[serde(default)]
    refits: u32,
    #[serde(default)]
    watches: u32,
    #[serde(default)]
    audits: u64,
    #[serde(default)]
    wrong: u64,
    /// Number, audits and wrong answers of each starting point.
    #[serde(default)]
    starts: Vec<(u64, u64, u64)>,
    #[serde(default)]
    started: u64,
    /// Agreeing and differing answers of each place.
    #[serde(default)]
    bins: Vec<(u64, u64)>,
    #[serde(default)]
    changes: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_change: Option<LastChange>,
}

/// Threshold in force.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Threshold {
    Author,
    Nothing,
    AtLeast(f32),
}

/// The last change of the threshold.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LastChange {
    at_unix_s: u64,
    what: String,
}

impl Record for Calibration {
    type Value = CalibrationRecord;
    const TABLE: &'static str = "calibration";

    fn from_value(value: &CalibrationRecord) -> Self {
        let (promise, parts) = (value.watch.promise(), value.watch.parts());
        Self {
            model: value.model.clone(),
            version: value.version,
            variant: value.variant.clone(),
            digest: value.digest,
            group: value.group.clone(),
            alpha: promise.alpha,
            delta: promise.delta,
            grid: value.watch.grid().to_vec(),
            threshold: match parts.force {
                Force::Author => Threshold::Author,
                Force::Nothing => Threshold::Nothing,
                Force::At(at) => Threshold::AtLeast(at),
            },
            refits: parts.refits,
            watches: parts.watches,
            audits: parts.audits,
            wrong: parts.wrong,
            starts: parts.starts.iter().map(|start| (start.number, start.audits, start.wrong)).collect(),
            started: parts.started,
            bins: parts.bins.iter().map(|bin| (bin.agreed, bin.differing)).collect(),
            changes: value.changes,
            last_change: value
                .last_change
                .as_ref()
                .map(|last| LastChange { at_unix_s: last.at_unix_s, what: last.what.clone() }),
        }
    }

    fn into_value(self) -> Result<CalibrationRecord, String> {
        let starts = self.starts.into_iter().map(|(number, audits, wrong)| Start { number, audits, wrong });
        let parts = Parts {
            force: match self.threshold {
                Threshold::Author => Force::Author,
                Threshold::Nothing => Force::Nothing,
                Threshold::AtLeast(at) => Force::At(at),
            },
            refits: self.refits,
            watches: self.watches,
            audits: self.audits,
            wrong: self.wrong,
            starts: starts.collect(),
            started: self.started,
            bins: self.bins.into_iter().map(|(agreed, differing)| Bin { agreed, differing }).collect(),
        };
        let promise = Promise { alpha: self.alpha, delta: self.delta };
        let watch = Watch::restored(promise, self.grid, parts);
        Ok(CalibrationRecord {
            model: self.model,
            version: self.version,
            variant: self.variant,
            digest: self.digest,
            group: self.group,
            watch: watch.ok_or_else(|| "thresholds, promise and counts do not fit together".to_owned())?,
            changes: self.changes,
            last_change: self.last_change.map(|LastChange { at_unix_s, what }| CalibrationChange { at_unix_s, what }),
        })
    }
}
