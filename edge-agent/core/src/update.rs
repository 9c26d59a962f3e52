//! The life of one model's updates on one device.
//!
//! Fed by the updater task of the agent with what happened ([`Event`]); answers with what it must do ([`Step`]), one
//! job at a time: refresh trust, fetch, verify, load beside the active version, check the golden inputs, measure, answer in
//! the shadow of the active version, switch. Then the version serves on [`probation`].
//! The active version is never touched before the switch, and every path leads back to [`State::Idle`].
//!
//! The device takes the highest version that was offered. Offers may overtake each other on the way here, and numbers
//! cannot. An older one is refused; the device returns to an earlier version only by an order ([`orders`]) or at the end of
//! a failed probation. A version that was left, or that failed permanently, is not taken again until an operator asks for
//! it. Transient failures are retried for ever, with back-off, and reported once each kind; a missing hub is waited for. A
//! version whose bytes were not the signed ones is given up and tried again within a day, because the hub's copy may have
//! been repaired ([`SECOND_CHANCE`]).

mod chances;
mod event;
mod failing;
pub mod measure;
pub mod orders;
pub mod probation;
mod resume;
mod state;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use types::{ModelName, Version};

use chances::Chances;
pub use chances::SECOND_CHANCE;
pub use event::{Event, Failure, FailureKind, OfferKind, Outcome, Postponed, Report, ShadowTally, Step};
use orders::Orders;
use probation::{Probation, ProbationLimits};
pub use resume::{LastEnd, OnDisk, before_load, resume};
pub use state::State;
pub use types::update::Stage;

use crate::Refused;
use crate::backoff::Backoff;
use crate::slots::{Installed, KEEP_DEFAULT, Slots};

/// Waits between tries of an update whose failure may pass.
///
/// The first is short because most are broken exchanges; the cap is what a device with a full disk should cost.
pub const RETRY: Backoff = Backoff { base: Duration::from_secs(2), max: Duration::from_secs(900) };

/// Maximum number of failed versions that are remembered for one model; the lowest numbers go first.
///
/// Only versions above the active one matter, and a fleet that fails 32 of them in a row has an operator at work.
pub const FAILED_MAX: usize = 32;

/// Maximum length of the detail of a failure in bytes; it is stored, sent to the hub and shown in a table.
pub const DETAIL_BYTES_MAX: usize = 1024;

