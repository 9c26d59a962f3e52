//! Decides the place of one request: a pure function over a snapshot of everything that matters.
//!
//! Fed by [`crate::route`] with a [`Snapshot`]; returns the plan of the route and a reason. It allocates nothing and reads no
//! clock. [`hub_wait`] is the only check that lets an input leave the device: privacy, conditions, budgets, the connection and
//! the time left, in this order. The order matters: a request that may never leave is told so, also while the hub is away.

mod budget;
mod latency;

use std::time::{Duration, Instant};

use types::{Place, PolicyMode, Reason};

pub use budget::{Cost, DAY, Ledger, Left, Usage};
pub use latency::{Latency, Quantiles, SAMPLES_MIN, WINDOW};

use crate::route::{
    ANSWER_TIME, Failure, HUB_TIME_MIN, HUB_WAIT_MAX, HubFailure, HubState, LOCAL_TIME_MIN, LOCAL_TIME_UNKNOWN,
    LocalFailure, LocalState, RequestInfo,
};

/// Everything that decides the place of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// The request, its policy, and the state of the device.
    pub info: RequestInfo,
    /// Connection to the hub.
    pub hub: HubState,
    /// Recent latency of a run on the device, without its queue; `None` while too little was measured.
    pub device_times: Option<Quantiles>,
    /// Runs that must end on the device before this one begins.
    pub device_queue: u32,
    /// Recent latency of the hub, from the request to the whole answer; `None` while too little was measured.
    pub hub_times: Option<Quantiles>,
    /// Time in the hub's queue by its last answer; `None` where it is not known or too old.
    pub hub_queue: Option<Duration>,
    /// Metered link, battery and time of the day.
    pub surroundings: Surroundings,
    /// What is left of the budgets.
    pub left: Left,
    /// Whether the serving version has a threshold that holds.
    pub is_calibrated: bool,
    /// Whether its threshold is void because the scores have left the distribution of the calibration.
    pub is_drifted: bool,
    /// Whether its threshold is void because audits broke the promise, and the hub has shown no other one.
    pub is_withdrawn: bool,
    /// Whether the device is fetching its first version of the model.
    pub is_downloading: bool,
}

/// State of the device's surroundings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Surroundings {
    /// Whether each byte over the link to the hub costs.
    pub is_metered: bool,
    /// Charge of the battery in percent while it discharges; `None` on mains power or without a battery.
    pub battery_percent: Option<u8>,
    /// Second of the local day.
    pub second_of_day: u32,
}

impl Snapshot {
    /// Returns the snapshot of a device without measurements, conditions and budgets.
    #[must_use]
    pub fn of(info: RequestInfo, hub: HubState) -> Self {
        Self {
            info,
            hub,
            device_times: None,
            device_queue: 0,
            hub_times: None,
            hub_queue: None,
            surroundings: Surroundings::default(),
            left: Left::default(),
            is_calibrated: true,
            is_drifted: false,
            is_withdrawn: false,
            is_downloading: false,
        }
    }

    /// Returns the time until the deadline; `None` without one.
    #[must_use]
    pub fn time_left(&self, now: Instant) -> Option<Duration> {
        self.info.deadline.map(|deadline| deadline.saturating_duration_since(now))
    }

    /// Returns the time that a run on the device takes from now on, by a quantile of its latency.
    fn device_time(&self, of: impl Fn(Quantiles) -> Duration) -> Option<Duration> {
        self.device_times.map(|times| of(times).saturating_add(times.typical.saturating_mul(self.device_queue)))
    }

    /// Returns the time that an answer of the hub takes, by a quantile of its latency.
    fn hub_time(&self, of: impl Fn(Quantiles) -> Duration) -> Option<Duration> {
        let HubState::Online { round_trip } = self.hub else { return None };
        let least = round_trip.saturating_add(self.hub_queue.unwrap_or_default());
        self.hub_times.map(|times| of(times).max(least))
    }
}

