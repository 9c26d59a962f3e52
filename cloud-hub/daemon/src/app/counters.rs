//! Counters and measurements of devices: taken in, stored by the hour, and made into evidence and figures.
//!
//! Fed by the gateway ([`Counters::take`], [`Counters::measured`]) and by the upkeep job ([`Counters::sweep`]); read by
//! rollouts ([`Counters::evidence`]) and by operators ([`Counters::figures`]). Periods are acknowledged once they are
//! durable, and a repeated one is counted once. Memory and disk are bounded by the number of cells: [`CELLS_MAX`] in
//! total, [`CELLS_PER_DEVICE_MAX`] for one device; at the limit the oldest ones go first.

mod evidence;
mod figures;
mod sweep;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hub_core::evidence::{Cell, Counted, Tally, cell_of};
use protocol::v1::{Measurement, ModelCounters, VariantFigures};
use store::{Batch, Store, StoreError, Table};
use tokio::sync::Mutex;
use types::histogram::Histogram;
use types::{DeviceId, ModelName, Version};

use crate::app::registry::Registry;
use crate::clock;
use crate::records::v1;
use crate::storage::values::{MeasuredVariant, StoredCell, StoredMeasurement};

/// Maximum number of stored cells. A cell takes about 300 bytes of the store, so all of them take a quarter of it:
/// 600 busy devices for 7 days, or 10,000 for 10 hours.
pub const CELLS_MAX: usize = 100_000;

/// Maximum number of stored cells of one device: 12 models for 7 days.
pub const CELLS_PER_DEVICE_MAX: usize = 2_048;

/// Time in seconds after which a cell is removed; longer than the last window that a gate compares.
pub const RETENTION_S: u64 = 7 * 24 * 3600;

/// Maximum number of variants that are stored of a measurement, and of bytes of the reason of a refusal.
const VARIANTS_KEPT: usize = 16;
const REFUSAL_BYTES_MAX: usize = 256;

/// Locks among which devices are divided: those of one lock wait for each other's writes.
const SHARDS: usize = 64;

/// Counters of all devices.
#[derive(Debug)]
pub struct Counters {
    cells: Table<v1::CounterCell>,
    measurements: Table<v1::Measurement>,
    shards: Vec<Mutex<Shard>>,
    /// Number of stored cells.
    stored: AtomicUsize,
    sweeping: Mutex<()>,
}

/// Devices of one lock.
#[derive(Debug, Default)]
struct Shard {
    counted: HashMap<(DeviceId, ModelName, Version), Counted>,
    cells: HashMap<DeviceId, usize>,
}

/// Result of the intake of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Counted,
    Repeated,
    Refused,
}

impl Taken {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::Repeated => "repeated",
            Self::Refused => "refused",
        }
    }
}

