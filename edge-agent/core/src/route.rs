//! Place of the answer of one request, and the reason for it.
//!
//! Fed by the server with the facts of a request ([`RequestInfo`]) and then with what happened ([`Event`]); returns the
//! steps for the shell ([`Step`]). Every route ends in exactly one [`Step::Answer`] or [`Step::Fail`], after at most one
//! run on the device and at most one request to the hub. A hedged route has both in flight at once; the loser is
//! cancelled by [`Step::Cancel`].
//!
//! The shell must bring an event no later than the `until` of a step: when that moment comes first it stops the work
//! and sends [`LocalFailure::TooLate`] or [`HubFailure::TooLate`]. At [`Route::poll_timeout`] it sends [`Event::Tick`].
//! An input that the policy keeps on the device is never sent: [`Step::AskHub`] is made in one place, which asks
//! [`crate::policy::hub_wait`] itself. The first step is that of [`crate::policy::decide`].

mod failure;
mod later;

use std::time::{Duration, Instant};

use types::policy::Offline;
use types::{Place, Policy, PolicyMode, Reason};

pub use failure::{Failure, HubFailure, LocalFailure};

use crate::Refused;
use crate::policy::{Plan, Snapshot, decide, hub_wait, is_never_sure, never_sure, reserved_for_run};

/// Least time that must be left for asking the hub to make sense.
///
/// A warm exchange takes one round trip (0.2 ms on loopback, 20 to 60 ms over a mobile link) and the hub's smallest
/// model some milliseconds: with less than this the answer cannot come in time, and the request would only cost the
/// device bytes and the hub work. Where the measured round trip is longer, that is the least time instead.
pub const HUB_TIME_MIN: Duration = Duration::from_millis(10);

/// Longest wait for the hub where the request brings no deadline.
///
/// As long as the transport keeps a silent connection: whoever waits longer waits for something that is gone.
pub const HUB_WAIT_MAX: Duration = Duration::from_secs(30);

/// Time kept back from the hub for handing over an answer that the device already has: encoding 64 MiB at worst.
pub const ANSWER_TIME: Duration = Duration::from_millis(2);

/// Time kept back from the hub for a run on the device of which nothing was measured yet.
///
/// An int8 image classifier takes about this long on a small single-board computer. Never more than half of the time
/// left is kept back, so that the hub is asked at all.
pub const LOCAL_TIME_UNKNOWN: Duration = Duration::from_millis(100);

/// Least time kept back from the hub for a run on the device, and twice the measured one where that is more.
///
/// What was measured is an average: on a busy device the queue, a timer and the engine are each late by milliseconds,
/// and then the request would have no answer at all.
pub const LOCAL_TIME_MIN: Duration = Duration::from_millis(25);

/// Facts of a request when it comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestInfo {
    /// The policy in force: the request's own, else the model's.
    pub policy: Policy,
    /// Time at which the answer is worthless; without it [`Policy::deadline`] counts from the start of the route.
    pub deadline: Option<Instant>,
    /// Ability of the device to answer.
    pub local: LocalState,
    /// Size of the input in bytes, for [`types::policy::Budget::hub_bytes`].
    pub input_bytes: u64,
}

/// Ability of this device to answer for the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalState {
    /// No version is active here.
    NoModel,
    /// A version is active.
    Ready {
        /// Recent time from queue to answer; `None` before the first.
        expected: Option<Duration>,
    },
}

/// Ability of the hub to be asked at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubState {
    /// No connection that was greeted.
    Away,
    /// Connected, greeted and usable.
    Online {
        /// The connection's smoothed round trip; zero when unknown.
        round_trip: Duration,
    },
}

/// Something that happened to a route.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// The connection to the hub changed. The shell sends it before any other event; it never causes a step by itself.
    Hub(HubState),
    /// The time of [`Route::poll_timeout`] has come.
    Tick,
    /// The device has an answer; the shell keeps it until the route is over.
    LocalAnswered {
        /// Confidence, 0 to 1; `None` (or not a number) where it could not be scored.
        score: Option<f32>,
        /// The threshold of the variant that answered; `None` where its manifest has none.
        threshold: Option<f32>,
    },
    /// The device has no answer.
    LocalFailed(LocalFailure),
    /// The hub has answered.
    HubAnswered,
    /// The hub has not answered.
    HubFailed(HubFailure),
}

