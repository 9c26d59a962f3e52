//! The life of one model's updates on one device.
//!
//! Fed by the updater task of the agent with what happened ([`Event`]); answers with what it must do ([`Step`]), one
//! job at a time: refresh trust, fetch, verify, load beside the active version, check the golden inputs, switch.
//! The active version is never touched before the switch, and every road leads back to [`State::Idle`].
//!
//! Which version is taken: the highest number that was offered. Offers may overtake each other on the way here, and
//! numbers cannot; a version that must be withdrawn is followed by a higher one. An older or equal one is refused, one
//! that failed for good is left alone until an operator asks for it again. Failures that may pass are tried again
//! for ever, with back-off, and reported once each kind; a missing hub is waited for. A version whose bytes were not
//! the signed ones is given up and tried again within a day, because the hub's copy may have been mended ([`SECOND_CHANCE`]).

mod chances;
mod event;
mod state;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use types::{ModelName, Version};

use chances::Chances;
pub use chances::SECOND_CHANCE;
pub use event::{Event, Failure, FailureKind, OfferKind, Outcome, Report, Step};
pub use state::State;
pub use types::update::Stage;

use crate::Refused;
use crate::backoff::Backoff;
use crate::slots::{Installed, Slots};

/// Waits between tries of an update whose failure may pass.
///
/// The first is short because most are broken exchanges; the cap is what a device with a full disk should cost.
pub const RETRY: Backoff = Backoff { base: Duration::from_secs(2), max: Duration::from_secs(900) };

/// Most failed versions that are remembered for one model; the lowest numbers go first.
///
/// Only versions above the active one matter, and a fleet that fails 32 of them in a row has an operator at work.
pub const FAILED_MAX: usize = 32;

/// Longest detail of a failure in bytes; it is stored, sent to the hub and shown in a table.
pub const DETAIL_BYTES_MAX: usize = 1024;

/// Versions and slots that the shell found on the disk at its start.
#[derive(Debug, Clone, Default)]
pub struct OnDisk {
    /// The pointers as they were written last.
    pub slots: Slots,
    /// The versions whose files are all there and hash to what their signed manifest says, with the chosen variant.
    pub complete: Vec<Installed>,
    /// The versions of which only some files or parts are there.
    pub partial: Vec<Version>,
    /// Failures that were kept by [`Step::Remember`].
    pub failed: BTreeMap<Version, Failure>,
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
    state: State,
    slots: Slots,
    hub: Hub,
    /// A higher version than the one under way.
    next: Option<Version>,
    /// A version whose files the last run left behind.
    leftover: Option<Version>,
    /// Versions that are left alone, and why.
    failed: BTreeMap<Version, Failure>,
    /// Times at which some of these are tried again.
    chances: Chances,
    /// Failures in a row of the version under way.
    tries: u32,
    /// The last kind of passing failure that was reported for it.
    told: Option<FailureKind>,
}

/// Takes up where the last run of the agent was cut off, at whatever point that was.
///
/// A half-fetched version is left where it is: the hub offers it again at its greeting and the fetch resumes. A
/// damaged active version gives way to the previous one. The steps come before anything is served.
#[must_use]
pub fn resume(model: ModelName, found: OnDisk) -> (Updater, Vec<Step>) {
    let slots = found.slots.repaired(|slot| found.complete.contains(slot));
    let mut updater = Updater { failed: found.failed, ..Updater::new(model) };
    let mut steps = Vec::new();
    if slots != found.slots {
        steps.push(Step::Repair { slots: slots.clone() });
    }
    for lost in [found.slots.active, found.slots.previous].into_iter().flatten() {
        if !slots.names(lost.version) {
            let damaged =
                || Failure { kind: FailureKind::Damaged, detail: "its files are missing or damaged".to_owned() };
            // One that was given up at this start is whole; the shell left it out because it must not be loaded again.
            let outcome = match updater.failed.get(&lost.version) {
                Some(failure) => Outcome::Rejected(failure.clone()),
                None => Outcome::Retrying(damaged()),
            };
            steps.push(updater.report(lost.version, Stage::Active, outcome));
        }
    }
    updater.slots = slots;
    let active = updater.slots.active_version();
    let mut on_disk: Vec<Version> = found.complete.iter().map(|installed| installed.version).collect();
    on_disk.extend(found.partial);
    on_disk.sort_unstable();
    on_disk.dedup();
    // The highest above the active version is a start on what the hub will offer again.
    let is_start = |version: &&Version| Some(**version) > active && !updater.failed.contains_key(version);
    updater.leftover = on_disk.iter().rfind(is_start).copied();
    let garbage = updater.slots.garbage(&on_disk, updater.leftover);
    steps.extend(garbage.into_iter().map(|version| Step::Remove { version }));
    (updater, steps)
}

