//! Counts of what a version of a model did, as devices make them and the hub judges them.

use std::collections::BTreeMap;

use crate::histogram::Histogram;

/// Counts of one version of a model on one device, or on several.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Requests that the device answered itself.
    pub kept: u64,
    /// Requests that it passed to the hub because its own answer was not confident.
    pub deferred: u64,
    /// Runs that ended in an error that was not the request's fault.
    pub failed: u64,
    /// Ends of the process that ran the model.
    pub crashed: u64,
    /// Kept answers that were compared with those of the full model.
    pub audited: u64,
    /// Of these, the answers that agreed.
    pub agreed: u64,
    /// Answers in the shadow of the serving version that were compared with its answers.
    pub shadowed: u64,
    /// Of these, the answers that agreed.
    pub shadow_agreed: u64,
    /// Runs by their duration.
    pub latency: Histogram,
    /// Largest memory of the session in bytes that was seen; `None` where it is not known.
    pub memory_bytes: Option<u64>,
}

impl Tally {
    /// Adds the counts of another tally of the same version.
    pub fn add(&mut self, other: &Self) {
        let sums = [
            (&mut self.kept, other.kept),
            (&mut self.deferred, other.deferred),
            (&mut self.failed, other.failed),
            (&mut self.crashed, other.crashed),
            (&mut self.audited, other.audited),
            (&mut self.agreed, other.agreed),
            (&mut self.shadowed, other.shadowed),
            (&mut self.shadow_agreed, other.shadow_agreed),
        ];
        for (sum, more) in sums {
            *sum = sum.saturating_add(more);
        }
        self.latency.add(&other.latency);
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
    }

    /// Returns the number of runs, with those that failed.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.kept.saturating_add(self.deferred).saturating_add(self.failed)
    }

    /// Returns the share of runs that failed; `None` without runs.
    #[must_use]
    pub fn error_rate(&self) -> Option<f64> {
        share(self.failed, self.runs())
    }

    /// Returns the share of answers that were left to the hub; `None` without answers.
    #[must_use]
    pub fn deferral_rate(&self) -> Option<f64> {
        share(self.deferred, self.kept.saturating_add(self.deferred))
    }

    /// Returns the share of audited answers that disagreed with the full model; `None` without audits.
    #[must_use]
    pub fn disagreement(&self) -> Option<f64> {
        share(self.audited.saturating_sub(self.agreed), self.audited)
    }

    /// Returns 1 if the process that runs the model ended on its own, otherwise 0; `None` if the device did nothing.
    #[must_use]
    pub fn has_crashed(&self) -> Option<f64> {
        let is_idle = self.runs() == 0 && self.crashed == 0;
        (!is_idle).then_some(if self.crashed > 0 { 1.0 } else { 0.0 })
    }
}

fn share(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| (part as f64 / of as f64).min(1.0))
}

/// Maximum number of places in [`AuditScores`]: 64 thresholds, and the scores below the last one.
pub const SCORE_PLACES_MAX: usize = 65;

/// Audits of one variant, counted by score.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditScores(BTreeMap<Option<u32>, Compared>);

/// Answers that were compared with the full model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compared {
    /// Answers that agree.
    pub agreed: u64,
    /// Answers that differ.
    pub differing: u64,
}

impl AuditScores {
    /// Counts an answer: `threshold` is the highest one of the variant's curve that the score reaches, `None` if it reaches none.
    pub fn count(&mut self, threshold: Option<f32>, agrees: bool) {
        let more = Compared { agreed: u64::from(agrees), differing: u64::from(!agrees) };
        self.add_at(threshold.map(f32::to_bits), more);
    }

    /// Adds the counts of other audits of the same variant.
    pub fn add(&mut self, other: &Self) {
        for (threshold, counts) in &other.0 {
            self.add_at(*threshold, *counts);
        }
    }

    /// Adds counts at a threshold, given by its bits. A place beyond [`SCORE_PLACES_MAX`] is not counted.
    pub fn add_at(&mut self, threshold_bits: Option<u32>, more: Compared) {
        if self.0.len() < SCORE_PLACES_MAX || self.0.contains_key(&threshold_bits) {
            let counts = self.0.entry(threshold_bits).or_default();
            counts.agreed = counts.agreed.saturating_add(more.agreed);
            counts.differing = counts.differing.saturating_add(more.differing);
        }
    }

    /// Returns the counts with the bits of their thresholds.
    pub fn places(&self) -> impl Iterator<Item = (Option<u32>, Compared)> + '_ {
        self.0.iter().map(|(threshold, counts)| (*threshold, *counts))
    }
}
