//! Evidence of each request: counts of runs and answers by version, and the draw of audits.

use edge_core::agreement::agree;
use edge_core::audit::is_drawn;
use edge_core::refit::Source;
use edge_core::route::{LocalFailure, RequestInfo};
use engine::{InferError, Outcome};
use types::{InferenceResponse, NamedTensor, Place, PolicyMode, Reason};

use super::{Local, LocalFault, Walk};
use crate::audits::{Audit, ScoredAudit};
use crate::drift::OnDrift;
use crate::models::Serving;

impl Walk<'_> {
    /// Returns whether the answer to this request is audited if the device keeps it.
    pub(super) fn is_audited(&self, info: &RequestInfo) -> bool {
        let Some(serving) = self.serving.as_ref().filter(|_| self.limits.audits.is_some()) else { return false };
        let asked = self.model.audit_per_mille(&serving.installed);
        let allowed = info.policy.audit_share(self.limits.audit_share_max).per_mille();
        is_drawn(&info.policy, info.input_bytes, asked, allowed, &self.request.id)
    }

    /// Counts an answer, and queues its audit.
    pub(super) fn note_answer(&self, response: &InferenceResponse) {
        let Some(serving) = &self.serving else { return };
        let (model, version) = (self.model, serving.installed.version);
        match response.receipt.place {
            // The hub answers it later, so it counts as deferred and is not sent a second time.
            Place::Device if !response.receipt.is_final => {
                model.counters.count(&model.name, version, |tally| tally.deferred = tally.deferred.saturating_add(1));
            }
            Place::Device => {
                model.counters.count(&model.name, version, |tally| tally.kept = tally.kept.saturating_add(1));
                if let Some(shadow) = self.model.shadow() {
                    shadow.offer(&self.request.id, &self.request.inputs, &response.outputs);
                }
                if let Some(audits) = self.limits.audits.as_ref().filter(|_| self.is_drawn) {
                    audits.add(Audit {
                        model: model.clone(),
                        version,
                        policy: self.request.policy,
                        id: self.request.id.clone(),
                        inputs: self.request.inputs.clone(),
                        outputs: response.outputs.clone(),
                        rule: serving.compared(),
                        scored: self.scored(serving),
                    });
                }
            }
            Place::Hub if is_deferral(response.receipt.reason) => {
                model.counters.count(&model.name, version, |tally| tally.deferred = tally.deferred.saturating_add(1));
            }
            Place::Hub => {}
        }
    }

    /// Counts a deferred answer as an audit: the hub has answered anyway, and the device has its own answer. While nothing is kept
    /// every answer is counted, otherwise those that were drawn.
    pub(super) fn note_deferred(&self, local: Option<&Local>, of_hub: &[NamedTensor], reason: Reason) {
        let (Some(serving), Some(local), Some(audits)) = (&self.serving, local, &self.limits.audits) else { return };
        let keeps_nothing = self.threshold(serving).is_none();
        let is_counted = is_deferral(reason) && (keeps_nothing || self.is_drawn && audits.have_room());
        let Some(ScoredAudit { variant, reached }) = self.scored(serving).filter(|_| is_counted) else { return };
        if let Some(agrees) = agree(&serving.compared(), of_hub, &local.outputs) {
            let of = (&self.model.name, serving.installed.version, &variant);
            self.model.counters.count_score(of, reached, agrees);
        }
    }

    /// Returns the score of the device's answer for the watch over its threshold. Modes that leave out some of the device's answers are
    /// not counted.
    fn scored(&self, serving: &Serving) -> Option<ScoredAudit> {
        let is_watched = match self.request.policy.mode {
            PolicyMode::Cascade | PolicyMode::PreferDevice => true,
            PolicyMode::OnlyDevice | PolicyMode::PreferHub | PolicyMode::OnlyHub | PolicyMode::Hedge => false,
        };
        let reached = *self.reached.get().filter(|_| is_watched)?;
        Some(ScoredAudit { variant: serving.installed.variant.clone(), reached })
    }

    /// Returns the threshold in force: none while an alarm of drift stands, where the owner then asks the hub.
    pub(super) fn threshold(&self, serving: &Serving) -> Option<f32> {
        self.model.in_force(serving).threshold.filter(|_| !self.is_drifted(serving))
    }

    /// Returns whether an alarm of drift makes the threshold void. One that the hub refitted was shown for the inputs of the field.
    pub(super) fn is_drifted(&self, serving: &Serving) -> bool {
        let is_author = self.model.in_force(serving).source == Source::Author;
        self.model.table.on_drift == OnDrift::Defer && is_author && serving.drift.is_alarmed()
    }

    /// Returns whether the hub has withdrawn the threshold, and shown no other one.
    pub(super) fn is_withdrawn(&self, serving: &Serving) -> bool {
        self.model.in_force(serving).source == Source::Withdrawn
    }

    /// Adds the score of an answer to the watches over its version. A batch is left out: its score is that of its least sure row.
    pub(super) fn watch_score(&self, serving: &Serving, outputs: &[NamedTensor], score: Option<f32>) {
        let scored = serving.scored_output().and_then(|name| outputs.iter().find(|output| output.name == name));
        let is_single = scored.is_some_and(|output| matches!(output.tensor.shape(), [] | [_] | [1, ..]));
        if is_single && serving.grid.is_used() {
            self.reached.get_or_init(|| serving.grid.reached(score));
        }
        if let (Some(output), Some(score)) = (scored, score) {
            serving.drift.observe(&self.model.name, serving.installed.version, output, score);
        }
    }

    /// Counts a run that gave an answer.
    pub(super) fn note_run(&self, serving: &Serving, outcome: &Outcome) {
        serving.vitals.answered(outcome.compute);
        let version = serving.installed.version;
        self.model.counters.count(&self.model.name, version, |tally| tally.latency.count(outcome.compute));
    }

    /// Counts a run that failed, unless that was the request's fault or the device under the engine is gone.
    pub(super) fn note_failure(&self, serving: &Serving, error: &InferError, fault: &LocalFault) {
        let is_death = match fault.failure {
            LocalFailure::Crashed => true,
            LocalFailure::Failed if error.is_lost() => return,
            LocalFailure::Failed | LocalFailure::Quarantined => false,
            LocalFailure::Busy
            | LocalFailure::TooLate
            | LocalFailure::BadInput
            | LocalFailure::Refused
            | LocalFailure::NoModel => return,
        };
        if matches!(error, InferError::Cancelled | InferError::Stopped) {
            return;
        }
        serving.vitals.failed(is_death);
        self.model.counters.count(&self.model.name, serving.installed.version, |tally| {
            tally.failed = tally.failed.saturating_add(1);
            tally.crashed = tally.crashed.saturating_add(u64::from(is_death));
        });
    }
}

/// Returns whether the hub was asked because the device's own answer was not confident.
const fn is_deferral(reason: Reason) -> bool {
    edge_core::policy::is_escalation(reason)
}
