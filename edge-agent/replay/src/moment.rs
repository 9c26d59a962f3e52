//! The state that a request was decided in, and the policies that are held against each other: the one of then and the new one.

use std::time::{Duration, Instant};

use edge_core::policy::{Left, Quantiles, Snapshot, Surroundings};
use edge_core::route::{HubState, LocalFailure, LocalState, RequestInfo};
use types::policy::{Budget, HEDGE_AFTER, PolicyLayer, Privacy, PrivacyClass, RequestRules};
use types::{Policy, PolicyMode, Reason};

use crate::record::{Asked, Calibration, Request, hub_failure, local_failure, micros, reason};
use crate::samples::{Times, interpolate, positions};
use crate::walk::{Course, Work};

/// Layer of the policy that the new one replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaces {
    /// The owner's layer: the new policy is one of `agent.toml`.
    Owner,
    /// The author's layer: the new policy is one of `model.toml`.
    Author,
}

/// Policy to replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPolicy {
    /// Fields of the policy.
    pub layer: PolicyLayer,
    /// Layer that it replaces; the other ones stay as they were recorded.
    pub replaces: Replaces,
    /// Standing consent of the owner; `None` for the recorded one.
    pub consent: Option<bool>,
    /// Whether inputs never leave the device, as `models.<name>.device_only` says; `None` for the recorded state.
    pub device_only: Option<bool>,
}

/// Both policies of one request.
pub(crate) struct Policies {
    pub(crate) old: Policy,
    pub(crate) new: Policy,
}

/// Whether the device's answer counts as sure where its score is not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Assumed {
    Sure,
    Unsure,
}

impl Request {
    /// Returns the policy of then, and the one that the request would have under the new policy.
    pub(crate) fn policies(&self, new: &NewPolicy) -> Policies {
        let Some(moment) = &self.moment else {
            // An earlier agent recorded the resulting policy only: what it says counts as said by the request.
            let class = self.class();
            let asks_hub = class == PrivacyClass::Personal && self.hub.is_some();
            let rules = RequestRules {
                privacy: (class != PrivacyClass::Public).then_some(class),
                consent: asks_hub.then_some(true),
                ..RequestRules::default()
            };
            let owner = PolicyLayer::default();
            let (author, owner) = layers(None, &owner, new);
            let resolved = Policy::resolve(author, owner, new.consent.unwrap_or(false), None, &rules);
            return Policies { old: self.policy_of_then(class, asks_hub), new: restricted(resolved, new.device_only) };
        };
        let layer = |value: &Option<serde_json::Value>| {
            value.as_ref().and_then(|value| serde_json::from_value::<PolicyLayer>(value.clone()).ok())
        };
        let (author, owner) = (layer(&moment.author), layer(&moment.owner).unwrap_or_default());
        let mode = moment.asked.mode.as_deref().and_then(|mode| mode.parse().ok());
        let rules = moment.asked.rules();
        let old = Policy::resolve(author.as_ref(), &owner, moment.consent, mode, &rules);
        let (author, owner) = layers(author.as_ref(), &owner, new);
        let consent = new.consent.unwrap_or(moment.consent);
        let resolved = Policy::resolve(author, owner, consent, mode, &rules);
        let is_kept = Some(new.device_only.unwrap_or(moment.device_only));
        Policies { old: restricted(old, Some(moment.device_only)), new: restricted(resolved, is_kept) }
    }

    fn class(&self) -> PrivacyClass {
        match self.policy.class.as_str() {
            // The names of the first agents.
            "shared" => PrivacyClass::Public,
            "device-only" => PrivacyClass::NeverLeaves,
            other => other.parse().unwrap_or(PrivacyClass::NeverLeaves),
        }
    }

    /// Returns the policy of a record of an earlier agent.
    fn policy_of_then(&self, class: PrivacyClass, has_consent: bool) -> Policy {
        let preset = Policy::from(self.policy.mode.parse::<PolicyMode>().unwrap_or_default());
        let withheld = match class {
            PrivacyClass::Public => None,
            PrivacyClass::Personal => (!has_consent).then_some(Reason::NoConsent),
            PrivacyClass::NeverLeaves => Some(Reason::NeverLeaves),
        };
        Policy {
            hedge: preset.hedge.map(|_default| self.policy.hedge_us.map_or(HEDGE_AFTER, micros)),
            deadline: self.policy.deadline_us.map(micros),
            budget: Budget { hub_bytes: self.policy.hub_bytes_max, ..Budget::default() },
            class,
            withheld,
            ..restricted(preset, Some(class == PrivacyClass::NeverLeaves))
        }
    }

