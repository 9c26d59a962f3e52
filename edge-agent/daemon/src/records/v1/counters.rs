//! Records of counters that wait for the hub.

use edge_core::counters::{AuditScores, Compared, Histogram, Period, Tally};
use serde::{Deserialize, Serialize};
use store::Record;
use types::{ModelName, VariantName, Version};

/// Counts of one period, under its number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CounterPeriod {
    sequence: u64,
    from_unix_s: u64,
    seconds: u32,
    tallies: Vec<VersionTally>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    scores: Vec<VariantScores>,
}

/// Audits of one variant by score.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct VariantScores {
    model: ModelName,
    version: Version,
    variant: VariantName,
    /// Bits of a threshold or none, answers that agree, answers that differ.
    places: Vec<(Option<u32>, u64, u64)>,
}

/// Counts of one version in a period.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct VersionTally {
    model: ModelName,
    version: Version,
    #[serde(default)]
    kept: u64,
    #[serde(default)]
    deferred: u64,
    #[serde(default)]
    failed: u64,
    #[serde(default)]
    crashed: u64,
    #[serde(default)]
    audited: u64,
    #[serde(default)]
    agreed: u64,
    #[serde(default)]
    shadowed: u64,
    #[serde(default)]
    shadow_agreed: u64,
    #[serde(default)]
    latency: Vec<u64>,
    #[serde(default)]
    memory_bytes: Option<u64>,
}

impl Record for CounterPeriod {
    type Value = Period;
    const TABLE: &'static str = "counters";

    fn from_value(value: &Self::Value) -> Self {
        let Period { sequence, from_unix_s, seconds, tallies, scores } = value;
        let tally = |((model, version), tally): (&(ModelName, Version), &Tally)| VersionTally {
            model: model.clone(),
            version: *version,
            kept: tally.kept,
            deferred: tally.deferred,
            failed: tally.failed,
            crashed: tally.crashed,
            audited: tally.audited,
            agreed: tally.agreed,
            shadowed: tally.shadowed,
            shadow_agreed: tally.shadow_agreed,
            latency: tally.latency.counts(),
            memory_bytes: tally.memory_bytes,
        };
        let tallies = tallies.iter().map(tally).collect();
        let scores = scores.iter().map(|((model, version, variant), scores)| VariantScores {
            model: model.clone(),
            version: *version,
            variant: variant.clone(),
            places: scores.places().map(|(place, counts)| (place, counts.agreed, counts.differing)).collect(),
        });
        let scores = scores.collect();
        Self { sequence: *sequence, from_unix_s: *from_unix_s, seconds: *seconds, tallies, scores }
    }

    fn into_value(self) -> Result<Self::Value, String> {
        let Self { sequence, from_unix_s, seconds, tallies, scores } = self;
        let tally = |tally: VersionTally| {
            let counts = Tally {
                kept: tally.kept,
                deferred: tally.deferred,
                failed: tally.failed,
                crashed: tally.crashed,
                audited: tally.audited,
                agreed: tally.agreed,
                shadowed: tally.shadowed,
                shadow_agreed: tally.shadow_agreed,
                latency: Histogram::of(&tally.latency),
                memory_bytes: tally.memory_bytes,
            };
            ((tally.model, tally.version), counts)
        };
        let scores = scores.into_iter().map(|VariantScores { model, version, variant, places }| {
            let mut scores = AuditScores::default();
            for (place, agreed, differing) in places {
                scores.add_at(place, Compared { agreed, differing });
            }
            ((model, version, variant), scores)
        });
        let scores = scores.collect();
        Ok(Period { sequence, from_unix_s, seconds, tallies: tallies.into_iter().map(tally).collect(), scores })
    }
}
