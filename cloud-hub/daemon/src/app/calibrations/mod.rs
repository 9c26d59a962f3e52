//! Thresholds that are kept valid in the field: audits of devices are taken in, and thresholds are sent to devices.
//!
//! [`hub_core::calibration`] decides. Fed by the gateway ([`Calibrations::take`]); the job [`crate::jobs::calibrations`] sends what has
//! changed ([`Calibrations::send`]); operators read it and reset it ([`view`]). There is one watch for each variant with a
//! promise and each group of devices; it begins with the first audit. A watch is stored with the counters whose audits it has taken,
//! so that each audit counts once.

mod send;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bundle::Variant;
use hub_core::audit;
use hub_core::calibration::{Change, Force, Promise, Watch};
use hub_core::fleet::ConnectionId;
use protocol::v1::{AuditScores, Evidence, VariantThreshold};
use store::{Batch, Store, StoreError, Table};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use types::{Calibration, DeviceId, ModelName, Place, VariantName, Version};

use crate::app::counters::Counters;
use crate::app::fleet::Fleet;
use crate::app::registry::Registry;
use crate::clock;
use crate::config::CalibrationTable;
use crate::records::v1;
use crate::storage::audit::AuditLog;
use crate::storage::values::{CalibrationChange, CalibrationRecord};

pub use view::CalibrationError;

/// Maximum number of watches; each takes about 3 KB of memory. Beyond it audits of further groups are not counted.
pub const WATCHES_MAX: usize = 4_096;

/// Name of the group of all devices, where the configuration names no label.
const ALL: &str = "all";

/// Actor of changes in the audit log: no person made them.
const ACTOR: &str = "(audits of devices)";

/// Subject of a watch: model, version, variant, group.
type Key = (ModelName, Version, VariantName, String);

/// Thresholds that are kept valid in the field.
#[derive(Debug)]
pub struct Calibrations {
    table: Table<v1::Calibration>,
    audit: AuditLog,
    fleet: Arc<Fleet>,
    registry: Arc<Registry>,
    config: CalibrationTable,
    state: Mutex<State>,
    /// Held by whoever changes a watch.
    writing: tokio::sync::Mutex<()>,
    /// Notified when thresholds may have to be sent.
    changes: Notify,
    /// Tracker of the messages in progress.
    notices: TaskTracker,
}

/// Parts that calibrations work with.
#[derive(Debug)]
pub struct Parts {
    /// Devices and their connections.
    pub fleet: Arc<Fleet>,
    /// Registry of models and versions, which has the promises.
    pub registry: Arc<Registry>,
    /// Section `[calibration]` of the configuration.
    pub config: CalibrationTable,
    /// Tracker of the messages in progress.
    pub notices: TaskTracker,
}

#[derive(Debug, Default)]
struct State {
    watches: BTreeMap<Key, CalibrationRecord>,
    /// List that was sent last over the connection of each device.
    sent: HashMap<DeviceId, (ConnectionId, Vec<VariantThreshold>)>,
}

