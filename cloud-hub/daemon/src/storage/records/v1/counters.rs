//! The records of device counters and of measurements.

use hub_core::evidence::{Cell, Counted, Tally};
use serde::{Deserialize, Serialize};
use store::Record;
use types::histogram::{BUCKETS, Histogram};
use types::{EngineName, VariantName, Version};

use crate::storage::values::{MeasuredVariant, StoredCell, StoredMeasurement};

/// Counters of one version on one device in one hour, under `<model>/<device>/<hour>/<version>`. Counts of 0 are left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CounterCell {
    version: Version,
    from_unix_s: u64,
    /// Last period in the cell: its start by the device's clock, and its number.
    last_from_unix_s: u64,
    last_sequence: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    kept: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    deferred: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    failed: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    crashed: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    audited: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    agreed: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    shadowed: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    shadow_agreed: u64,
    /// Latency buckets that are not empty, with their counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    latency: Vec<(u8, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
}

/// The newest measurement of a model on a device before a switch, under `<model>/<device>`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measurement {
    version: Version,
    at_unix_s: u64,
    variants: Vec<Variant>,
    #[serde(default)]
    active: Option<Variant>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Variant {
    version: Version,
    variant: VariantName,
    engine: EngineName,
    p50_us: u64,
    p95_us: u64,
    #[serde(default)]
    memory_bytes: Option<u64>,
    compared: u32,
    agreed: u32,
    #[serde(default)]
    refused: Option<String>,
}

/// Returns whether a count is left out.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Record for CounterCell {
    type Value = StoredCell;
    const TABLE: &'static str = "counters";

    fn from_value(value: &StoredCell) -> Self {
        let StoredCell { cell: Cell { version, from_unix_s, tally }, last } = value;
        let Tally { kept, deferred, failed, crashed, audited, agreed, shadowed, shadow_agreed, latency, memory_bytes } =
            tally.clone();
        let latency = latency.counts().into_iter().enumerate().filter(|(_bucket, count)| *count > 0);
        Self {
            version: *version,
            from_unix_s: *from_unix_s,
            last_from_unix_s: last.from_unix_s,
            last_sequence: last.sequence,
            kept,
            deferred,
            failed,
            crashed,
            audited,
            agreed,
            shadowed,
            shadow_agreed,
            latency: latency.filter_map(|(bucket, count)| Some((u8::try_from(bucket).ok()?, count))).collect(),
            memory_bytes,
        }
    }

    fn into_value(self) -> Result<StoredCell, String> {
        let buckets = self.latency.iter().map(|(bucket, _count)| usize::from(*bucket) + 1).max().unwrap_or(0);
        if buckets > BUCKETS {
            return Err(format!("latency bucket {} of {BUCKETS}", buckets - 1));
        }
        if self.agreed > self.audited || self.shadow_agreed > self.shadowed {
            return Err("more answers agreed than were compared".to_owned());
        }
        let mut latency = vec![0_u64; buckets];
        for (bucket, count) in &self.latency {
            if let Some(sum) = latency.get_mut(usize::from(*bucket)) {
                *sum = sum.saturating_add(*count);
            }
        }
        let tally = Tally {
            kept: self.kept,
            deferred: self.deferred,
            failed: self.failed,
            crashed: self.crashed,
            audited: self.audited,
            agreed: self.agreed,
            shadowed: self.shadowed,
            shadow_agreed: self.shadow_agreed,
            latency: Histogram::of(&latency),
            memory_bytes: self.memory_bytes,
        };
        let last = Counted { from_unix_s: self.last_from_unix_s, sequence: self.last_sequence };
        Ok(StoredCell { cell: Cell { version: self.version, from_unix_s: self.from_unix_s, tally }, last })
    }
}

impl Record for Measurement {
    type Value = StoredMeasurement;
    const TABLE: &'static str = "measured";

    fn from_value(value: &StoredMeasurement) -> Self {
        let StoredMeasurement { version, at_unix_s, variants, active } = value.clone();
        let variants = variants.into_iter().map(Variant::from).collect();
        Self { version, at_unix_s, variants, active: active.map(Variant::from) }
    }

    fn into_value(self) -> Result<StoredMeasurement, String> {
        let Self { version, at_unix_s, variants, active } = self;
        let variants = variants.into_iter().map(MeasuredVariant::from).collect();
        Ok(StoredMeasurement { version, at_unix_s, variants, active: active.map(MeasuredVariant::from) })
    }
}

impl From<MeasuredVariant> for Variant {
    fn from(value: MeasuredVariant) -> Self {
        let MeasuredVariant { version, variant, engine, p50_us, p95_us, memory_bytes, compared, agreed, refused } =
            value;
        Self { version, variant, engine, p50_us, p95_us, memory_bytes, compared, agreed, refused }
    }
}

impl From<Variant> for MeasuredVariant {
    fn from(stored: Variant) -> Self {
        let Variant { version, variant, engine, p50_us, p95_us, memory_bytes, compared, agreed, refused } = stored;
        Self { version, variant, engine, p50_us, p95_us, memory_bytes, compared, agreed, refused }
    }
}