/// Chance that a place answers within the time left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forecast {
    /// At least 95 % of its recent answers took no longer than that.
    InTime,
    /// Some of them did, or too little was measured.
    Unsure,
    /// At least 90 % of them took longer.
    Late,
}

fn forecast(left: Option<Duration>, fast: Option<Duration>, slow: Option<Duration>) -> Forecast {
    match (left, fast, slow) {
        (None, _, _) => Forecast::InTime,
        (Some(left), _, Some(slow)) if slow <= left => Forecast::InTime,
        (Some(left), Some(fast), _) if fast > left => Forecast::Late,
        (Some(_), _, _) => Forecast::Unsure,
    }
}

/// Returns the chance that the device answers in time.
#[must_use]
pub fn device_forecast(snapshot: &Snapshot, now: Instant) -> Forecast {
    let time = |of: fn(Quantiles) -> Duration| snapshot.device_time(of);
    forecast(snapshot.time_left(now), time(|times| times.fast), time(|times| times.slow))
}

/// Returns the chance that the hub answers in time, where it may be asked.
#[must_use]
pub fn hub_forecast(snapshot: &Snapshot, now: Instant) -> Forecast {
    let time = |of: fn(Quantiles) -> Duration| snapshot.hub_time(of);
    forecast(snapshot.time_left(now), time(|times| times.fast), time(|times| times.slow))
}

/// Way of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// The device answers, or the request fails.
    Device,
    /// The device answers; the hub where its answer is not sure or it fails.
    DeviceThenHub,
    /// The hub answers, or the request fails.
    Hub,
    /// The hub answers; the device where the hub fails.
    HubThenDevice,
    /// One place answers; from a time on the other one works too, and the first acceptable answer wins.
    Hedge {
        /// Place that begins.
        first: Place,
        /// Time from which the other place works too.
        second_at: Instant,
    },
    /// No place may or can answer.
    Refuse(Failure),
}

/// Result of [`decide`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Way of the request.
    pub plan: Plan,
    /// Reason for the place that begins.
    pub reason: Reason,
    /// Reason for which the hub cannot be asked now; `None` if it can, or the plan does not need it.
    pub hub: Option<HubFailure>,
}

/// Decides the way of a request.
#[must_use]
pub fn decide(snapshot: &Snapshot, now: Instant) -> Decision {
    let refuse = |device, hub| Decision {
        plan: Plan::Refuse(Failure::of(device, hub)),
        reason: hub.map_or(Reason::Policy, HubFailure::reason),
        hub,
    };
    if snapshot.time_left(now).is_some_and(|left| left.is_zero()) {
        return refuse(None, None);
    }
    let to_hub = |plan, reason| Decision { plan, reason, hub: None };
    match (snapshot.info.policy.mode, snapshot.info.local) {
        (PolicyMode::OnlyDevice, LocalState::NoModel) => refuse(Some(LocalFailure::NoModel), None),
        (PolicyMode::OnlyDevice, LocalState::Ready { .. }) => {
            Decision { plan: Plan::Device, reason: Reason::Policy, hub: None }
        }
        (PolicyMode::PreferDevice | PolicyMode::Cascade | PolicyMode::Hedge, LocalState::NoModel) => {
            let reason = if snapshot.is_downloading { Reason::Downloading } else { Reason::NoLocalModel };
            match hub_wait(snapshot, Duration::ZERO, reason, now) {
                Ok(_wait) => to_hub(Plan::Hub, reason),
                Err(hub) => refuse(Some(LocalFailure::NoModel), Some(hub)),
            }
        }
        (PolicyMode::PreferDevice | PolicyMode::Cascade | PolicyMode::Hedge, LocalState::Ready { .. }) => {
            device_first(snapshot, now)
        }
        (PolicyMode::PreferHub, LocalState::Ready { .. }) => hub_first(snapshot, now),
        (PolicyMode::PreferHub, LocalState::NoModel) => match hub_wait(snapshot, Duration::ZERO, Reason::Policy, now) {
            Ok(_wait) => to_hub(Plan::Hub, Reason::Policy),
            Err(hub) => refuse(Some(LocalFailure::NoModel), Some(hub)),
        },
        (PolicyMode::OnlyHub, _) => match hub_wait(snapshot, Duration::ZERO, Reason::Policy, now) {
            Ok(_wait) => to_hub(Plan::Hub, Reason::Policy),
            Err(hub) => refuse(None, Some(hub)),
        },
    }
}