impl Calibrations {
    /// Reads what is stored.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(store: Arc<dyn Store>, parts: Parts) -> Result<Self, StoreError> {
        let Parts { fleet, registry, config, notices } = parts;
        let (table, audit) = (Table::new(Arc::clone(&store)), AuditLog::new(store));
        let mut state = State::default();
        for (_key, record) in table.list().await?.records {
            state.watches.insert(key(&record), record);
        }
        let (state, writing, changes) = (Mutex::new(state), tokio::sync::Mutex::default(), Notify::new());
        let calibrations = Self { table, audit, fleet, registry, config, state, writing, changes, notices };
        calibrations.count();
        Ok(calibrations)
    }

    /// Counts the periods of a device and the scores of its audits. Returns once both are durable.
    ///
    /// # Errors
    /// When the store fails; then nothing was counted, and the device sends the periods again.
    pub async fn take(
        &self,
        counters: &Counters,
        device: &DeviceId,
        evidence: Evidence,
        skew_s: i64,
    ) -> Result<(), StoreError> {
        let Evidence { counters: periods, scores } = evidence;
        if scores.is_empty() {
            return counters.take(&self.registry, device, periods, skew_s).await;
        }
        let group = self.group_of(device).await?;
        let _one_at_a_time = self.writing.lock().await;
        let mut taken = Taken::default();
        let keep = |batch: Batch, counted: &BTreeSet<(ModelName, Version)>| {
            let scores = scores.iter().filter(|scores| counted.contains(&(scores.model.clone(), scores.version)));
            scores.into_iter().try_fold(batch, |batch, scores| self.observe(batch, &mut taken, scores, &group))
        };
        counters.take_with(&self.registry, device, periods, skew_s, keep).await?;
        self.state().watches.extend(taken.watches);
        let has_changed = !taken.changes.is_empty();
        for change in taken.changes {
            self.audit.record(change).await;
        }
        if has_changed {
            self.count();
            self.changes.notify_one();
        }
        Ok(())
    }

    /// Adds the audits of a variant to its watch.
    fn observe(&self, batch: Batch, taken: &mut Taken, scores: &AuditScores, group: &str) -> Result<Batch, StoreError> {
        let subject = (scores.model.clone(), scores.version, scores.variant.clone(), group.to_owned());
        let known = taken.watches.remove(&subject).or_else(|| self.state().watches.get(&subject).cloned());
        let Some(mut record) = known.or_else(|| self.begin(&subject)) else { return Ok(batch) };
        let mut block = record.watch.block();
        for bin in &scores.bins {
            let place = record.watch.place(bin.threshold_bits.map(f32::from_bits));
            if let Some(counts) = block.get_mut(place) {
                counts.agreed = counts.agreed.saturating_add(bin.agreed.into());
                counts.differing = counts.differing.saturating_add(bin.differing.into());
            }
        }
        let before = in_words(record.watch.parts().force);
        if let Some(change) = record.watch.observe(&block) {
            let what = describe(&change, record.watch.promise());
            tracing::warn!(model = %record.model, version = %record.version, variant = %record.variant, group, "{what}");
            record.changes = record.changes.saturating_add(1);
            record.last_change = Some(CalibrationChange { at_unix_s: clock::unix_s(), what: what.clone() });
            let event = audit::Change::new(clock::unix_ms(), ACTOR, "calibration.refit", object(&record));
            let after = format!("{}: {what}", in_words(record.watch.parts().force));
            taken.changes.push(event.states(Some(before), Some(after)));
        }
        let batch = self.table.put_in(batch, &stored_under(&subject), &record)?;
        taken.watches.insert(subject, record);
        Ok(batch)
    }

    /// Begins a watch; `None` for a variant without a promise, or if there are too many.
    fn begin(&self, subject: &Key) -> Option<CalibrationRecord> {
        let (model, version, variant, group) = subject;
        let manifest = self.registry.manifest(model, *version)?;
        let form = manifest.variant(variant)?;
        let watch = watch_of(form)?;
        if self.state().watches.len() >= WATCHES_MAX {
            tracing::warn!(%model, %version, group, max = WATCHES_MAX, "audits are not counted: too many watches");
            return None;
        }
        Some(CalibrationRecord {
            model: model.clone(),
            version: *version,
            variant: variant.clone(),
            digest: form.file.digest,
            group: group.clone(),
            watch,
            changes: 0,
            last_change: None,
        })
    }

    /// Returns the group of a device.
    async fn group_of(&self, device: &DeviceId) -> Result<String, StoreError> {
        let Some(label) = &self.config.group_by else { return Ok(ALL.to_owned()) };
        let mut value = None;
        self.fleet.with_subject(device, |subject| value = subject.labels.value(label).map(str::to_owned)).await?;
        Ok(group(label, value.as_deref()))
    }

    /// Removes the watches of versions that no device holds and that are not offered, if there are many.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn sweep(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.writing.lock().await;
        let keys: Vec<Key> = self.state().watches.keys().cloned().collect();
        if keys.len() < WATCHES_MAX / 2 {
            return Ok(());
        }
        for key in keys {
            let (model, version, ..) = &key;
            let is_offered = self.registry.current(model).is_some_and(|current| current == *version);
            if !is_offered && self.fleet.keepers(model, *version).is_empty() {
                self.table.delete(&stored_under(&key)).await?;
                self.state().watches.remove(&key);
            }
        }
        Ok(())
    }

    /// Counts the watches by state for the metrics.
    fn count(&self) {
        let state = self.state();
        for (name, is_in) in [
            ("author", (|force| force == Force::Author) as fn(Force) -> bool),
            ("refitted", |force| matches!(force, Force::At(_))),
            ("withdrawn", |force| force == Force::Nothing),
        ] {
            let count = state.watches.values().filter(|record| is_in(record.watch.parts().force)).count();
            telemetry::metrics::calibrations(name, u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches and audit events of one message.
#[derive(Default)]
struct Taken {
    watches: BTreeMap<Key, CalibrationRecord>,
    changes: Vec<audit::Change>,
}

/// Returns a new watch over a variant; `None` without a promise.
fn watch_of(variant: &Variant) -> Option<Watch> {
    let Calibration::Certified { alpha, confidence } = variant.guarantee() else { return None };
    let is_on_device = variant.runs_on == Place::Device;
    let promise = Promise { alpha: exact(alpha), delta: exact(1.0 - confidence) };
    is_on_device.then(|| Watch::new(promise, variant.score_grid())).flatten()
}

/// Returns a share of a manifest, which has at most six digits, as the number that was written.
fn exact(share: f32) -> f64 {
    const DIGITS: f64 = 1e6;
    (f64::from(share) * DIGITS).round() / DIGITS
}

/// Returns the group of a device by the value of a label.
fn group(label: &str, value: Option<&str>) -> String {
    value.map_or_else(|| format!("without {label}"), |value| format!("{label}={value}"))
}

fn key(record: &CalibrationRecord) -> Key {
    (record.model.clone(), record.version, record.variant.clone(), record.group.clone())
}

fn stored_under((model, version, variant, group): &Key) -> String {
    format!("{model}/{version}/{variant}/{group}")
}

/// Returns the name of a watch in the audit log.
fn object(record: &CalibrationRecord) -> String {
    format!("{}/{} {} on {}", record.model, record.version, record.variant, record.group)
}

/// Returns the name of a threshold in force.
fn in_words(force: Force) -> String {
    match force {
        Force::Author => "author's threshold".to_owned(),
        Force::Nothing => "nothing is kept".to_owned(),
        Force::At(at) => format!("threshold {at}"),
    }
}

/// Describes a change in one sentence.
fn describe(change: &Change, promise: Promise) -> String {
    let percent = 100.0 * promise.alpha;
    match change {
        Change::Broken { audits, wrong } => format!(
            "{wrong} of {audits} audits were kept and differ: the promise of at most {percent:.2} % is broken, so devices keep \
             nothing until audits show another threshold"
        ),
        Change::Shown { force, audits, kept, wrong } => format!(
            "{audits} audits show the promise of at most {percent:.2} % for {}: it keeps {kept} of them, and {wrong} differ",
            in_words(*force)
        ),
    }
}
