//! Creates rollouts and acts on them for operators. One audit event for each change, in the same write as the change.

use std::path::Path;

use hub_core::audit::Change;
use hub_core::registry::RegistryError;
use hub_core::rollout::{
    Cohort, Event, OnBreach, Rollout, RolloutId, SiteLimit, Spec, State as RolloutState, Verb, spec, wave,
};
use store::Batch;
use types::{DeviceId, Version};

use super::gates;
use super::{ACTIVE_MAX, GATE_BYTES_MAX, REASON_BYTES_MAX, ROLLOUTS_MAX, RolloutError, Rollouts, key, member_key};
use crate::api::{RolloutAction, RolloutRequest, RolloutView};
use crate::app::operators::Caller;
use crate::app::rollouts::gate_file;
use crate::clock;

impl Rollouts {
    /// Creates a rollout, which begins at once or at its time.
    ///
    /// # Errors
    /// When the order has mistakes, another rollout may have the same devices, or the store fails; nothing has changed.
    pub async fn create(&self, by: &Caller, request: RolloutRequest) -> Result<RolloutView, RolloutError> {
        let spec = read(request)?;
        let _one_at_a_time = self.writing.lock().await;
        let base = self.registry.current(&spec.model);
        self.check_version(&spec, base)?;
        let id = self.check_others(&spec)?;
        self.registry.require_fresh()?;
        let now = clock::unix_s();
        let rollout = Rollout::new(id, spec, base, &by.name, now);
        let text = describe(rollout.spec());
        let change = Change::new(clock::unix_ms(), &by.name, "rollout.create", object(&rollout));
        let batch = self.kept(&rollout, &[], self.without_oldest(Batch::new())?)?;
        self.audit.commit(batch, change.states(None, Some(text))).await?;
        self.deltas.prepare(&rollout.spec().model, rollout.spec().version);
        {
            let mut state = self.state();
            state.last = id.0;
            state.rollouts.insert(id, rollout);
        }
        self.forget_oldest();
        self.count();
        self.fleet.note_change();
        self.view(id).await
    }

    /// Acts on a rollout.
    ///
    /// # Errors
    /// When there is no such rollout, its state does not allow the action, or the store fails; nothing has changed.
    pub async fn act(&self, by: &Caller, name: &str, request: &RolloutAction) -> Result<RolloutView, RolloutError> {
        let actions = || Verb::ALL.map(Verb::as_str).join(", ");
        let verb = Verb::named(&request.action)
            .ok_or_else(|| RolloutError::Text(format!("{:?} is no action: use {}", request.action, actions())))?;
        let reason = one_line(&request.reason)?;
        let _one_at_a_time = self.writing.lock().await;
        let unknown = || RolloutError::Unknown(name.chars().take(80).collect());
        let id = self.find(name).ok_or_else(unknown)?;
        let mut rollout = self.state().rollouts.get(&id).cloned().ok_or_else(unknown)?;
        self.check_verb(&rollout, verb)?;
        let before = rollout.state().to_string();
        rollout.handle(Event::Verb { verb, by: &by.name, reason }, clock::unix_s())?;
        let changed = rollout.take_changed();
        let change = Change::new(clock::unix_ms(), &by.name, &format!("rollout.{verb}"), object(&rollout));
        let change = change.states(Some(before), Some(rollout.state().to_string()));
        let batch = self.kept(&rollout, &changed, Batch::new())?;
        self.audit.commit(batch, change).await?;
        self.state().rollouts.insert(id, rollout);
        self.count();
        self.fleet.note_change();
        self.view(id).await
    }