/// Decides for the modes that begin on the device.
fn device_first(snapshot: &Snapshot, now: Instant) -> Decision {
    let hub = hub_wait(snapshot, Duration::ZERO, Reason::DeviceTooLate, now);
    let device = device_forecast(snapshot, now);
    if device == Forecast::Late && hub.is_ok() {
        return Decision { plan: Plan::HubThenDevice, reason: Reason::DeviceTooLate, hub: None };
    }
    let hedge = hedge_after(snapshot).and_then(|after| now.checked_add(after));
    let needs_hub = device != Forecast::InTime || is_never_sure(snapshot);
    let rescue = (needs_hub && hub.is_ok()).then(|| rescue_at(snapshot, now)).flatten();
    let plan = match [hedge, rescue].into_iter().flatten().min() {
        Some(second_at) => Plan::Hedge { first: Place::Device, second_at },
        None => Plan::DeviceThenHub,
    };
    Decision { plan, reason: Reason::Policy, hub: hub.err() }
}

/// Returns whether no answer of the device counts as sure, because the version has no threshold or its threshold is void.
pub(crate) fn is_never_sure(snapshot: &Snapshot) -> bool {
    snapshot.info.policy.mode == PolicyMode::Cascade && !snapshot.is_calibrated
}

/// Returns the reason for which no answer of the device counts as sure.
pub(crate) const fn never_sure(snapshot: &Snapshot) -> Reason {
    match (snapshot.is_withdrawn, snapshot.is_drifted) {
        (true, _) => Reason::BoundBroken,
        (false, true) => Reason::Drifted,
        (false, false) => Reason::NotCalibrated,
    }
}

/// Returns the delay after which the mode `hedge` also asks the hub: as configured, or the device's 95th percentile.
fn hedge_after(snapshot: &Snapshot) -> Option<Duration> {
    let policy = &snapshot.info.policy;
    let measured = || snapshot.device_time(|times| times.slow).filter(|_| !policy.is_hedge_fixed);
    policy.hedge.map(|configured| measured().unwrap_or(configured))
}

/// Returns the last time at which the hub can be asked and still answer in time; `None` where it would be late or is not
/// measured.
fn rescue_at(snapshot: &Snapshot, now: Instant) -> Option<Instant> {
    let slow = snapshot.hub_time(|times| times.slow)?.saturating_add(ANSWER_TIME);
    let at = snapshot.info.deadline?.checked_sub(slow)?;
    (at >= now).then_some(at)
}

/// Decides for the mode that begins at the hub and falls back on the device.
fn hub_first(snapshot: &Snapshot, now: Instant) -> Decision {
    let reserve = reserved_for_run(snapshot);
    let failure = match hub_wait(snapshot, reserve, Reason::Policy, now) {
        Err(failure) => failure,
        Ok(wait) => {
            // A run that takes more than half of the time left begins while the hub is still at work.
            let begin = run_at(snapshot, now).filter(|at| *at < now + wait);
            let plan = match begin {
                Some(second_at) => Plan::Hedge { first: Place::Hub, second_at },
                None => Plan::HubThenDevice,
            };
            return Decision { plan, reason: Reason::Policy, hub: None };
        }
    };
    if failure == HubFailure::Unreachable && snapshot.info.policy.offline == types::policy::Offline::Fail {
        let plan = Plan::Refuse(Failure::of(None, Some(failure)));
        return Decision { plan, reason: failure.reason(), hub: Some(failure) };
    }
    Decision { plan: Plan::Device, reason: failure.reason(), hub: Some(failure) }
}