impl Event {
    const fn name(self) -> &'static str {
        match self {
            Self::Hub(_) => "hub changed",
            Self::Tick => "tick",
            Self::LocalAnswered { .. } => "local answered",
            Self::LocalFailed(_) => "local failed",
            Self::HubAnswered => "hub answered",
            Self::HubFailed(_) => "hub failed",
        }
    }
}

/// An order to the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Run the model on the device.
    RunLocal {
        /// Stop and send [`LocalFailure::TooLate`] then; `None` means as long as the engine's own limit allows.
        until: Option<Instant>,
    },
    /// Send the input to the hub.
    AskHub {
        /// Stop, reset the stream and send [`HubFailure::TooLate`] then. The time until then is the hub's deadline.
        until: Instant,
        /// Reason for asking the hub; it goes into the request.
        reason: Reason,
    },
    /// Stop the work at this place; no event of it is expected any more.
    Cancel(Place),
    /// Put the request into the outbox, so that the hub answers it later. [`Step::Answer`] or [`Step::Fail`] follows at once;
    /// the answer is provisional then, and in place of the failure the client is told where to ask.
    Queue {
        /// Reason for asking the hub.
        reason: Reason,
    },
    /// Return the answer that was made at `place`. The route is over.
    Answer {
        /// Place whose answer to return.
        place: Place,
        /// Reason for that place.
        reason: Reason,
    },
    /// Return no answer. The route is over.
    Fail(Failure),
}

/// State of the work on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Local {
    Unused,
    Running,
    /// Answered; the answer is returned only if the hub fails.
    Answered,
    Failed(LocalFailure),
}

/// State of the request to the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hub {
    Unused,
    Asked(Reason),
    Failed(HubFailure),
}

/// State of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At least one place is at work.
    Open { local: Local, hub: Hub },
    /// The one answer or failure was given.
    Over,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Open { local: Local::Running, hub: Hub::Asked(_) } => "running on the device and asking the hub",
            Self::Open { local: Local::Running, .. } => "running on the device",
            Self::Open { hub: Hub::Asked(_), .. } => "asking the hub",
            Self::Open { .. } => "open",
            Self::Over => "over",
        }
    }
}

/// Verdict of the policy on an answer of the device.
enum Verdict {
    Accept(Reason),
    /// Ask the hub for this reason, or wait for it.
    Defer(Reason),
}

/// Way of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Request, policy and measurements, with the latest known connection to the hub.
    snapshot: Snapshot,
    state: State,
    /// Time at which the second place is asked too.
    hedge_at: Option<Instant>,
    /// Whether the device is tried when the hub fails.
    has_fallback: bool,
}

impl Route {
    /// Begins a route without measurements, conditions and budgets.
    #[must_use]
    pub fn start(facts: RequestInfo, hub: HubState, now: Instant) -> (Self, Vec<Step>) {
        Self::begin(Snapshot::of(facts, hub), now)
    }

    /// Begins the route that [`decide`] plans for a snapshot.
    #[must_use]
    pub fn begin(mut snapshot: Snapshot, now: Instant) -> (Self, Vec<Step>) {
        let limit = snapshot.info.policy.deadline.and_then(|limit| now.checked_add(limit));
        snapshot.info.deadline = snapshot.info.deadline.or(limit);
        let mut route = Self { snapshot, state: State::Over, hedge_at: None, has_fallback: false };
        let steps = route.first(now);
        (route, steps)
    }

