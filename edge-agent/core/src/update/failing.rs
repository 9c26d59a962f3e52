//! Failures of jobs: a version is put off, or given up and left alone.

use std::time::Instant;

use types::Version;

use super::{FAILED_MAX, Failure, FailureKind, Hub, Outcome, RETRY, Stage, State, Step, Updater};

impl Updater {
    pub(super) fn unfit(&mut self, state: &State, detail: String, now: Instant, random: u64) -> Vec<Step> {
        self.job_failed(state, Failure { kind: FailureKind::Unfit, detail }, now, random)
    }

    pub(super) fn job_failed(&mut self, state: &State, mut failure: Failure, now: Instant, random: u64) -> Vec<Step> {
        let Some(target) = state.target() else { return Vec::new() };
        failure.shorten();
        if matches!(state, State::Recalling { .. }) && !self.is_abandoned {
            // Not listed any more, or not whole: the hub may have it.
            self.not_recalled = Some(target);
            return self.begin(target);
        }
        let is_moot = self.is_abandoned && failure.kind == FailureKind::Unfit;
        if !failure.kind.is_transient() && !is_moot {
            let mut steps = self.given_up(target, state.stage(), failure);
            steps.extend(self.take_over());
            return steps;
        }
        if self.is_abandoned || self.next.is_some() && self.orders.anchor() != Some(target) {
            return self.take_over();
        }
        let unload = state.is_loaded().then_some(Step::Unload { version: target });
        let mut steps: Vec<Step> = unload.into_iter().collect();
        steps.extend(self.put_off(target, state.stage(), failure, now, random));
        steps
    }

    /// Remembers a version as one to be left alone, and reports that.
    fn given_up(&mut self, target: Version, stage: Stage, failure: Failure) -> Vec<Step> {
        let mut steps = self.remember(target, failure.clone());
        steps.push(self.report(target, stage, Outcome::Rejected(failure)));
        steps.extend(self.stay(target));
        steps
    }

    pub(super) fn remember(&mut self, version: Version, failure: Failure) -> Vec<Step> {
        let mut steps = vec![Step::Remember { version, failure: failure.clone() }];
        self.failed.insert(version, failure);
        while self.failed.len() > FAILED_MAX {
            let lowest = self.failed.pop_first();
            steps.extend(lowest.map(|(version, _)| Step::Forget { version }));
        }
        steps
    }

    /// Puts a version off until the hub is back or the back-off is over.
    fn put_off(&mut self, target: Version, stage: Stage, failure: Failure, now: Instant, random: u64) -> Vec<Step> {
        if failure.kind == FailureKind::HubAway && self.hub == Hub::Away {
            self.state = State::Paused { target };
            return Vec::new();
        }
        // A hub that is back before its absence was noticed is tried again like a broken exchange.
        self.tries = self.tries.saturating_add(1);
        let until = now + RETRY.delay(self.tries, random);
        self.state = State::Waiting { target, until };
        let mut steps = Vec::new();
        if self.told != Some(failure.kind) {
            self.told = Some(failure.kind);
            steps.push(self.report(target, stage, Outcome::Retrying(failure)));
        }
        steps.push(Step::WaitUntil(until));
        steps
    }
}