/// Settings of the updates of one model, from the configuration of the device.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Number of earlier versions that stay on the disk.
    pub keep: usize,
    /// Limits of a candidate that is measured before it serves; `None` to measure none.
    pub measure: Option<measure::Limits>,
    /// Whether a candidate answers a share of the live requests in the shadow of the active version before it serves.
    pub shadow: bool,
    /// Minimum share of equal answers in the shadow, 0 to 1.
    pub shadow_agreement: f64,
    /// Limits of a version that has just begun to serve; `None` for no probation.
    pub probation: Option<ProbationLimits>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { keep: KEEP_DEFAULT, measure: None, shadow: false, shadow_agreement: 0.0, probation: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hub {
    Online,
    Away,
}

/// The updates of one model.
#[derive(Debug, Clone)]
pub struct Updater {
    model: ModelName,
    settings: Settings,
    state: State,
    slots: Slots,
    hub: Hub,
    /// Offered version that waits for the end of the run under way, or of an order.
    next: Option<Version>,
    /// Whether the run under way was told to stop.
    is_abandoned: bool,
    /// Version whose files the last run left behind.
    leftover: Option<Version>,
    /// Versions that are left alone, and why.
    failed: BTreeMap<Version, Failure>,
    /// Times at which some of these are tried again.
    chances: Chances,
    /// Failures in a row of the version under way.
    tries: u32,
    /// Last kind of transient failure that was reported for it.
    told: Option<FailureKind>,
    /// Last version that was reported as put off, with the reason.
    told_postponed: Option<(Version, String)>,
    orders: Orders,
    probation: Option<probation::Serving>,
    /// Reason for which no update begins now; orders go past it.
    postponed: Option<Postponed>,
    /// Version that cannot be taken from the disk: its return goes the whole way.
    not_recalled: Option<Version>,
    /// Median duration of a run of the active version, as far as the shell knows it.
    baseline: Option<Duration>,
}

impl Updater {
    /// Creates the updates of a model that is followed but not yet installed.
    #[must_use]
    pub fn new(model: ModelName, settings: Settings) -> Self {
        Self {
            model,
            settings,
            state: State::Idle,
            slots: Slots::default(),
            hub: Hub::Away,
            next: None,
            is_abandoned: false,
            leftover: None,
            failed: BTreeMap::new(),
            chances: Chances::default(),
            tries: 0,
            told: None,
            told_postponed: None,
            orders: Orders::default(),
            probation: None,
            postponed: None,
            not_recalled: None,
            baseline: None,
        }
    }

    /// Returns the name of the model.
    #[must_use]
    pub fn model(&self) -> &ModelName {
        &self.model
    }

    /// Returns the state of the update.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Returns the pointers to the version that serves and to the earlier ones.
    #[must_use]
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Returns the versions that are left alone, with the reasons.
    #[must_use]
    pub fn failed(&self) -> &BTreeMap<Version, Failure> {
        &self.failed
    }

    /// Returns the time at which the shell must send [`Event::Tick`], and the reason.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self.state {
            State::Waiting { until, .. } => Some((until, "next try of an update")),
            State::Idle if self.orders.obstacle().is_none() => {
                Some((self.chances.next(self.slots.active_version())?, "second chance of a version that was given up"))
            }
            State::Idle
            | State::Paused { .. }
            | State::Recalling { .. }
            | State::Refreshing { .. }
            | State::Fetching { .. }
            | State::Verifying { .. }
            | State::Loading { .. }
            | State::Checking { .. }
            | State::Measuring { .. }
            | State::Shadowing { .. }
            | State::Switching { .. } => None,
        }
    }

    /// Handles an event and returns the steps to take, in this order. `random` is uniform over all of `u64`.
    ///
    /// # Errors
    /// [`Refused`] for an event that the job under way cannot have caused; nothing has changed.
    pub fn handle(&mut self, event: Event, now: Instant, random: u64) -> Result<Vec<Step>, Refused> {
        let steps = self.step(event, now, random)?;
        self.chances.schedule(&self.failed, self.state.target(), now, random);
        Ok(steps)
    }

    fn step(&mut self, event: Event, now: Instant, random: u64) -> Result<Vec<Step>, Refused> {
        Ok(match (self.state.clone(), event) {
            (_, Event::Offered { version, kind }) => self.offered(version, kind),
            (_, Event::Ordered(order)) => self.ordered(&order),
            (_, Event::Pinned(version)) => self.pinned_by_hub(version),
            (_, Event::Return { from, to, reason }) => self.returned_by_hub(from, to, reason),
            (_, Event::Observed(sample)) => self.observed(&sample, now),
            (_, Event::Baseline(median)) => {
                self.baseline = median;
                Vec::new()
            }
            (state, Event::Postponed(postponed)) => {
                self.postponed = postponed;
                match state {
                    // An update that has begun goes on.
                    State::Waiting { target, .. } if self.postponed.is_none() && self.tries == 0 => self.begin(target),
                    _under_way_or_idle => Vec::new(),
                }
            }
            (state, Event::HubOnline) => {
                self.hub = Hub::Online;
                match state {
                    State::Paused { target } => self.begin(target),
                    _needs_no_hub_now => Vec::new(),
                }
            }
            // Only remembered here: the job that needs the hub says so itself, the others go on without it.
            (_, Event::HubAway) => {
                self.hub = Hub::Away;
                Vec::new()
            }
            (State::Waiting { target, until }, Event::Tick) if now >= until => self.begin(target),
            // What was mended at the hub is found without an operator who asks for each device.
            (State::Idle, Event::Tick) => self.second_chance(now),
            (_, Event::Tick) => Vec::new(),

            // Between two jobs is where another version takes over.
            (State::Recalling { .. } | State::Verifying { .. }, Event::Verified(_))
            | (State::Refreshing { .. }, Event::Trusted)
            | (State::Fetching { .. }, Event::Fetched)
            | (State::Checking { .. }, Event::GoldenMatched)
            | (State::Measuring { .. }, Event::Measured(_))
            | (State::Shadowing { .. }, Event::Shadowed(_))
                if self.is_abandoned =>
            {
                self.take_over()
            }
            (State::Loading { candidate }, Event::Loaded) if self.is_abandoned => {
                // It is loaded by now, and has to be released.
                self.state = State::Checking { candidate };
                self.take_over()
            }
            // Nothing of a version is fetched before it is known to be signed.
            (State::Refreshing { target }, Event::Trusted) => {
                self.enter(State::Fetching { target }, Step::Fetch { version: target })
            }
            (State::Fetching { target }, Event::Fetched) => {
                self.enter(State::Verifying { target }, Step::Verify { version: target })
            }
            // Only a verified version reaches the engine.
            (State::Recalling { target } | State::Verifying { target }, Event::Verified(candidate))
                if candidate.version == target =>
            {
                self.enter(State::Loading { candidate: candidate.clone() }, Step::Load { installed: candidate })
            }
            (State::Loading { candidate }, Event::Loaded) => {
                self.enter(State::Checking { candidate: candidate.clone() }, Step::CheckGolden { installed: candidate })
            }
            // Only a version that answers as its maker says may serve.
            (State::Checking { candidate }, Event::GoldenMatched) => self.checked(candidate),
            (State::Measuring { candidate }, Event::Measured(compared)) => {
                // Another variant of the same version may be the best one on this device.
                let chosen = compared.form.clone().filter(|form| form.version == candidate.version);
                let candidate = chosen.unwrap_or(candidate);
                let limits = self.settings.measure.clone().unwrap_or_default();
                match limits.judge(&compared) {
                    Some(detail) => self.unfit(&State::Measuring { candidate }, detail, now, random),
                    None => self.measured(candidate),
                }
            }
            (State::Shadowing { candidate }, Event::Shadowed(tally)) => {
                match tally.judge(self.settings.shadow_agreement) {
                    Some(detail) => self.unfit(&State::Shadowing { candidate }, detail, now, random),
                    None => self.switch_to(candidate),
                }
            }
            (State::Switching { candidate, slots, probation }, Event::Switched) => {
                self.switched(candidate, slots, probation)
            }

            (
                state @ (State::Recalling { .. }
                | State::Refreshing { .. }
                | State::Fetching { .. }
                | State::Verifying { .. }
                | State::Loading { .. }
                | State::Checking { .. }
                | State::Measuring { .. }
                | State::Shadowing { .. }
                | State::Switching { .. }),
                Event::Failed(failure),
            ) => self.job_failed(&state, failure, now, random),

            (
                state,
                event @ (Event::Trusted
                | Event::Fetched
                | Event::Verified(_)
                | Event::Loaded
                | Event::GoldenMatched
                | Event::Measured(_)
                | Event::Shadowed(_)
                | Event::Switched
                | Event::Failed(_)),
            ) => return Err(Refused { machine: "update", state: state.name(), event: event.name() }),
        })
    }

    /// Begins the version whose second chance has come.
    fn second_chance(&mut self, now: Instant) -> Vec<Step> {
        if self.orders.obstacle().is_some() {
            return Vec::new();
        }
        let Some(version) = self.chances.due(self.slots.active_version(), now) else { return Vec::new() };
        self.chances.begun(version);
        self.failed.remove(&version);
        let mut steps = vec![Step::Forget { version }];
        steps.extend(self.begin_new(version));
        steps
    }

    /// Decides when a version that may be taken begins.
    fn take(&mut self, version: Version, kind: OfferKind) -> Vec<Step> {
        match (&self.state, kind) {
            (State::Idle, _) => self.begin_new(version),
            // Nothing is under way: whoever asks again need not wait, and a higher version replaces the one put off.
            (State::Waiting { target, .. }, OfferKind::Retry) if *target == version => self.begin(version),
            (State::Paused { target } | State::Waiting { target, .. }, _) if *target < version => {
                // An earlier version that is offered again may be a way back.
                let put_off = Some(*target).filter(|target| !self.slots.names(*target));
                let mut steps: Vec<Step> = put_off.into_iter().map(|version| Step::Remove { version }).collect();
                steps.extend(self.begin_new(version));
                steps
            }
            // A switch cannot be stopped half-way; the higher version comes after it.
            (State::Switching { candidate, .. }, _) if candidate.version < version => {
                self.next = self.next.max(Some(version));
                Vec::new()
            }
            (state, _) if state.has_job() && state.target() < Some(version) => {
                self.next = self.next.max(Some(version));
                let stop = state.target().filter(|_| !self.is_abandoned);
                self.is_abandoned = true;
                stop.into_iter().map(|version| Step::Abandon { version }).collect()
            }
            // The same or a lower one than is under way.
            (_, _) => Vec::new(),
        }
    }

    /// Begins a version that was not tried before.
    fn begin_new(&mut self, version: Version) -> Vec<Step> {
        self.tries = 0;
        self.told = None;
        self.not_recalled = None;
        let mut steps = vec![self.report(version, Stage::Offered, Outcome::Started)];
        steps.extend(self.begin(version));
        steps
    }

    /// Begins at the beginning: what was signed may have changed since the last try, and files are not fetched twice.
    fn begin(&mut self, target: Version) -> Vec<Step> {
        self.is_abandoned = false;
        let is_ordered = self.orders.anchor() == Some(target);
        if let Some(Postponed { until, reason }) = self.postponed.clone().filter(|_| !is_ordered) {
            self.state = State::Waiting { target, until };
            let failure = Failure { kind: FailureKind::Postponed, detail: reason };
            let mut steps = Vec::new();
            if self.told != Some(FailureKind::Postponed) {
                self.told = Some(FailureKind::Postponed);
                steps.push(self.report(target, Stage::Offered, Outcome::Retrying(failure)));
            }
            steps.push(Step::WaitUntil(until));
            return steps;
        }
        // A version that is kept on the disk needs no hub, only metadata that still lists it.
        if is_ordered && self.slots.names(target) && self.not_recalled != Some(target) {
            return self.enter(State::Recalling { target }, Step::Recall { version: target });
        }
        match self.hub {
            Hub::Online => self.enter(State::Refreshing { target }, Step::RefreshTrust { version: target }),
            Hub::Away => {
                self.state = State::Paused { target };
                Vec::new()
            }
        }
    }

    /// Continues with a version that answered its golden inputs.
    fn checked(&mut self, candidate: Installed) -> Vec<Step> {
        // What an order wants serves as soon as it can.
        let is_ordered = self.orders.anchor() == Some(candidate.version);
        if self.settings.measure.is_some() && !is_ordered {
            let step = Step::Measure { installed: candidate.clone() };
            return self.enter(State::Measuring { candidate }, step);
        }
        self.measured(candidate)
    }

    fn measured(&mut self, candidate: Installed) -> Vec<Step> {
        let is_ordered = self.orders.anchor() == Some(candidate.version);
        if self.settings.shadow && !is_ordered && self.slots.active.is_some() {
            let step = Step::Shadow { installed: candidate.clone() };
            return self.enter(State::Shadowing { candidate }, step);
        }
        self.switch_to(candidate)
    }

    fn switch_to(&mut self, candidate: Installed) -> Vec<Step> {
        let slots = self.slots_with(candidate.clone());
        let probation = self.probation_of(candidate.version);
        let step = Step::Switch { installed: candidate.clone(), slots: slots.clone(), probation: probation.clone() };
        self.enter(State::Switching { candidate, slots, probation }, step)
    }

    fn slots_with(&self, candidate: Installed) -> Slots {
        match &self.orders.leaving {
            Some(leaving) if leaving.to == candidate.version => {
                self.slots.returned_to(candidate, leaving.from, self.settings.keep)
            }
            Some(_) | None => self.slots.switched_to(candidate, self.settings.keep),
        }
    }

    /// Returns the probation of a version that is about to serve: none for one that served before, or that replaces none.
    fn probation_of(&self, version: Version) -> Option<Probation> {
        let is_new = !self.slots.names(version) && self.slots.active.is_some();
        let limits = self.settings.probation.as_ref().filter(|_| is_new)?;
        // A return would have nothing to return to.
        (self.settings.keep > 0).then(|| Probation::new(version, limits, self.baseline))
    }

    /// Leaves the version under way for another one.
    fn take_over(&mut self) -> Vec<Step> {
        let left = self.state.target().filter(|version| !self.slots.names(*version));
        let unload = self.state.is_loaded().then_some(self.state.target()).flatten();
        let unload = unload.filter(|_| left.is_none()).map(|version| Step::Unload { version });
        let mut steps: Vec<Step> = unload.into_iter().collect();
        steps.extend(left.into_iter().map(|version| Step::Remove { version }));
        self.state = State::Idle;
        self.is_abandoned = false;
        steps.extend(self.pursue());
        steps
    }

    /// Takes over the pointers and the probation as they were written: an order may have changed what a new switch would write.
    fn switched(&mut self, candidate: Installed, slots: Slots, probation: Option<Probation>) -> Vec<Step> {
        let version = candidate.version;
        let before = std::mem::replace(&mut self.slots, slots);
        self.state = State::Idle;
        let mut steps = Vec::new();
        if probation.is_none() {
            steps.extend(self.end_probation());
        }
        self.probation = probation.map(probation::Serving::new);
        self.baseline = None;
        steps.extend(self.left(version));
        steps.push(self.report(version, Stage::Active, Outcome::Active(candidate)));
        let passed = self.leftover.take_if(|leftover| *leftover <= version);
        let left: Vec<Version> = before.all().map(|installed| installed.version).chain(passed).collect();
        steps.extend(self.slots.garbage(&left, None).into_iter().map(|version| Step::Remove { version }));
        steps.extend(self.forget_passed());
        steps.extend(self.pursue());
        steps
    }

    /// Forgets failures of versions under the active one, which can never matter again.
    fn forget_passed(&mut self) -> Vec<Step> {
        let Some(active) = self.slots.active_version() else { return Vec::new() };
        let open = self.failed.split_off(&active);
        let passed = std::mem::replace(&mut self.failed, open);
        passed.into_keys().map(|version| Step::Forget { version }).collect()
    }

    fn enter(&mut self, state: State, job: Step) -> Vec<Step> {
        self.state = state;
        vec![job]
    }

    fn report(&self, version: Version, stage: Stage, outcome: Outcome) -> Step {
        Step::Report(Report { model: self.model.clone(), version, stage, outcome })
    }
}