    /// Decides what follows from `event`.
    ///
    /// # Errors
    /// [`Refused`] for an event that no step in flight can have caused; the route is as it was.
    pub fn handle(&mut self, event: Event, now: Instant) -> Result<Vec<Step>, Refused> {
        if let Event::Hub(hub) = event {
            self.snapshot.hub = hub;
            return Ok(Vec::new());
        }
        let State::Open { local, hub } = self.state else { return Err(self.refuse(event)) };
        match (event, local, hub) {
            // A clock that is early, or a hedge that was overtaken by an answer, changes nothing.
            (Event::Tick, _, _) => Ok(self.tick(local, hub, now)),
            (Event::LocalAnswered { score, threshold }, Local::Running, _) => {
                Ok(self.local_answered(self.judge(score, threshold), hub, now))
            }
            (Event::LocalFailed(why), Local::Running, _) => Ok(self.local_failed(why, hub, now)),
            (Event::HubAnswered, _, Hub::Asked(reason)) => Ok(self.answer(Place::Hub, reason)),
            (Event::HubFailed(why), _, Hub::Asked(_)) => Ok(self.hub_failed(why, local, now)),
            (Event::Hub(_) | Event::LocalAnswered { .. } | Event::LocalFailed(_), _, _)
            | (Event::HubAnswered | Event::HubFailed(_), _, _) => Err(self.refuse(event)),
        }
    }

