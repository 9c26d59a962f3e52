//! Figures of versions for operators, from the stored counters of the last day.

use std::collections::{BTreeMap, BTreeSet};

use hub_core::evidence::Tally;
use hub_core::stats::quantile;
use store::StoreError;
use types::{DeviceId, ModelName, Version};

use super::{Counters, owner};
use crate::api::{FiguresView, MeasuredView, ModelFigures, VariantFiguresView};
use crate::clock;
use crate::storage::values::{MeasuredVariant, StoredMeasurement};

/// Time in seconds that the figures cover.
const SHOWN_S: u64 = 24 * 3600;

/// Microseconds of a millisecond.
const US_PER_MS: f64 = 1000.0;

impl Counters {
    /// Returns the figures of each version of a model over the last day: of all devices, or of one.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn figures(&self, model: &ModelName, device: Option<&DeviceId>) -> Result<Vec<FiguresView>, StoreError> {
        let prefix = device.map_or_else(|| format!("{model}/"), |device| format!("{model}/{device}/"));
        let since = clock::unix_s().saturating_sub(SHOWN_S);
        let mut sums: BTreeMap<Version, (Tally, BTreeSet<DeviceId>)> = BTreeMap::new();
        for (key, stored) in self.cells.list_under(&prefix).await?.records {
            if stored.cell.from_unix_s < since {
                continue;
            }
            let (tally, devices) = sums.entry(stored.cell.version).or_default();
            tally.add(&stored.cell.tally);
            devices.extend(owner(&key).map(|(_model, device)| device));
        }
        Ok(sums.into_iter().rev().map(|(version, (tally, devices))| view(version, &tally, devices.len())).collect())
    }

    /// Returns the figures of each version of a model over the last day, and the newest measurement of each device.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn model_figures(&self, model: &ModelName) -> Result<ModelFigures, StoreError> {
        let versions = self.figures(model, None).await?;
        let stored = self.measurements.list_under(&format!("{model}/")).await?.records;
        let measured = stored.into_iter().filter_map(|(key, stored)| {
            let (_model, device) = owner(&key)?;
            Some(measured_view(device, stored))
        });
        Ok(ModelFigures { model: model.clone(), seconds: SHOWN_S, versions, measured: measured.collect() })
    }
}

fn view(version: Version, tally: &Tally, devices: usize) -> FiguresView {
    let quantile = |order: f64| {
        let bucket = quantile::observed(tally.latency.buckets(), order)?;
        Some(types::histogram::bound_us(bucket) / US_PER_MS)
    };
    FiguresView {
        version,
        devices: u64::try_from(devices).unwrap_or(u64::MAX),
        kept: tally.kept,
        deferred: tally.deferred,
        failed: tally.failed,
        crashed: tally.crashed,
        audited: tally.audited,
        agreed: tally.agreed,
        shadowed: tally.shadowed,
        shadow_agreed: tally.shadow_agreed,
        p50_ms_max: quantile(0.5),
        p95_ms_max: quantile(0.95),
        memory_bytes_max: tally.memory_bytes,
    }
}

fn measured_view(device: DeviceId, stored: StoredMeasurement) -> MeasuredView {
    let StoredMeasurement { version, at_unix_s, variants, active } = stored;
    MeasuredView {
        device,
        version,
        at_unix_ms: at_unix_s.saturating_mul(1000),
        variants: variants.into_iter().map(variant_view).collect(),
        active: active.map(variant_view),
    }
}

fn variant_view(measured: MeasuredVariant) -> VariantFiguresView {
    let MeasuredVariant { version, variant, engine, p50_us, p95_us, memory_bytes, compared, agreed, refused } =
        measured;
    let ms = |us: u64| us as f64 / US_PER_MS;
    VariantFiguresView {
        version,
        variant,
        engine,
        p50_ms: ms(p50_us),
        p95_ms: ms(p95_us),
        memory_bytes,
        compared,
        agreed,
        refused,
    }
}