    /// Returns whether the record names a layer or a mode that only a later version reads.
    pub(crate) fn has_unread_layer(&self) -> bool {
        let Some(moment) = &self.moment else { return false };
        let unread = |value: &Option<serde_json::Value>| {
            value.as_ref().is_some_and(|value| serde_json::from_value::<PolicyLayer>(value.clone()).is_err())
        };
        let mode = moment.asked.mode.as_ref().is_some_and(|mode| mode.parse::<PolicyMode>().is_err());
        unread(&moment.author) || unread(&moment.owner) || mode
    }

    /// Returns whether the record says whether the link was metered.
    pub(crate) fn knows_link(&self) -> bool {
        self.moment.as_ref().is_some_and(|moment| moment.metered.is_some())
    }

    /// Returns the surroundings of then. What is not known counts as the agent counts it: the link as metered.
    pub(crate) fn surroundings(&self, at_unix_ms: u64) -> Surroundings {
        let utc = || u32::try_from(at_unix_ms / 1000 % 86_400).unwrap_or_default();
        let moment = self.moment.as_deref();
        Surroundings {
            is_metered: moment.and_then(|moment| moment.metered).unwrap_or(true),
            battery_percent: moment.and_then(|moment| moment.battery),
            second_of_day: moment.map_or_else(utc, |moment| moment.local_s),
        }
    }

    /// Returns what was left of the budgets of then.
    pub(crate) fn left(&self) -> Left {
        let left = self.moment.as_ref().map(|moment| &moment.left);
        let of = |field: fn(&crate::record::Left) -> Option<u64>| left.and_then(field);
        Left { bytes: of(|left| left.bytes), calls: of(|left| left.calls), escalations: of(|left| left.escalations) }
    }

    /// Returns the snapshot that the router decided on, with a policy and what is left of its budgets.
    pub(crate) fn snapshot(&self, policy: Policy, left: Left, surroundings: Surroundings, start: Instant) -> Snapshot {
        let moment = self.moment.as_deref();
        let local = if self.form.is_some() {
            LocalState::Ready { expected: self.expected_us.map(micros) }
        } else {
            LocalState::NoModel
        };
        let hub = self.link_us.map_or(HubState::Away, |link| HubState::Online { round_trip: micros(link) });
        let info =
            RequestInfo { policy, deadline: self.deadline(&policy, start), local, input_bytes: self.input.bytes };
        Snapshot {
            device_times: moment.and_then(|moment| moment.device_us).map(quantiles),
            device_queue: moment.map_or(0, |moment| moment.device_queue),
            hub_times: moment.and_then(|moment| moment.hub_us).map(quantiles),
            hub_queue: moment.and_then(|moment| moment.hub_queue_us).map(micros),
            surroundings,
            left,
            is_calibrated: self.threshold().is_some(),
            is_drifted: moment.is_some_and(|moment| moment.drifted),
            is_withdrawn: self.is_withdrawn(),
            is_downloading: moment.is_some_and(|moment| moment.downloading),
            ..Snapshot::of(info, hub)
        }
    }

    /// Returns the deadline: the one that the request brought with the time that was left of it, else that of the policy.
    fn deadline(&self, policy: &Policy, start: Instant) -> Option<Instant> {
        let is_own = self.moment.as_ref().is_none_or(|moment| moment.asked.deadline);
        let left = self.policy.deadline_us.filter(|_| is_own).map(micros).or(policy.deadline)?;
        start.checked_add(left)
    }

    /// Returns whether the hub had withdrawn the threshold: a variant that was never calibrated is not called uncertified.
    fn is_withdrawn(&self) -> bool {
        let is_void = |calibration: &Calibration| calibration.threshold.is_none() && calibration.state == "uncertified";
        self.calibration.as_ref().is_some_and(is_void)
    }

    /// Returns the threshold in force: none while drift made it void.
    pub(crate) fn threshold(&self) -> Option<f32> {
        let is_void = self.moment.as_ref().is_some_and(|moment| moment.drifted);
        self.calibration.as_ref().and_then(|calibration| calibration.threshold).filter(|_| !is_void)
    }

    /// Returns whether the score of the device's answer is known; a run that failed has none to know.
    pub(crate) fn knows_score(&self) -> bool {
        self.device.as_ref().is_some_and(|device| match device.outcome.as_str() {
            "answered" => true,
            "failed" => device.failure.as_deref().map(local_failure) != Some(LocalFailure::TooLate),
            _cancelled => false,
        })
    }