    /// Returns the time at which the shell must send [`Event::Tick`], and its reason.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.hedge_at.map(|at| (at, "ask the hub too"))
    }

    /// Returns whether the one answer or failure was given.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    fn refuse(&self, event: Event) -> Refused {
        Refused { machine: "route", state: self.state.name(), event: event.name() }
    }

    fn first(&mut self, now: Instant) -> Vec<Step> {
        let decision = decide(&self.snapshot, now);
        let unused = match self.snapshot.info.local {
            LocalState::NoModel if self.mode() != PolicyMode::OnlyHub => Local::Failed(LocalFailure::NoModel),
            LocalState::NoModel | LocalState::Ready { .. } => Local::Unused,
        };
        match decision.plan {
            Plan::Refuse(failure) => self.fail_or_queue(failure, self.wanted()),
            // The application takes the hub's answer later, and the device's at once.
            Plan::HubThenDevice | Plan::Hedge { first: Place::Hub, .. } if self.answers_first() => {
                self.run_local(Hub::Unused, now)
            }
            Plan::Device | Plan::DeviceThenHub => self.run_local(self.hub_before(decision.hub), now),
            Plan::Hedge { first: Place::Device, second_at } => {
                self.hedge_at = Some(second_at);
                self.run_local(Hub::Unused, now)
            }
            Plan::Hub => self.ask_or_fail(decision.reason, unused, now),
            Plan::HubThenDevice => {
                self.has_fallback = true;
                self.ask_or_fail(decision.reason, Local::Unused, now)
            }
            Plan::Hedge { first: Place::Hub, second_at } => {
                self.has_fallback = true;
                let steps = self.ask_or_fail(decision.reason, Local::Unused, now);
                self.hedge_at = Some(second_at).filter(|_| !self.is_over());
                steps
            }
        }
    }

    fn mode(&self) -> PolicyMode {
        self.snapshot.info.policy.mode
    }

    /// Returns the state of the hub when the device begins: failed where the mode wanted the hub first.
    fn hub_before(&self, failure: Option<HubFailure>) -> Hub {
        failure.filter(|_| self.mode() == PolicyMode::PreferHub).map_or(Hub::Unused, Hub::Failed)
    }

    /// Has the second place work too when the hedge delay is over.
    fn tick(&mut self, local: Local, hub: Hub, now: Instant) -> Vec<Step> {
        if self.hedge_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        self.hedge_at = None;
        let reason = match self.mode() {
            PolicyMode::Hedge => Reason::Hedged,
            _other if is_never_sure(&self.snapshot) => never_sure(&self.snapshot),
            _other => Reason::DeviceTooLate,
        };
        match (local, hub) {
            // A hub that is away or too far only loses the hedge: the device goes on.
            (Local::Running, Hub::Unused) => self.defer(reason, local, now).unwrap_or_default(),
            // The run begins now, so that it ends in time if the hub fails.
            (Local::Unused, Hub::Asked(_)) if self.has_fallback => self.run_local(hub, now),
            (Local::Running | Local::Unused | Local::Answered | Local::Failed(_), _) => Vec::new(),
        }
    }

    fn local_answered(&mut self, verdict: Verdict, hub: Hub, now: Instant) -> Vec<Step> {
        self.state = State::Open { local: Local::Answered, hub };
        match (verdict, hub) {
            // With prefer-hub the failure of the hub is the reason for this place.
            (Verdict::Accept(_), Hub::Failed(why)) if self.mode() == PolicyMode::PreferHub => {
                self.answer_without(Reason::Policy, why)
            }
            (Verdict::Accept(_), Hub::Unused) if self.answers_first() => {
                self.answer_provisionally(Reason::Policy, Reason::Policy)
            }
            // The hub is preferred as long as it may still answer.
            (Verdict::Accept(_), Hub::Asked(_)) if self.mode() == PolicyMode::PreferHub => Vec::new(),
            (Verdict::Accept(reason), _) => self.answer(Place::Device, reason),
            (Verdict::Defer(reason), Hub::Failed(why)) => self.answer_unsure(reason, why),
            (Verdict::Defer(_), Hub::Asked(_)) => Vec::new(),
            (Verdict::Defer(reason), Hub::Unused) if self.may_amend(reason) => {
                self.answer_provisionally(reason, reason)
            }
            (Verdict::Defer(reason), Hub::Unused) => match self.defer(reason, Local::Answered, now) {
                Ok(steps) => steps,
                Err(why) => self.answer_unsure(reason, why),
            },
        }
    }

    fn local_failed(&mut self, why: LocalFailure, hub: Hub, now: Instant) -> Vec<Step> {
        self.state = State::Open { local: Local::Failed(why), hub };
        match (why, hub) {
            // No place would take this input, and the sender must know: the hub runs the same operators.
            (LocalFailure::BadInput | LocalFailure::Refused, _) => self.fail(Failure::of(Some(why), None)),
            // Nobody is asked twice.
            (_, Hub::Failed(hub)) => self.fail_or_queue(Failure::of(Some(why), Some(hub)), why.reason()),
            (_, Hub::Asked(_)) => Vec::new(),
            (_, Hub::Unused) => self.without_device(why, now),
        }
    }

    fn hub_failed(&mut self, why: HubFailure, local: Local, now: Instant) -> Vec<Step> {
        let has_fallback = self.has_fallback && !self.fails_without(why);
        let asked = match self.state {
            State::Open { hub: Hub::Asked(reason), .. } => reason,
            State::Open { .. } | State::Over => Reason::Policy,
        };
        self.state = State::Open { local, hub: Hub::Failed(why) };
        match local {
            Local::Running => Vec::new(),
            Local::Answered => self.answer_unsure(asked, why),
            Local::Failed(device) => self.fail_or_queue(Failure::of(Some(device), Some(why)), asked),
            // The same input would be refused here as well.
            Local::Unused if has_fallback && why != HubFailure::BadInput => self.run_local(Hub::Failed(why), now),
            Local::Unused => self.fail_or_queue(Failure::of(None, Some(why)), asked),
        }
    }

    /// Returns the device's answer although it is not sure, because that is better than none; fails if the policy says so.
    /// `wanted` is the reason for which the hub was wanted, `why` the one for which it has not answered.
    fn answer_unsure(&mut self, wanted: Reason, why: HubFailure) -> Vec<Step> {
        if self.fails_without(why) {
            return self.fail(Failure::of(None, Some(why)));
        }
        self.answer_without(wanted, why)
    }

    /// Returns whether the request fails because the hub cannot be reached.
    fn fails_without(&self, why: HubFailure) -> bool {
        why == HubFailure::Unreachable && self.snapshot.info.policy.offline == Offline::Fail
    }

    /// Judges an answer of the device by the policy.
    fn judge(&self, score: Option<f32>, threshold: Option<f32>) -> Verdict {
        let is_hedge = match self.mode() {
            PolicyMode::Cascade => false,
            PolicyMode::Hedge => true,
            PolicyMode::OnlyDevice | PolicyMode::PreferDevice | PolicyMode::PreferHub | PolicyMode::OnlyHub => {
                return Verdict::Accept(Reason::Policy);
            }
        };
        let reason = match (threshold, score) {
            // Hedging is about time: without a threshold every answer is acceptable.
            (None, _) if is_hedge && !self.snapshot.is_withdrawn => return Verdict::Accept(Reason::Policy),
            (None, _) => never_sure(&self.snapshot),
            (Some(_), None) => Reason::NoScore,
            (Some(_), Some(score)) if score.is_nan() => Reason::NoScore,
            // Every comparison with NaN is false: what cannot be compared is not confident.
            (Some(threshold), Some(score)) if score >= threshold => return Verdict::Accept(Reason::Confident),
            (Some(_), Some(_)) => Reason::LowConfidence,
        };
        Verdict::Defer(reason)
    }

    /// Decides what follows when the device cannot answer and the hub was not asked.
    fn without_device(&mut self, why: LocalFailure, now: Instant) -> Vec<Step> {
        match self.mode() {
            PolicyMode::PreferDevice | PolicyMode::Cascade | PolicyMode::Hedge => {
                self.ask_or_fail(why.reason(), Local::Failed(why), now)
            }
            // The hub was left for later, and is asked at once after all.
            PolicyMode::PreferHub if self.answers_first() => self.ask_or_fail(why.reason(), Local::Failed(why), now),
            PolicyMode::OnlyDevice | PolicyMode::PreferHub | PolicyMode::OnlyHub => {
                self.fail(Failure::of(Some(why), None))
            }
        }
    }

    fn run_local(&mut self, hub: Hub, now: Instant) -> Vec<Step> {
        match self.snapshot.info.deadline {
            // The hub took all the time there was.
            Some(deadline) if deadline <= now => self.fail(Failure::of(None, Some(HubFailure::TooLate))),
            until => {
                self.state = State::Open { local: Local::Running, hub };
                vec![Step::RunLocal { until }]
            }
        }
    }

    fn ask_or_fail(&mut self, reason: Reason, local: Local, now: Instant) -> Vec<Step> {
        let device = match local {
            Local::Failed(device) => Some(device),
            Local::Unused | Local::Running | Local::Answered => None,
        };
        match self.defer(reason, local, now) {
            Ok(steps) => steps,
            Err(why) => self.fail_or_queue(Failure::of(device, Some(why)), reason),
        }
    }

    /// Sends the input to the hub: the one place that lets it leave the device. `local` is the state of the device then.
    fn defer(&mut self, reason: Reason, local: Local, now: Instant) -> Result<Vec<Step>, HubFailure> {
        let wait = hub_wait(&self.snapshot, self.reserved(local), reason, now)?;
        self.hedge_at = None;
        self.state = State::Open { local, hub: Hub::Asked(reason) };
        Ok(vec![Step::AskHub { until: now + wait, reason }])
    }

    /// Returns the time that must be left for the device when the hub does not answer.
    fn reserved(&self, local: Local) -> Duration {
        match (self.snapshot.info.deadline, local) {
            (None, _) | (_, Local::Failed(_)) => Duration::ZERO,
            (Some(_), Local::Answered | Local::Running) => ANSWER_TIME,
            (Some(_), Local::Unused) if self.mode() == PolicyMode::PreferHub => reserved_for_run(&self.snapshot),
            (Some(_), Local::Unused) => Duration::ZERO,
        }
    }

    fn answer(&mut self, place: Place, reason: Reason) -> Vec<Step> {
        self.end(Step::Answer { place, reason })
    }

    fn fail(&mut self, failure: Failure) -> Vec<Step> {
        self.end(Step::Fail(failure))
    }

    /// Ends the route with its last step, behind the cancellation of a place that is still at work.
    fn end(&mut self, last: Step) -> Vec<Step> {
        self.hedge_at = None;
        let is_of_hub = matches!(last, Step::Answer { place: Place::Hub, .. });
        let loser = match std::mem::replace(&mut self.state, State::Over) {
            State::Open { local: Local::Running, .. } => Some(Place::Device),
            State::Open { hub: Hub::Asked(_), .. } if !is_of_hub => Some(Place::Hub),
            State::Open { .. } | State::Over => None,
        };
        loser.map(Step::Cancel).into_iter().chain([last]).collect()
    }
}
