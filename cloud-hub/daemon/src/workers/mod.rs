//! The hub's own answers: full models, loaded and ready, and who runs next.
//!
//! Fed by the gateway with requests and by the registry with versions; runs them through `engine`. Order and limits are
//! decided by [`hub_core::admission`] ([`pool`]); what may serve is decided by [`load`], and what devices may be offered
//! for a GPU by [`gpu`]. [`attempts`] remembers the loads that ended the hub.

pub mod attempts;
pub mod gpu;
pub mod host;
pub mod load;
pub mod pool;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use types::{ModelName, Reason, Version};

use crate::api::ReasonView;
use crate::config::InferenceTable;
use pool::Pool;

/// Every loaded version of every model.
#[derive(Debug)]
pub struct Workers {
    config: InferenceTable,
    pools: RwLock<BTreeMap<ModelName, BTreeMap<Version, Arc<Pool>>>>,
    /// Requests answered since the start, by model and the device's reason.
    answered: Mutex<BTreeMap<ModelName, BTreeMap<&'static str, u64>>>,
}

impl Workers {
    /// Creates a set without models.
    #[must_use]
    pub fn new(config: InferenceTable) -> Self {
        Self { config, pools: RwLock::default(), answered: Mutex::default() }
    }

    /// Lets a loaded version answer, and lets go of those that are too many: the newest
    /// `inference.versions_loaded` stay, and the current one in any case. What they still answer is answered.
    pub fn put(&self, pool: Pool, current: Option<Version>) {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        let versions = pools.entry(pool.model().clone()).or_default();
        versions.insert(pool.version(), Arc::new(pool));
        let keep: Vec<Version> =
            versions.keys().rev().copied().take(self.config.versions_loaded).chain(current).collect();
        versions.retain(|version, _pool| keep.contains(version));
        if let Some((version, pool)) = versions.last_key_value() {
            let version = u32::try_from(version.number()).unwrap_or(u32::MAX);
            telemetry::metrics::model_version(pool.model().as_str(), version);
        }
    }

    /// Lets go of a version that was withdrawn. What it still answers is answered.
    pub fn remove(&self, model: &ModelName, version: Version) {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(versions) = pools.get_mut(model) {
            versions.remove(&version);
        }
    }

    /// Returns the sessions for a request: the named version, else the current one, else (where that has no variant for the
    /// hub) the newest loaded one below it.
    #[must_use]
    pub fn pool(&self, model: &ModelName, asked: Option<Version>, current: Option<Version>) -> Option<Arc<Pool>> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        let versions = pools.get(model)?;
        match asked {
            Some(version) => versions.get(&version).cloned(),
            // A version that keeps ending its child process gives way to the one before it.
            None => {
                let mut newest_first = versions.range(..=current?).rev().map(|(_version, pool)| pool);
                let first = newest_first.clone().next();
                newest_first.find(|pool| pool.condemned().is_none()).or(first).cloned()
            }
        }
    }

    /// Counts an answer to a device. `model` must be the name of a known model.
    pub fn note_answered(&self, model: &ModelName, reason: Reason) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let count = answered.entry(model.clone()).or_default().entry(reason.as_str()).or_default();
        *count = count.saturating_add(1);
    }

    /// Number and share of answers to devices by their reason for asking, since the start.
    #[must_use]
    pub fn answered(&self, model: &ModelName) -> Vec<ReasonView> {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(of_model) = answered.get(model) else { return Vec::new() };
        let total = of_model.values().fold(0, |sum: u64, count| sum.saturating_add(*count));
        let view = |(reason, &requests): (&&'static str, &u64)| ReasonView {
            reason: (*reason).to_owned(),
            requests,
            share_percent: percent(requests, total),
        };
        of_model.iter().map(view).collect()
    }

    /// Returns whether a version is loaded.
    #[must_use]
    pub fn is_loaded(&self, model: &ModelName, version: Version) -> bool {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        pools.get(model).and_then(|versions| versions.get(&version)).is_some_and(|pool| pool.condemned().is_none())
    }

    /// Returns every loaded version.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Pool>> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        pools.values().flat_map(BTreeMap::values).cloned().collect()
    }

    /// Returns a sentence for each loaded version that is not run any more.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let sentence = |pool: Arc<Pool>| {
            let why = pool.condemned()?;
            Some(format!(
                "{}/{} is not run any more: {why}; push a version that is mended",
                pool.model(),
                pool.version()
            ))
        };
        self.all().into_iter().filter_map(sentence).collect()
    }

    /// Requests that wait, and requests that run.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        self.all().iter().map(|pool| pool.load()).fold((0, 0), |sum, load| (sum.0 + load.0, sum.1 + load.1))
    }
}

/// Returns the share of a count in a total, in percent.
#[expect(clippy::cast_precision_loss, reason = "a share of counts beyond 2^53 is as right as anybody can read")]
fn percent(count: u64, total: u64) -> f64 {
    if total == 0 { 0.0 } else { 100.0 * count as f64 / total as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_all_reasons_are_a_hundred_percent() {
        let workers = Workers::new(InferenceTable::default());
        let model: ModelName = "digits".parse().unwrap();
        assert_eq!(workers.answered(&model), Vec::new());
        for (reason, count) in [(Reason::LowConfidence, 6), (Reason::NoLocalModel, 2)] {
            (0..count).for_each(|_request| workers.note_answered(&model, reason));
        }
        let shares: Vec<_> =
            workers.answered(&model).into_iter().map(|view| (view.reason, view.requests, view.share_percent)).collect();
        assert_eq!(shares, [("low-confidence".to_owned(), 6, 75.0), ("no-local-model".to_owned(), 2, 25.0)]);
    }
}
