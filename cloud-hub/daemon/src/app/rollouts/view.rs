//! Rollouts in the types of the API: state, devices, and decisions in words.

use hub_core::rollout::{DeviceView, Member, Rollout, RolloutId, Scope, Standing, State as RolloutState, Tally, wave};
use types::DeviceId;

use super::{RolloutError, Rollouts};
use crate::api::{
    DecisionView, RolloutCounts, RolloutDetail, RolloutDeviceView, RolloutExplanation, RolloutList, RolloutView,
};
use crate::clock;

/// Maximum number of devices that a rollout is shown with; those that serve the version are left out first.
const DEVICES_SHOWN: usize = 1000;

impl Rollouts {
    /// Returns every rollout, newest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(&self) -> Result<RolloutList, RolloutError> {
        let ids: Vec<RolloutId> = self.state().rollouts.keys().rev().copied().collect();
        let mut rollouts = Vec::new();
        for id in ids {
            rollouts.push(self.view(id).await?);
        }
        Ok(RolloutList { rollouts })
    }

    /// Returns one rollout with its devices.
    ///
    /// # Errors
    /// When there is no such rollout, or the store fails.
    pub async fn show(&self, name: &str) -> Result<RolloutDetail, RolloutError> {
        let id = self.find(name).ok_or_else(|| RolloutError::Unknown(name.chars().take(80).collect()))?;
        self.with(id, |rollout, devices, now| {
            let members = rollout.parts().members.iter();
            let mut shown: Vec<RolloutDeviceView> =
                members.map(|(device, member)| member_view(rollout, device, member, devices, now)).collect();
            shown.sort_by_key(|device| (device.state == Standing::Active.as_str(), device.wave));
            let left_out = shown.len().saturating_sub(DEVICES_SHOWN);
            shown.truncate(DEVICES_SHOWN);
            RolloutDetail {
                rollout: view(rollout, devices, now),
                devices: shown,
                devices_left_out: u64::try_from(left_out).unwrap_or(u64::MAX),
            }
        })
        .await
    }

    /// Explains a rollout, and the part of a device in it.
    ///
    /// # Errors
    /// When there is no such rollout or device, or the store fails.
    pub async fn explain(&self, name: &str, device: Option<&DeviceId>) -> Result<RolloutExplanation, RolloutError> {
        let id = self.find(name).ok_or_else(|| RolloutError::Unknown(name.chars().take(80).collect()))?;
        let explained = self.with(id, |rollout, devices, now| {
            let one = device.map(|id| {
                let view = find(devices, id).ok_or_else(|| RolloutError::UnknownDevice(id.clone()))?;
                Ok::<_, RolloutError>(device_words(rollout, view, now))
            });
            let mut words = tally(rollout, devices, now).words();
            words.extend(returning(rollout, devices, now));
            let decisions = rollout.parts().decisions.iter().map(|decision| DecisionView {
                at_unix_ms: decision.at_unix_s.saturating_mul(1000),
                what: decision.what.clone(),
                reason: decision.reason.clone(),
                evidence: decision.evidence.clone(),
            });
            let decisions = decisions.collect();
            Ok(RolloutExplanation {
                rollout: view(rollout, devices, now),
                now: words,
                device: one.transpose()?,
                decisions,
            })
        });
        explained.await?
    }

    pub(super) async fn view(&self, id: RolloutId) -> Result<RolloutView, RolloutError> {
        self.with(id, view).await
    }

    async fn with<R>(
        &self,
        id: RolloutId,
        call: impl FnOnce(&Rollout, &[DeviceView<'_>], u64) -> R,
    ) -> Result<R, RolloutError> {
        let (rollout, pins) = {
            let state = self.state();
            let rollout = state.rollouts.get(&id).cloned().ok_or_else(|| RolloutError::Unknown(id.to_string()))?;
            let pins = state.pins_of(&rollout.spec().model);
            (rollout, pins)
        };
        let model = rollout.spec().model.clone();
        let pinned = |device: &DeviceId| pins.get(device).copied();
        Ok(self.fleet.with_views(&model, pinned, |devices| call(&rollout, devices, clock::unix_s())).await?)
    }
}

fn tally(rollout: &Rollout, devices: &[DeviceView<'_>], now: u64) -> Tally {
    rollout.tally(devices, rollout.state().wave(), now)
}

fn find<'d, 'v>(devices: &'d [DeviceView<'v>], id: &DeviceId) -> Option<&'d DeviceView<'v>> {
    devices.binary_search_by(|device| device.id.cmp(id)).ok().and_then(|at| devices.get(at))
}

fn view(rollout: &Rollout, devices: &[DeviceView<'_>], now: u64) -> RolloutView {
    let (parts, spec) = (rollout.parts(), rollout.spec());
    let tally = tally(rollout, devices, now);
    let to_return = devices.iter().filter(|device| rollout.must_return(device, now)).count();
    RolloutView {
        rollout: parts.id.0,
        model: spec.model.clone(),
        version: spec.version,
        base: parts.base,
        to: spec.cohort.to_string(),
        waves: spec.waves.iter().map(ToString::to_string).collect(),
        state: parts.state.as_str().to_owned(),
        wave: parts.state.wave().map(|wave| wave + 1),
        reason: parts.state.reason().map(str::to_owned),
        next: next(rollout, &tally, now),
        gate: spec.gate.clone(),
        approve: spec.approve,
        max_per_site: spec.max_per_site.as_ref().map(|limit| format!("{}={}", limit.label, limit.devices)),
        on_breach: spec.on_breach.as_str().to_owned(),
        created_unix_ms: parts.created_unix_s.saturating_mul(1000),
        created_by: parts.created_by.clone(),
        devices: RolloutCounts {
            cohort: tally.cohort,
            admitted: tally.admitted,
            active: tally.active,
            working: tally.working,
            not_begun: tally.idle,
            pending: tally.away,
            failed: tally.failed.saturating_add(tally.excused),
            silent: tally.silent,
            to_return: u64::try_from(to_return).unwrap_or(u64::MAX),
        },
    }
}

/// Says what happens next.
fn next(rollout: &Rollout, tally: &Tally, now: u64) -> String {
    let id = rollout.id();
    let spec = rollout.spec();
    match rollout.state() {
        RolloutState::Scheduled { start_unix_s } => {
            format!("begins at {}", clock::utc(start_unix_s.saturating_mul(1000)))
        }
        RolloutState::Running(running) => match running.settled_unix_s {
            None if tally.waiting > 0 => format!("{} connected devices wait for their admission", tally.waiting),
            None if tally.working > 0 => format!("{} devices install the version", tally.working),
            None if tally.active == 0 && tally.admitted == 0 => "waits for a device of this wave to connect".to_owned(),
            None => "waits for more devices of this wave".to_owned(),
            Some(settled) => {
                let wave = spec.waves.get(running.wave);
                let until = settled.saturating_add(wave.map_or(0, |wave| wave.soak_s));
                match wave.map(|wave| &wave.scope) {
                    Some(_) if now < until => format!("soaks for {}", wave::duration(until - now)),
                    Some(Scope::Rate { .. }) => "admits further devices".to_owned(),
                    Some(Scope::Count(_) | Scope::Share(_) | Scope::Label { .. }) | None => {
                        "waits for the gate".to_owned()
                    }
                }
            }
        },
        RolloutState::Approval { wave, .. } => {
            let text = spec.waves.get(wave + 1).map(ToString::to_string).unwrap_or_default();
            format!("wave {} ({text}) waits for: cloud-hub rollout approve {id}", wave + 2)
        }
        RolloutState::Paused(_) => format!("cloud-hub rollout resume | retry | skip | rollback | abort {id}"),
        RolloutState::Promoting { .. } => "the version becomes the current one".to_owned(),
        RolloutState::RollingBack { .. } => "devices return to their earlier version".to_owned(),
        RolloutState::RolledBack { .. } => "devices that are away return when they connect".to_owned(),
        RolloutState::Completed { .. } => "devices that are away follow when they connect".to_owned(),
        RolloutState::Aborted { .. } => "nothing: devices keep what they have".to_owned(),
    }
}

/// Says how many devices are still to return, each with its reason.
fn returning(rollout: &Rollout, devices: &[DeviceView<'_>], now: u64) -> Vec<String> {
    let left = devices.iter().filter(|device| rollout.must_return(device, now));
    left.take(20)
        .map(|device| match (device.subject.is_online, device.speaks, rollout.target(device)) {
            (false, _, _) => format!("{}: to return, pending: {}", device.id, away(device)),
            (true, false, _) => format!("{}: cannot be asked to return, its agent is too old", device.id),
            (true, true, None) => format!("{}: has no earlier version to return to", device.id),
            (true, true, Some(to)) => format!("{}: is asked to return to version {to}", device.id),
        })
        .collect()
}

fn away(device: &DeviceView<'_>) -> String {
    match device.since_unix_s {
        0 => "it has never connected".to_owned(),
        since => format!("offline since {}", clock::utc(since.saturating_mul(1000))),
    }
}

fn device_words(rollout: &Rollout, device: &DeviceView<'_>, now: u64) -> String {
    let admission = rollout.admits(device);
    let standing = rollout.parts().members.get(device.id).map(|member| rollout.standing(member, Some(device), now));
    let standing = standing.map(|standing| format!("; {}", words(&standing, device))).unwrap_or_default();
    format!("{} {admission}{standing}", device.id)
}

fn words(standing: &Standing, device: &DeviceView<'_>) -> String {
    match standing {
        Standing::Active => "the version serves on it".to_owned(),
        Standing::Working => "it installs the version".to_owned(),
        Standing::Idle => "it was offered the version and has not begun".to_owned(),
        Standing::Away { .. } => format!("pending: {}", away(device)),
        Standing::Failed { reason } => format!("it failed: {reason}"),
        Standing::Silent { since_unix_s } => {
            format!("it began and was not heard of since {}", clock::utc(since_unix_s.saturating_mul(1000)))
        }
        Standing::Excused => "it failed before the last resume or retry".to_owned(),
        Standing::Gone => "it left the rollout: revoked, pinned, or on a later version".to_owned(),
    }
}

fn member_view(
    rollout: &Rollout,
    id: &DeviceId,
    member: &Member,
    devices: &[DeviceView<'_>],
    now: u64,
) -> RolloutDeviceView {
    let device = find(devices, id);
    let standing = rollout.standing(member, device, now);
    let is_back = matches!(rollout.state(), RolloutState::RollingBack { .. } | RolloutState::RolledBack { .. });
    let must_return = device.is_some_and(|device| rollout.must_return(device, now));
    let state = match (is_back, must_return, &standing) {
        (true, true, _) => "to-return",
        (true, false, Standing::Failed { .. } | Standing::Working | Standing::Excused) => "returned",
        (_, _, standing) => standing.as_str(),
    };
    let detail = match (&standing, device) {
        (Standing::Failed { reason }, _) => reason.clone(),
        (Standing::Away { .. }, Some(device)) => away(device),
        (_, Some(device)) if must_return && !device.subject.is_online => away(device),
        _ => String::new(),
    };
    let active = device.and_then(|device| device.status).and_then(|status| status.active.as_ref());
    RolloutDeviceView {
        device: id.clone(),
        wave: member.wave + 1,
        state: state.to_owned(),
        detail,
        serves: active.map(|active| active.version),
        admitted_unix_ms: member.admitted_unix_s.saturating_mul(1000),
    }
}
