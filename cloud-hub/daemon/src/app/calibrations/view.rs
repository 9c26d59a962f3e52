//! Watches in the types of the API, and their reset by an operator.

use hub_core::audit;
use hub_core::calibration::{Force, Parts, Watch};
use store::{BATCH_OPERATIONS_MAX, Batch, StoreError};
use types::{ModelName, Place, VariantName, Version};

use super::{Calibrations, Key, in_words, stored_under, watch_of};
use crate::api::{CalibrationList, CalibrationReset, CalibrationResetDone, CalibrationView};
use crate::app::operators::Caller;
use crate::clock;
use crate::storage::values::CalibrationRecord;

/// Error of a call about calibrations.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// There is no such model.
    #[error("no model is called {0}")]
    UnknownModel(ModelName),
    /// No watch fits the version and group of a reset.
    #[error("no calibration of {0} fits: nothing was reset")]
    Nothing(ModelName),
    /// The store cannot be used.
    #[error("use the records of calibrations")]
    Store(#[from] StoreError),
}

impl Calibrations {
    /// Returns the watches of all models, and of each offered version what is not watched.
    #[must_use]
    pub fn list(&self) -> CalibrationList {
        let models: Vec<ModelName> = self.registry.snapshot().models().map(|(name, _model)| name.clone()).collect();
        let mut list = CalibrationList { calibrations: Vec::new(), notes: Vec::new() };
        for model in models {
            self.add(&mut list, &model);
        }
        list
    }

    /// Returns the watches of one model.
    ///
    /// # Errors
    /// When there is no such model.
    pub fn show(&self, model: &ModelName) -> Result<CalibrationList, CalibrationError> {
        if self.registry.snapshot().model(model).is_none() {
            return Err(CalibrationError::UnknownModel(model.clone()));
        }
        let mut list = CalibrationList { calibrations: Vec::new(), notes: Vec::new() };
        self.add(&mut list, model);
        Ok(list)
    }

    /// Returns a sentence about each group of devices that keeps nothing, and about each model with alarms of drift.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let state = self.state();
        let withdrawn = state.watches.values().filter(|record| record.watch.parts().force == Force::Nothing);
        let mut warnings: Vec<String> = withdrawn
            .map(|record| format!("{}: audits broke the promise, and no threshold is shown yet", super::object(record)))
            .collect();
        drop(state);
        warnings.extend(
            self.fleet.alarmed().into_iter().filter(|(model, _)| self.registry.current(model).is_some()).map(
                |(model, devices)| {
                    let devices =
                        if devices == 1 { "1 device reports".to_owned() } else { format!("{devices} devices report") };
                    format!("{model}: {devices} scores that have left the distribution of the calibration")
                },
            ),
        );
        warnings
    }

    fn add(&self, list: &mut CalibrationList, model: &ModelName) {
        let drifting = |version: Version| self.fleet.drifting(model, version);
        let state = self.state();
        let of_model = state.watches.values().filter(|record| record.model == *model);
        let watched: Vec<CalibrationView> = of_model.map(|record| view(record, drifting(record.version))).collect();
        drop(state);
        let offered = self.registry.current(model).and_then(|version| self.registry.manifest(model, version));
        for (manifest, variant) in offered.iter().flat_map(|one| one.variants.iter().map(move |variant| (one, variant)))
        {
            let version = manifest.version;
            let is_known = watched.iter().any(|view| view.version == version && view.variant == variant.name);
            if variant.runs_on != Place::Device || is_known {
                continue;
            }
            let name = &variant.name;
            list.notes.push(match (watch_of(variant), variant.threshold) {
                (Some(_watch), _) => format!("{model}/{version} {name}: no audit has arrived yet"),
                (None, Some(_)) => {
                    format!("{model}/{version} {name}: its threshold has no bound, so there is no promise to keep")
                }
                (None, None) => {
                    format!("{model}/{version} {name}: it is not calibrated, so policy cascade keeps nothing")
                }
            });
        }
        list.calibrations.extend(watched);
    }

    /// Begins watches anew with the author's threshold, as if no audit had arrived. Returns their number.
    ///
    /// # Errors
    /// When there is no such model, no watch fits, or the store fails; then nothing has changed.
    pub async fn reset(
        &self,
        by: &Caller,
        model: &ModelName,
        request: &CalibrationReset,
    ) -> Result<CalibrationResetDone, CalibrationError> {
        self.show(model)?;
        let _one_at_a_time = self.writing.lock().await;
        let fits = |key: &Key| {
            key.0 == *model
                && request.version.is_none_or(|version| version == key.1)
                && request.group.as_ref().is_none_or(|group| *group == key.3)
        };
        let keys: Vec<Key> = self.state().watches.keys().filter(|key| fits(key)).cloned().collect();
        if keys.is_empty() {
            return Err(CalibrationError::Nothing(model.clone()));
        }
        let without = |keys: &[Key]| {
            keys.iter().try_fold(Batch::new(), |batch, key| self.table.delete_in(batch, &stored_under(key)))
        };
        let (last, earlier) = keys.split_at(keys.len().min(BATCH_OPERATIONS_MAX / 2));
        for keys in earlier.chunks(BATCH_OPERATIONS_MAX) {
            self.table.store().apply(without(keys)?).await?;
        }
        let batch = without(last)?;
        let subject = |version: Option<Version>, group: &Option<String>| {
            let version = version.map(|version| format!("/{version}")).unwrap_or_default();
            let group = group.as_ref().map(|group| format!(" on {group}")).unwrap_or_default();
            format!("{model}{version}{group}")
        };
        let object = subject(request.version, &request.group);
        let change = audit::Change::new(clock::unix_ms(), &by.name, "calibration.reset", object);
        let change = change.states(None, Some(format!("{} begun anew", keys.len())));
        self.audit.commit(batch, change).await?;
        {
            let mut state = self.state();
            for key in &keys {
                state.watches.remove(key);
            }
        }
        self.count();
        self.changes.notify_one();
        let reset = u64::try_from(keys.len()).unwrap_or(u64::MAX);
        Ok(CalibrationResetDone { model: model.clone(), reset })
    }
}

fn view(record: &CalibrationRecord, drifting_devices: u64) -> CalibrationView {
    let CalibrationRecord { model, version, variant, group, watch, changes, last_change, .. } = record;
    let Parts { force, audits, wrong, refits, .. } = watch.parts();
    let interval = watch.interval();
    let state = match force {
        Force::Author => "author",
        Force::Nothing => "withdrawn",
        Force::At(_) => "refitted",
    };
    CalibrationView {
        model: model.clone(),
        version: *version,
        variant: VariantName::clone(variant),
        group: group.clone(),
        state: state.to_owned(),
        threshold: watch.threshold(),
        author_threshold: watch.grid().last().copied().unwrap_or_default(),
        alpha: watch.promise().alpha,
        confidence: 1.0 - watch.promise().delta,
        audits: *audits,
        wrong: *wrong,
        low: interval.map(|interval| interval.low),
        high: interval.map(|interval| interval.high),
        recorded: watch.recorded(),
        audits_needed: needed(watch),
        refits: *refits,
        changes: *changes,
        drifting_devices,
        last_change_unix_ms: last_change.as_ref().map(|last| last.at_unix_s.saturating_mul(1000)),
        last_change: last_change.as_ref().map(|last| last.what.clone()),
        meaning: in_words(*force),
    }
}

/// Returns the least number of audits after which a threshold can be shown, while there is none.
fn needed(watch: &Watch) -> Option<u64> {
    watch.threshold().is_none().then(|| watch.audits_needed())
}
