//! Looks at the fleet for every rollout that is under way, stores what changed, and carries out the steps.

use std::collections::HashSet;

use hub_core::rollout::{Event, Judged, Rollout, RolloutId, State, Step, Survey};
use store::{Batch, StoreError};
use types::DeviceId;

use super::{Rollouts, key, member_key};
use crate::clock;

/// Result of one look at the fleet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evaluated {
    /// Next time at which a look is due, in seconds of the Unix clock.
    pub next_unix_s: Option<u64>,
    /// Whether a look is due at once: something changed.
    pub is_moving: bool,
}

impl Rollouts {
    /// Looks at the fleet once for each rollout.
    ///
    /// # Cancel safety
    /// What was stored is stored; the rest is done by the next look.
    pub async fn evaluate(&self) -> Evaluated {
        let _one_at_a_time = self.writing.lock().await;
        let greeted = self.fleet.take_greeted();
        self.note_greeted(&greeted);
        let ids: Vec<RolloutId> = self.state().rollouts.keys().copied().collect();
        let mut evaluated = Evaluated::default();
        for id in ids {
            match self.look(id).await {
                Ok(one) => {
                    evaluated.is_moving |= one.is_moving;
                    evaluated.next_unix_s = [evaluated.next_unix_s, one.next_unix_s].into_iter().flatten().min();
                }
                Err(error) => {
                    tracing::error!(rollout = %id, error = telemetry::chain(&error), "a rollout was not looked at");
                }
            }
        }
        self.tell_greeted().await;
        evaluated
    }

    fn note_greeted(&self, greeted: &HashSet<DeviceId>) {
        let mut state = self.state();
        for device in greeted {
            state.rollouts.values_mut().for_each(|rollout| rollout.reconnected(device));
            state.untold.insert(device.clone());
        }
    }

    /// Looks at the fleet for one rollout.
    async fn look(&self, id: RolloutId) -> Result<Evaluated, StoreError> {
        let now = clock::unix_s();
        let (mut rollout, pins, is_superseded) = {
            let state = self.state();
            let Some(rollout) = state.rollouts.get(&id) else { return Ok(Evaluated::default()) };
            let later = state.rollouts.range((std::ops::Bound::Excluded(id), std::ops::Bound::Unbounded));
            let is_superseded = later.map(|(_id, later)| later).any(|later| supersedes(later, rollout));
            let is_over = matches!(rollout.state(), State::RolledBack { .. }) && is_superseded;
            if is_over || !is_watched(rollout.state()) {
                return Ok(Evaluated::default());
            }
            (rollout.clone(), state.pins_of(&rollout.spec().model), is_superseded)
        };
        let model = rollout.spec().model.clone();
        let current = self.registry.current(&model);
        let before = rollout.parts().clone();
        let pinned = |device: &DeviceId| pins.get(device).copied();
        let judged: Option<Judged> = self.judge(&rollout, &pins).await?;
        let steps = self
            .fleet
            .with_views(&model, pinned, |devices| {
                let survey = Survey { devices, current, is_superseded, judged: judged.as_ref() };
                rollout.handle(Event::Survey(&survey), now)
            })
            .await?
            .unwrap_or_default();
        let has_changed = before != *rollout.parts();
        if has_changed {
            self.keep(&mut rollout, Batch::new()).await?;
        }
        let (next, releases) = (rollout.poll_timeout(now), rollout.releases());
        log_changes(&before, &rollout);
        self.state().rollouts.insert(id, rollout);
        if has_changed {
            self.count();
        }
        if releases && !steps.is_empty() {
            self.release(id).await;
        }
        self.carry_out(id, steps).await;
        let is_moving =
            has_changed && self.state().rollouts.get(&id).is_some_and(|rollout| is_watched(rollout.state()));
        Ok(Evaluated { next_unix_s: next.map(|(at, _reason)| at), is_moving })
    }

    /// Stores a rollout with its changed members in one write, together with `batch`.
    pub(super) async fn keep(&self, rollout: &mut Rollout, batch: Batch) -> Result<(), StoreError> {
        let changed = rollout.take_changed();
        let batch = self.kept(rollout, &changed, batch)?;
        match self.rollouts.store().apply(batch).await {
            Ok(()) => Ok(()),
            Err(error) => {
                rollout.keep_changed(changed);
                Err(error)
            }
        }
    }

    /// Adds a rollout and its changed members to a batch.
    pub(super) fn kept(&self, rollout: &Rollout, changed: &[DeviceId], batch: Batch) -> Result<Batch, StoreError> {
        let id = rollout.id();
        let mut batch = self.rollouts.put_in(batch, &key(id), rollout.parts())?;
        for device in changed {
            if let Some(member) = rollout.parts().members.get(device) {
                batch = self.members.put_in(batch, &member_key(id, device), member)?;
            }
        }
        Ok(batch)
    }
}

/// Returns whether the fleet matters to a rollout in a state.
fn is_watched(state: &State) -> bool {
    match state {
        // Devices that slept through a rollback return when they connect.
        State::RolledBack { .. } => true,
        state => state.is_active(),
    }
}

/// Returns whether a later rollout has taken the place of an earlier one: a rollback of the earlier one is over then.
fn supersedes(later: &Rollout, earlier: &Rollout) -> bool {
    let is_same = later.spec().model == earlier.spec().model && later.spec().version >= earlier.spec().version;
    let brings = match later.state() {
        State::Aborted { .. } | State::RollingBack { .. } | State::RolledBack { .. } | State::Scheduled { .. } => false,
        State::Running(_)
        | State::Approval { .. }
        | State::Paused(_)
        | State::Promoting { .. }
        | State::Completed { .. } => true,
    };
    is_same && brings
}

/// Logs the decisions that a look has made.
fn log_changes(before: &hub_core::rollout::Parts, rollout: &Rollout) {
    let known = before.decisions.back();
    let fresh = rollout.parts().decisions.iter().rev().take_while(|decision| Some(*decision) != known);
    let fresh: Vec<_> = fresh.collect();
    for decision in fresh.into_iter().rev() {
        let (rollout, model) = (rollout.id(), &rollout.spec().model);
        tracing::info!(%rollout, %model, decision = decision.what, reason = decision.reason, "rollout");
    }
}

/// Returns the steps of one kind.
pub(super) fn offers(steps: &[Step]) -> Vec<DeviceId> {
    let offered = steps.iter().filter_map(|step| match step {
        Step::Offer { device } => Some(device.clone()),
        Step::Return { .. } | Step::Audit { .. } | Step::MakeCurrent | Step::Revert { .. } => None,
    });
    offered.collect()
}
