//! The threshold in force for what serves, and the share of its answers that is audited.

use std::sync::{Arc, PoisonError};

use edge_core::refit::{InForce, Source, in_force};
use edge_core::slots::Installed;

use super::{Model, Models, Serving};
use crate::thresholds::{OnRefit, RefitStatus, Thresholds};

impl Model {
    /// Returns the threshold in force for a version that serves: the author's, or one that the hub has refitted.
    #[must_use]
    pub fn in_force(&self, serving: &Serving) -> InForce {
        let author = serving.threshold();
        match self.table.on_refit {
            OnRefit::Accept => in_force(author, self.thresholds.order(&self.name, &serving.installed).0),
            OnRefit::Ignore => InForce { threshold: author, source: Source::Author },
        }
    }

    /// Returns the hub's threshold for a version that serves, for people; `None` while the author's is in force.
    #[must_use]
    pub fn refit_status(&self, serving: &Serving) -> Option<RefitStatus> {
        let order = self.thresholds.order(&self.name, &serving.installed);
        RefitStatus::of(serving.threshold(), order, self.table.on_refit)
    }

    /// Shows the state of the threshold in the metrics.
    pub(super) fn show_threshold(&self, serving: Option<&Serving>) {
        let source = serving.map(|serving| self.in_force(serving).source);
        for (name, state) in
            [("author", Source::Author), ("refitted", Source::Refitted), ("withdrawn", Source::Withdrawn)]
        {
            telemetry::metrics::threshold_state(self.name.as_str(), name, source == Some(state));
        }
    }

    /// Returns the share in thousandths of the answers of what serves that the hub wants audited, for a rollout or for its threshold.
    #[must_use]
    pub fn audit_per_mille(&self, installed: &Installed) -> u16 {
        let audit = *self.audit.read().unwrap_or_else(PoisonError::into_inner);
        let of_rollout = audit.filter(|(audited, _share)| *audited == installed.version).map_or(0, |(_, share)| share);
        of_rollout.max(self.thresholds.share_per_mille(&self.name, installed))
    }
}

impl Models {
    /// Returns the thresholds of the hub.
    #[must_use]
    pub fn thresholds(&self) -> &Arc<Thresholds> {
        &self.thresholds
    }

    /// Shows the states of all thresholds in the metrics, after a new list of the hub.
    pub fn show_thresholds(&self) {
        self.iter().for_each(|model| model.show_threshold(model.serving().as_deref()));
    }
}