    fn check_version(&self, spec: &Spec, current: Option<Version>) -> Result<(), RolloutError> {
        let Spec { model, version, .. } = spec;
        let registry = self.registry.snapshot();
        registry.resolve(model, Some(*version)).map_err(|error| RolloutError::Version(error.into()))?;
        match current {
            Some(current) if current >= *version => {
                Err(RolloutError::NotNewer { model: model.clone(), version: *version, current })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses a rollout whose devices another one may have. Returns the number of the new one.
    fn check_others(&self, spec: &Spec) -> Result<RolloutId, RolloutError> {
        let state = self.state();
        let active: Vec<&Rollout> = state.rollouts.values().filter(|rollout| rollout.state().is_active()).collect();
        if active.len() >= ACTIVE_MAX {
            return Err(RolloutError::TooMany);
        }
        let overlaps =
            |other: &&&Rollout| other.spec().model == spec.model && other.spec().cohort.may_overlap(&spec.cohort);
        match active.iter().find(overlaps) {
            Some(other) => Err(RolloutError::Overlap {
                other: other.id(),
                model: spec.model.clone(),
                cohort: other.spec().cohort.to_string(),
                state: other.state().as_str(),
            }),
            None => Ok(RolloutId(state.last.saturating_add(1))),
        }
    }

    /// Refuses what contradicts a later rollout of the model.
    fn check_verb(&self, rollout: &Rollout, verb: Verb) -> Result<(), RolloutError> {
        if verb != Verb::RollBack {
            return Ok(());
        }
        let state = self.state();
        let spec = rollout.spec();
        let later = state.rollouts.values().rev().take_while(|other| other.id() > rollout.id());
        let is_in_the_way = |other: &&Rollout| {
            let is_over = matches!(other.state(), RolloutState::Aborted { .. } | RolloutState::RolledBack { .. });
            other.spec().model == spec.model && !is_over && other.spec().cohort.may_overlap(&spec.cohort)
        };
        if let Some(later) = later.into_iter().find(is_in_the_way) {
            return Err(RolloutError::NotNewest { later: later.id() });
        }
        let has_way_back = rollout.parts().base.is_some();
        if has_way_back { Ok(()) } else { Err(RolloutError::NoWayBack(spec.model.clone())) }
    }

    /// Returns the oldest rollout that has ended, when there is one too many.
    fn oldest(&self) -> Option<(RolloutId, Vec<DeviceId>)> {
        let state = self.state();
        if state.rollouts.len() < ROLLOUTS_MAX {
            return None;
        }
        let oldest = state.rollouts.values().find(|rollout| !rollout.state().is_active())?;
        Some((oldest.id(), oldest.parts().members.keys().cloned().collect()))
    }

    fn without_oldest(&self, batch: Batch) -> Result<Batch, RolloutError> {
        match self.oldest() {
            Some((id, _members)) => Ok(self.rollouts.delete_in(batch, &key(id))?),
            None => Ok(batch),
        }
    }

    /// Removes the oldest rollout from memory and its members from the store. Members without a rollout do no harm.
    fn forget_oldest(&self) {
        let state = self.state();
        let is_too_many = state.rollouts.len() > ROLLOUTS_MAX;
        drop(state);
        if !is_too_many {
            return;
        }
        let Some((id, members)) = self.oldest() else { return };
        self.state().rollouts.remove(&id);
        let table = self.members.clone();
        self.notices.spawn(async move {
            for device in members {
                if let Err(error) = table.delete(&member_key(id, &device)).await {
                    tracing::warn!(error = telemetry::chain(&error), "a member of an old rollout stays in the store");
                }
            }
        });
    }
}

/// Reads an order; every mistake at once where they do not depend on each other.
fn read(request: RolloutRequest) -> Result<Spec, RolloutError> {
    let RolloutRequest { model, version, to, waves, gate, approve, start_unix_ms, max_per_site, on_breach, .. } =
        request;
    let gate = gate.filter(|gate| !gate.trim().is_empty());
    if gate.as_ref().is_some_and(|gate| gate.len() > GATE_BYTES_MAX) {
        return Err(RolloutError::Text(format!("the gate is longer than {GATE_BYTES_MAX} bytes")));
    }
    if let Some(text) = &gate {
        gate_file::parse(text, Path::new(gates::GATE_NAME)).map_err(RolloutError::Gate)?;
    }
    let max_per_site = max_per_site.as_deref().map(|text| {
        let malformed =
            || RolloutError::Text(format!("max-per-site {text:?} is not a label and a number, like site=2"));
        SiteLimit::parse(text).ok_or_else(malformed)
    });
    let on_breach = on_breach.as_deref().map(|text| {
        let unknown = || RolloutError::Text(format!("on-breach {text:?} is neither pause nor rollback"));
        OnBreach::named(text).ok_or_else(unknown)
    });
    let spec = Spec {
        model,
        version,
        cohort: Cohort::parse(&to)?,
        waves: wave::parse(waves.as_deref().unwrap_or(spec::WAVES_DEFAULT))?,
        gate,
        approve,
        start_unix_s: start_unix_ms.map(|start| start / 1000),
        max_per_site: max_per_site.transpose()?,
        on_breach: on_breach.transpose()?.unwrap_or_default(),
        patience_s: request.patience_s.unwrap_or(spec::PATIENCE_S_DEFAULT),
        silent_s: request.silent_after_s.unwrap_or(spec::SILENT_S_DEFAULT),
    };
    spec.check().map_err(RolloutError::Spec)?;
    Ok(spec)
}

fn one_line(reason: &str) -> Result<&str, RolloutError> {
    if reason.len() > REASON_BYTES_MAX || reason.chars().any(char::is_control) {
        return Err(RolloutError::Text(format!("a reason is at most {REASON_BYTES_MAX} bytes on one line")));
    }
    Ok(reason)
}

/// Returns the name of a rollout in the audit log.
fn object(rollout: &Rollout) -> String {
    let Spec { model, version, .. } = rollout.spec();
    format!("{} ({model}/{version})", rollout.id())
}

/// Returns an order for the audit log.
fn describe(spec: &Spec) -> String {
    let waves: Vec<String> = spec.waves.iter().map(ToString::to_string).collect();
    let approve = if spec.approve { ", each wave approved" } else { "" };
    format!("{} {} to {} in {}{approve}", spec.model, spec.version, spec.cohort, waves.join(","))
}

impl From<RegistryError> for RolloutError {
    fn from(error: RegistryError) -> Self {
        Self::Version(error.into())
    }
}