    /// Returns the work of both places, as it was recorded or as the times of then and of the whole log predict it.
    pub(crate) fn course(&self, assumed: Assumed, times: &Times) -> Course {
        let [at_device, at_hub] = positions(&self.request);
        Course {
            device: self.device_work(assumed, at_device, times),
            hub: self.hub_work(at_hub, times),
            threshold: self.threshold(),
        }
    }

    fn device_work(&self, assumed: Assumed, position: f64, times: &Times) -> Work<Option<f32>, LocalFailure> {
        let moment = self.moment.as_deref();
        let queued = |took: Duration| {
            let waiting = moment.map_or(0, |moment| moment.device_queue);
            let typical =
                moment.and_then(|moment| moment.device_us).map_or(Duration::ZERO, |[_, typical, _]| micros(typical));
            took.saturating_add(typical.saturating_mul(waiting))
        };
        let predicted = moment
            .and_then(|moment| moment.device_us)
            .map(|quantiles| queued(interpolate(quantiles, position)))
            .or_else(|| times.device(position))
            .or_else(|| self.expected_us.map(micros));
        let score = Some(match assumed {
            Assumed::Sure => f32::INFINITY,
            Assumed::Unsure => f32::NEG_INFINITY,
        });
        let Some(device) = &self.device else { return Work { took: predicted, outcome: Ok(score) } };
        let took = micros(device.took_us);
        // Work that was cut off takes at least as long as it had.
        let longer = predicted.map(|predicted| predicted.max(took.saturating_add(Duration::from_micros(1))));
        match (device.outcome.as_str(), device.failure.as_deref().map(local_failure)) {
            ("answered", _) => Work { took: Some(took), outcome: Ok(device.score) },
            ("failed", Some(LocalFailure::TooLate)) => Work { took: longer, outcome: Ok(score) },
            ("failed", why) => Work { took: Some(took), outcome: Err(why.unwrap_or(LocalFailure::Failed)) },
            _cancelled => Work { took: longer, outcome: Ok(score) },
        }
    }

    fn hub_work(&self, position: f64, times: &Times) -> Work<(), edge_core::route::HubFailure> {
        let quantiles = self.moment.as_deref().and_then(|moment| moment.hub_us);
        let predicted = quantiles.map(|quantiles| interpolate(quantiles, position)).or_else(|| times.hub(position));
        let unasked = Work { took: predicted, outcome: Ok(()) };
        let Some(hub) = &self.hub else { return unasked };
        let took = micros(hub.took_us);
        let longer = predicted.map(|predicted| predicted.max(took.saturating_add(Duration::from_micros(1))));
        match (hub.outcome.as_str(), hub.failure.as_deref()) {
            ("answered", _) => Work { took: Some(took), outcome: Ok(()) },
            // Never sent: the budget of then was used up, which says nothing of the hub.
            ("failed", Some(why)) if self.hub_bytes == 0 && reason(why).is_some() => unasked,
            ("failed", Some("too-late")) => Work { took: longer, outcome: Ok(()) },
            ("failed", why) => Work { took: Some(took), outcome: Err(hub_failure(why.unwrap_or("failed"))) },
            _cancelled => Work { took: longer, outcome: Ok(()) },
        }
    }
}

impl Asked {
    fn rules(&self) -> RequestRules {
        RequestRules {
            hedge_after: self.hedge_us.map(micros),
            // A class of a later version counts as the strictest one.
            privacy: self.privacy.as_deref().map(|class| class.parse().unwrap_or(PrivacyClass::NeverLeaves)),
            consent: self.consent,
            tags: self.tags.clone(),
            offline: self.offline.as_deref().and_then(|offline| offline.parse().ok()),
            // The record does not say whether the application took the hub's answer later.
            ..RequestRules::default()
        }
    }
}

fn layers<'a>(
    author: Option<&'a PolicyLayer>,
    owner: &'a PolicyLayer,
    new: &'a NewPolicy,
) -> (Option<&'a PolicyLayer>, &'a PolicyLayer) {
    match new.replaces {
        Replaces::Owner => (author, &new.layer),
        Replaces::Author => (Some(&new.layer), owner),
    }
}

/// Keeps inputs on the device where the owner's `device_only` says so.
fn restricted(policy: Policy, device_only: Option<bool>) -> Policy {
    if device_only == Some(true) {
        return Policy { privacy: Privacy::DeviceOnly, class: PrivacyClass::NeverLeaves, ..policy };
    }
    policy
}

fn quantiles([fast, typical, slow]: [u64; 3]) -> Quantiles {
    Quantiles { fast: micros(fast), typical: micros(typical), slow: micros(slow) }
}