impl Updater {
    /// A model that is followed but not yet installed.
    #[must_use]
    pub fn new(model: ModelName) -> Self {
        Self {
            model,
            state: State::Idle,
            slots: Slots::default(),
            hub: Hub::Away,
            next: None,
            leftover: None,
            failed: BTreeMap::new(),
            chances: Chances::default(),
            tries: 0,
            told: None,
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

    /// Returns the versions that serve and that a rollback returns to.
    #[must_use]
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// The versions that are left alone, and why.
    #[must_use]
    pub fn failed(&self) -> &BTreeMap<Version, Failure> {
        &self.failed
    }

    /// Returns the time at which the shell must send [`Event::Tick`], and the reason.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self.state {
            State::Waiting { until, .. } => Some((until, "next try of an update")),
            State::Idle => {
                Some((self.chances.next(self.slots.active_version())?, "second chance of a version that was given up"))
            }
            State::Paused { .. }
            | State::Refreshing { .. }
            | State::Fetching { .. }
            | State::Verifying { .. }
            | State::Loading { .. }
            | State::Checking { .. }
            | State::Switching { .. } => None,
        }
    }

    /// Takes what happened and says what must be done, in this order. `random` is uniform over all of `u64`.
    ///
    /// # Errors
    /// [`Refused`] for an event that the job under way cannot have caused; nothing has changed.
    pub fn handle(&mut self, event: Event, now: Instant, random: u64) -> Result<Vec<Step>, Refused> {
        let steps = self.step(event, now, random)?;
        self.chances.schedule(&self.failed, self.state.target(), now, random);
        Ok(steps)
    }

