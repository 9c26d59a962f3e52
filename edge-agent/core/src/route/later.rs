//! Routes that leave the hub's answer for later: the request goes into the outbox, and the device's answer is provisional.

use types::policy::Offline;
use types::{Place, PolicyMode, Reason};

use super::{Failure, HubFailure, LocalState, Route, Step};
use crate::policy::withheld;

impl Route {
    /// Returns the device's answer now, for `reason`, and has the hub answer later, for the reason `wanted`.
    pub(super) fn answer_provisionally(&mut self, wanted: Reason, reason: Reason) -> Vec<Step> {
        let steps = self.answer(Place::Device, reason);
        queued(wanted, steps)
    }

    /// Fails, or has the hub answer later where it may.
    pub(super) fn fail_or_queue(&mut self, failure: Failure, wanted: Reason) -> Vec<Step> {
        let is_queued = failure.hub.is_some_and(|why| self.queues(why));
        let steps = self.fail(failure);
        if is_queued { queued(wanted, steps) } else { steps }
    }

    /// Returns whether the request waits for the hub after this failure.
    fn queues(&self, why: HubFailure) -> bool {
        let policy = &self.snapshot.info.policy;
        (policy.amends || policy.offline == Offline::Queue) && why.passes()
    }

    /// Returns the device's answer although the hub was wanted for the reason `wanted` and has failed for `why`.
    pub(super) fn answer_without(&mut self, wanted: Reason, why: HubFailure) -> Vec<Step> {
        if self.queues(why) {
            self.answer_provisionally(wanted, why.reason())
        } else {
            self.answer(Place::Device, why.reason())
        }
    }

    /// Returns whether the device answers at once although the policy prefers the hub, which answers later.
    pub(super) fn answers_first(&self) -> bool {
        self.amends() && self.mode() == PolicyMode::PreferHub
    }

    /// Returns the reason for which the hub is wanted before the device has tried.
    pub(super) fn wanted(&self) -> Reason {
        match (self.mode(), self.snapshot.info.local) {
            (PolicyMode::PreferDevice | PolicyMode::Cascade | PolicyMode::Hedge, LocalState::NoModel) => {
                if self.snapshot.is_downloading { Reason::Downloading } else { Reason::NoLocalModel }
            }
            (_, LocalState::NoModel | LocalState::Ready { .. }) => Reason::Policy,
        }
    }

    /// Returns whether the application wants the device's answer at once and the hub's later.
    fn amends(&self) -> bool {
        self.snapshot.info.policy.amends
    }

    /// Returns whether the hub may answer later what the application has got an answer for.
    pub(super) fn may_amend(&self, reason: Reason) -> bool {
        self.amends() && withheld(&self.snapshot, reason).is_none_or(|why| HubFailure::of_policy(why).passes())
    }
}

/// Puts the order to queue the request before the last step of a route.
fn queued(reason: Reason, mut steps: Vec<Step>) -> Vec<Step> {
    let at = steps.len().saturating_sub(1);
    steps.insert(at, Step::Queue { reason });
    steps
}