impl Counters {
    /// Opens the counters in a store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let counters = Self {
            cells: Table::new(Arc::clone(&store)),
            measurements: Table::new(store),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            stored: AtomicUsize::new(0),
            sweeping: Mutex::new(()),
        };
        for (key, stored) in counters.cells.list().await?.records {
            let Some((model, device)) = owner(&key) else { continue };
            let mut shard = counters.shard(&device).lock().await;
            let counted = shard.counted.entry((device.clone(), model, stored.cell.version)).or_default();
            *counted = (*counted).max(stored.last);
            *shard.cells.entry(device).or_default() += 1;
            counters.stored.fetch_add(1, Ordering::Relaxed);
        }
        telemetry::metrics::counter_cells(counters.stored.load(Ordering::Relaxed));
        Ok(counters)
    }

    /// Counts the periods that a device has sent. `skew_s` is the hub's clock minus the device's, as of its greeting.
    /// Periods of versions that the hub does not have are ignored. Returns once the counts are durable.
    ///
    /// # Errors
    /// When the store fails; then nothing was counted, and the device sends the periods again.
    pub async fn take(
        &self,
        registry: &Registry,
        device: &DeviceId,
        periods: Vec<ModelCounters>,
        skew_s: i64,
    ) -> Result<(), StoreError> {
        self.take_with(registry, device, periods, skew_s, |batch, _counted| Ok(batch)).await
    }

    /// Counts periods as [`Counters::take`] does; `keep` gets the versions that are counted now and adds to the same write.
    ///
    /// # Errors
    /// As for [`Counters::take`], and those of `keep`.
    pub async fn take_with(
        &self,
        registry: &Registry,
        device: &DeviceId,
        periods: Vec<ModelCounters>,
        skew_s: i64,
        keep: impl FnOnce(Batch, &BTreeSet<(ModelName, Version)>) -> Result<Batch, StoreError> + Send,
    ) -> Result<(), StoreError> {
        if self.stored.load(Ordering::Relaxed) >= CELLS_MAX {
            self.sweep(clock::unix_s()).await?;
        }
        let mut shard = self.shard(device).lock().await;
        let mut work =
            Work { now: clock::unix_s(), skew_s, changed: HashMap::new(), counted: HashMap::new(), added: 0 };
        let mut accepted = BTreeSet::new();
        for period in periods {
            let subject = (period.model.clone(), period.version);
            let is_known = registry.manifest(&period.model, period.version).is_some();
            let taken = if is_known { self.add(&shard, &mut work, device, period).await? } else { Taken::Refused };
            telemetry::metrics::counter_period(taken.as_str());
            if taken == Taken::Counted {
                accepted.insert(subject);
            }
        }
        let mut batch = Batch::new();
        for (key, stored) in &work.changed {
            batch = self.cells.put_in(batch, key, stored)?;
        }
        let batch = keep(batch, &accepted)?;
        self.cells.store().apply(batch).await?;
        shard.counted.extend(work.counted);
        *shard.cells.entry(device.clone()).or_default() += work.added;
        self.stored.fetch_add(work.added, Ordering::Relaxed);
        telemetry::metrics::counter_cells(self.stored.load(Ordering::Relaxed));
        Ok(())
    }

    async fn add(
        &self,
        shard: &Shard,
        work: &mut Work,
        device: &DeviceId,
        period: ModelCounters,
    ) -> Result<Taken, StoreError> {
        let id = (device.clone(), period.model.clone(), period.version);
        let this = Counted { from_unix_s: period.from_unix_s, sequence: period.sequence };
        let last = work.counted.get(&id).or_else(|| shard.counted.get(&id));
        if last.is_some_and(|last| last.covers(this)) {
            return Ok(Taken::Repeated);
        }
        let from_unix_s = cell_of(period.from_unix_s, period.seconds, work.skew_s, work.now);
        if from_unix_s.saturating_add(RETENTION_S) < work.now {
            return Ok(Taken::Refused);
        }
        let key = key(&period.model, device, from_unix_s, period.version);
        let known = match work.changed.remove(&key) {
            Some(changed) => Some(changed),
            None => self.cells.get(&key).await?,
        };
        if known.is_none() {
            let cells = shard.cells.get(device).copied().unwrap_or_default() + work.added;
            if cells >= CELLS_PER_DEVICE_MAX {
                tracing::warn!(model = %period.model, cells, "counters of a device were refused: it has too many");
                return Ok(Taken::Refused);
            }
            work.added += 1;
        }
        let new = || Cell { version: period.version, from_unix_s, tally: Tally::default() };
        let mut stored = known.unwrap_or_else(|| StoredCell { cell: new(), last: this });
        stored.last = stored.last.max(this);
        stored.cell.tally.add(&tally(period));
        work.changed.insert(key, stored);
        work.counted.insert(id, this);
        Ok(Taken::Counted)
    }

    /// Stores a measurement of a device in place of its earlier one of the model. One of a version that the hub does not
    /// have is ignored.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn measured(
        &self,
        registry: &Registry,
        device: &DeviceId,
        measurement: Measurement,
    ) -> Result<(), StoreError> {
        let Measurement { model, version, variants, active } = measurement;
        if registry.manifest(&model, version).is_none() {
            return Ok(());
        }
        let variants = variants.into_iter().take(VARIANTS_KEPT).map(measured_variant).collect();
        let active = active.map(measured_variant);
        let stored = StoredMeasurement { version, at_unix_s: clock::unix_s(), variants, active };
        self.measurements.put(&format!("{model}/{device}"), &stored).await
    }

    /// Returns the stored cells of a model on a device, oldest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn cells(&self, model: &ModelName, device: &DeviceId) -> Result<Vec<Cell>, StoreError> {
        let listing = self.cells.list_under(&format!("{model}/{device}/")).await?;
        Ok(listing.records.into_iter().map(|(_key, stored)| stored.cell).collect())
    }

    fn shard(&self, device: &DeviceId) -> &Mutex<Shard> {
        let sum = device.as_str().bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        &self.shards[sum % SHARDS]
    }
}

/// Changes of one message.
struct Work {
    now: u64,
    skew_s: i64,
    changed: HashMap<String, StoredCell>,
    counted: HashMap<(DeviceId, ModelName, Version), Counted>,
    added: usize,
}

/// Returns the key of a cell. Hours have leading zeros, so that the cells of a device are listed in their order.
fn key(model: &ModelName, device: &DeviceId, from_unix_s: u64, version: Version) -> String {
    format!("{model}/{device}/{from_unix_s:012}/{version}")
}

/// Returns model and device of the key of a cell.
fn owner(key: &str) -> Option<(ModelName, DeviceId)> {
    let mut parts = key.split('/');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn tally(period: ModelCounters) -> Tally {
    Tally {
        kept: period.kept,
        deferred: period.deferred,
        failed: period.failed,
        crashed: period.crashed,
        audited: period.audited,
        agreed: period.agreed,
        shadowed: period.shadowed,
        shadow_agreed: period.shadow_agreed,
        latency: Histogram::of(&period.latency.into_iter().map(u64::from).collect::<Vec<_>>()),
        memory_bytes: period.memory_bytes,
    }
}

fn measured_variant(figures: VariantFigures) -> MeasuredVariant {
    let VariantFigures { version, variant, engine, p50_us, p95_us, memory_bytes, compared, agreed, refused } = figures;
    let refused = refused.map(|reason| {
        let reason = telemetry::escape_control(&reason).into_owned();
        reason.get(..reason.floor_char_boundary(REFUSAL_BYTES_MAX)).unwrap_or_default().to_owned()
    });
    MeasuredVariant { version, variant, engine, p50_us, p95_us, memory_bytes, compared, agreed, refused }
}