    fn step(&mut self, event: Event, now: Instant, random: u64) -> Result<Vec<Step>, Refused> {
        let superseded = self.next.is_some();
        Ok(match (self.state.clone(), event) {
            (_, Event::Offered { version, kind }) => self.offered(version, kind),
            (state, Event::HubOnline) => {
                self.hub = Hub::Online;
                match state {
                    State::Paused { target } => self.begin(target),
                    State::Idle
                    | State::Waiting { .. }
                    | State::Refreshing { .. }
                    | State::Fetching { .. }
                    | State::Verifying { .. }
                    | State::Loading { .. }
                    | State::Checking { .. }
                    | State::Switching { .. } => Vec::new(),
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

            // Between two jobs is where a higher version takes over.
            (State::Refreshing { .. }, Event::Trusted)
            | (State::Fetching { .. }, Event::Fetched)
            | (State::Verifying { .. }, Event::Verified(_))
            | (State::Loading { .. }, Event::Loaded)
            | (State::Checking { .. }, Event::GoldenMatched)
                if superseded =>
            {
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
            (State::Verifying { target }, Event::Verified(candidate)) if candidate.version == target => {
                self.enter(State::Loading { candidate: candidate.clone() }, Step::Load { installed: candidate })
            }
            (State::Loading { candidate }, Event::Loaded) => {
                self.enter(State::Checking { candidate: candidate.clone() }, Step::CheckGolden { installed: candidate })
            }
            // Only a version that answers as its maker says may serve.
            (State::Checking { candidate }, Event::GoldenMatched) => {
                let slots = self.slots.switched_to(candidate.clone());
                let step = Step::Switch { installed: candidate.clone(), slots };
                self.enter(State::Switching { candidate }, step)
            }
            (State::Switching { candidate }, Event::Switched) => self.switched(candidate),

            (
                state @ (State::Refreshing { .. }
                | State::Fetching { .. }
                | State::Verifying { .. }
                | State::Loading { .. }
                | State::Checking { .. }
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
                | Event::Switched
                | Event::Failed(_)),
            ) => return Err(Refused { machine: "update", state: state.name(), event: event.name() }),
        })
    }

    fn offered(&mut self, version: Version, kind: OfferKind) -> Vec<Step> {
        match self.slots.active.clone() {
            // Said again, because the hub would not ask if it knew.
            Some(active) if active.version == version => {
                return vec![self.report(version, Stage::Active, Outcome::Active(active))];
            }
            // Signed or not: going back is not done by offering.
            Some(active) if active.version > version => {
                let outcome = Outcome::Superseded { by: active.version };
                return vec![self.report(version, Stage::Offered, outcome)];
            }
            Some(_) | None => {}
        }
        let mut steps = Vec::new();
        match (kind, self.failed.contains_key(&version)) {
            (OfferKind::Fleet, true) => return steps,
            (OfferKind::Retry, true) => {
                self.failed.remove(&version);
                self.chances.begun(version);
                steps.push(Step::Forget { version });
            }
            (OfferKind::Fleet | OfferKind::Retry, false) => {}
        }
        steps.extend(self.take(version, kind));
        steps
    }

    /// Begins the version whose second chance has come.
    fn second_chance(&mut self, now: Instant) -> Vec<Step> {
        let Some(version) = self.chances.due(self.slots.active_version(), now) else { return Vec::new() };
        self.chances.begun(version);
        self.failed.remove(&version);
        let mut steps = vec![Step::Forget { version }];
        steps.extend(self.begin_new(version));
        steps
    }

    /// Finds the place of a version that may be taken.
    fn take(&mut self, version: Version, kind: OfferKind) -> Vec<Step> {
        match (&self.state, kind) {
            (State::Idle, _) => self.begin_new(version),
            // Nothing is under way: whoever asks again need not wait, and a higher version replaces the one put off.
            (State::Waiting { target, .. }, OfferKind::Retry) if *target == version => self.begin(version),
            (State::Paused { target } | State::Waiting { target, .. }, _) if *target < version => {
                let put_off = *target;
                let mut steps = vec![Step::Remove { version: put_off }];
                steps.extend(self.begin_new(version));
                steps
            }
            // A switch cannot be stopped half-way; the higher version comes after it.
            (State::Switching { candidate }, _) if candidate.version < version => {
                self.next = self.next.max(Some(version));
                Vec::new()
            }
            (
                State::Refreshing { .. }
                | State::Fetching { .. }
                | State::Verifying { .. }
                | State::Loading { .. }
                | State::Checking { .. },
                _,
            ) if self.state.target() < Some(version) => {
                let first = self.next.is_none();
                self.next = self.next.max(Some(version));
                let stop = self.state.target().filter(|_| first);
                stop.into_iter().map(|version| Step::Abandon { version }).collect()
            }
            // The same or a lower one than is under way.
            (
                State::Paused { .. }
                | State::Waiting { .. }
                | State::Refreshing { .. }
                | State::Fetching { .. }
                | State::Verifying { .. }
                | State::Loading { .. }
                | State::Checking { .. }
                | State::Switching { .. },
                _,
            ) => Vec::new(),
        }
    }

    /// Begins a version that was not tried before.
    fn begin_new(&mut self, version: Version) -> Vec<Step> {
        self.tries = 0;
        self.told = None;
        let mut steps = vec![self.report(version, Stage::Offered, Outcome::Started)];
        steps.extend(self.begin(version));
        steps
    }

    /// Begins at the beginning: what was signed may have changed since the last try, and files are not fetched twice.
    fn begin(&mut self, target: Version) -> Vec<Step> {
        match self.hub {
            Hub::Online => self.enter(State::Refreshing { target }, Step::RefreshTrust { version: target }),
            Hub::Away => {
                self.state = State::Paused { target };
                Vec::new()
            }
        }
    }

    /// Leaves the version under way for the higher one.
    fn take_over(&mut self) -> Vec<Step> {
        let left = self.state.target().filter(|version| !self.slots.names(*version));
        let mut steps: Vec<Step> = left.into_iter().map(|version| Step::Remove { version }).collect();
        self.state = State::Idle;
        steps.extend(self.begin_next());
        steps
    }

    fn begin_next(&mut self) -> Vec<Step> {
        match self.next.take() {
            // It may have been offered twice, and have failed or been reached in between.
            Some(version) if Some(version) > self.slots.active_version() && !self.failed.contains_key(&version) => {
                self.begin_new(version)
            }
            Some(_) | None => Vec::new(),
        }
    }

    fn switched(&mut self, candidate: Installed) -> Vec<Step> {
        let candidate_version = candidate.version;
        let before = std::mem::take(&mut self.slots);
        self.slots = before.switched_to(candidate.clone());
        self.state = State::Idle;
        let mut steps = vec![self.report(candidate.version, Stage::Active, Outcome::Active(candidate))];
        let passed = self.leftover.take_if(|version| *version <= candidate_version);
        let left: Vec<Version> = before.previous.map(|installed| installed.version).into_iter().chain(passed).collect();
        steps.extend(self.slots.garbage(&left, None).into_iter().map(|version| Step::Remove { version }));
        steps.extend(self.forget_passed());
        steps.extend(self.begin_next());
        steps
    }

    /// Failures of versions under the active one can never matter again.
    fn forget_passed(&mut self) -> Vec<Step> {
        let Some(active) = self.slots.active_version() else { return Vec::new() };
        let open = self.failed.split_off(&active);
        let passed = std::mem::replace(&mut self.failed, open);
        passed.into_keys().map(|version| Step::Forget { version }).collect()
    }

    fn job_failed(&mut self, state: &State, mut failure: Failure, now: Instant, random: u64) -> Vec<Step> {
        let Some(target) = state.target() else { return Vec::new() };
        failure.detail.truncate(failure.detail.floor_char_boundary(DETAIL_BYTES_MAX));
        let loaded = matches!(state, State::Checking { .. } | State::Switching { .. });
        let unload = loaded.then_some(Step::Unload { version: target });
        if !failure.kind.is_transient() {
            let mut steps = self.given_up(target, state.stage(), failure);
            steps.extend(self.take_over());
            return steps;
        }
        if self.next.is_some() {
            return self.take_over();
        }
        let mut steps: Vec<Step> = unload.into_iter().collect();
        steps.extend(self.put_off(target, state.stage(), failure, now, random));
        steps
    }

    /// Remembers a version as one to be left alone.
    fn given_up(&mut self, target: Version, stage: Stage, failure: Failure) -> Vec<Step> {
        let mut steps = vec![Step::Remember { version: target, failure: failure.clone() }];
        self.failed.insert(target, failure.clone());
        while self.failed.len() > FAILED_MAX {
            let lowest = self.failed.pop_first();
            steps.extend(lowest.map(|(version, _)| Step::Forget { version }));
        }
        steps.push(self.report(target, stage, Outcome::Rejected(failure)));
        // With no higher version waiting, `take_over` only cleans up.
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

    fn enter(&mut self, state: State, job: Step) -> Vec<Step> {
        self.state = state;
        vec![job]
    }

    fn report(&self, version: Version, stage: Stage, outcome: Outcome) -> Step {
        Step::Report(Report { model: self.model.clone(), version, stage, outcome })
    }
}