/// Returns the last time at which a run on the device can begin and still end in time; `None` where that is not so, or
/// where the hub answers before by all that is known.
fn run_at(snapshot: &Snapshot, now: Instant) -> Option<Instant> {
    let slow = snapshot.device_time(|times| times.slow)?.saturating_add(ANSWER_TIME);
    let at = snapshot.info.deadline?.checked_sub(slow).filter(|at| *at >= now)?;
    let before =
        snapshot.hub_time(|times| times.slow).is_some_and(|hub| now.checked_add(hub).is_some_and(|end| end <= at));
    (!before).then_some(at)
}

/// Returns the time that is kept back from the hub for a run on the device.
pub(crate) fn reserved_for_run(snapshot: &Snapshot) -> Duration {
    match (snapshot.info.deadline, snapshot.info.local) {
        (Some(_), LocalState::Ready { expected }) => {
            expected.map_or(LOCAL_TIME_UNKNOWN, |expected| expected.saturating_mul(2).max(LOCAL_TIME_MIN))
        }
        (None, _) | (_, LocalState::NoModel) => Duration::ZERO,
    }
}

/// Returns how long the hub may take, if the input may go to it now. `reserve` is kept back for the device, at most half of
/// the time left.
///
/// # Errors
/// Returns the reason for which the hub is not asked.
pub fn hub_wait(snapshot: &Snapshot, reserve: Duration, reason: Reason, now: Instant) -> Result<Duration, HubFailure> {
    if let Some(reason) = withheld(snapshot, reason) {
        return Err(HubFailure::of_policy(reason));
    }
    let HubState::Online { round_trip } = snapshot.hub else { return Err(HubFailure::Unreachable) };
    let left = snapshot.time_left(now).unwrap_or(HUB_WAIT_MAX);
    let wait = left.saturating_sub(reserve.min(left / 2)).min(HUB_WAIT_MAX);
    if wait < HUB_TIME_MIN.max(round_trip) {
        return Err(HubFailure::TooLate);
    }
    let is_late =
        snapshot.info.deadline.is_some() && snapshot.hub_time(|times| times.fast).is_some_and(|fast| fast > wait);
    if is_late { Err(HubFailure::PredictedLate) } else { Ok(wait) }
}

/// Returns the reason for which the policy keeps the input from the hub now; `reason` is the one for asking it.
#[must_use]
pub fn withheld(snapshot: &Snapshot, reason: Reason) -> Option<Reason> {
    let Snapshot { info, surroundings, left, .. } = snapshot;
    let policy = &info.policy;
    let conditions = &policy.conditions;
    let is_low = |least: u8| surroundings.battery_percent.is_some_and(|percent| percent < least);
    let is_closed = |window: &Option<types::window::Window>| {
        window.is_some_and(|window| !window.contains(surroundings.second_of_day))
    };
    policy
        .forbids(info.input_bytes)
        .or_else(|| (conditions.is_unmetered && surroundings.is_metered).then_some(Reason::MeteredLink))
        .or_else(|| conditions.battery_min_percent.is_some_and(is_low).then_some(Reason::BatteryLow))
        .or_else(|| conditions.hours.iter().any(is_closed).then_some(Reason::OutsideHours))
        .or_else(|| left.bytes.is_some_and(|bytes| bytes < info.input_bytes).then_some(Reason::BytesSpent))
        .or_else(|| (left.calls == Some(0)).then_some(Reason::CallsSpent))
        .or_else(|| (left.escalations == Some(0) && is_escalation(reason)).then_some(Reason::EscalationsSpent))
}

/// Returns whether the hub is asked because the device's own answer is not sure.
#[must_use]
pub const fn is_escalation(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::LowConfidence | Reason::NoScore | Reason::NotCalibrated | Reason::Drifted | Reason::BoundBroken
    )
}
