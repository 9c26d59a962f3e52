//! Where one request is answered, and why there.
//!
//! Fed by the door with what it knows of the request ([`RequestFacts`]) and then with what happened ([`Event`]);
//! answers with what the shell must do next ([`Step`]). Every route ends in exactly one [`Step::Answer`] or
//! [`Step::Fail`], after at most one run on the device and at most one question to the hub.
//!
//! The shell must bring an event no later than the `until` of a step: when that moment comes first it stops the work
//! and says [`LocalFailure::TooLate`] or [`HubFailure::TooLate`]. Under [`PolicyMode::OnlyDevice`] no step ever asks
//! the hub: [`Step::AskHub`] is made in one place, which looks at the policy itself.

mod failure;

use std::time::{Duration, Instant};

use types::{Place, PolicyMode, Reason};

pub use failure::{Failure, FailureCode, HubFailure, LocalFailure};

use crate::Refused;

/// Least time that must be left for asking the hub to make sense.
///
/// A warm exchange takes one round trip (0.2 ms on loopback, 20 to 60 ms over a mobile link) and the hub's smallest
/// model some milliseconds: with less than this the answer cannot come in time, and the question would only cost the
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

/// What the door knows of a request when it comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestFacts {
    /// The policy in force: the request's own, else the model's.
    pub policy: PolicyMode,
    /// When the answer is worth nothing any more.
    pub deadline: Option<Instant>,
    /// Whether the device could answer.
    pub local: LocalState,
}

/// Whether this device has a ready session for the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalState {
    /// No version is active here.
    NoModel,
    /// A version is active.
    Ready {
        /// How long it lately took from queue to answer; `None` before the first.
        expected: Option<Duration>,
    },
}

/// Whether the hub could be asked at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubState {
    /// No greeted connection.
    Away,
    /// Connected and greeted.
    Online {
        /// The connection's smoothed round trip; zero when unknown.
        round_trip: Duration,
    },
}

/// What happened to a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// The device has an answer; the shell keeps it until the route is over.
    LocalAnswered {
        /// How sure it is, 0 to 1; `None` (or not a number) where it could not be scored. See [`crate::score`].
        score: Option<f32>,
        /// The threshold of the very variant that answered; `None` where its manifest has none.
        threshold: Option<f32>,
    },
    /// The device has none.
    LocalFailed(LocalFailure),
    /// The hub has answered.
    HubAnswered,
    /// The hub has not.
    HubFailed(HubFailure),
}

impl Event {
    const fn name(self) -> &'static str {
        match self {
            Self::LocalAnswered { .. } => "local answered",
            Self::LocalFailed(_) => "local failed",
            Self::HubAnswered => "hub answered",
            Self::HubFailed(_) => "hub failed",
        }
    }
}

/// What the shell must do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Run the model on the device.
    RunLocal {
        /// Stop and say [`LocalFailure::TooLate`] then; `None` means as long as the engine's own limit allows.
        until: Option<Instant>,
    },
    /// Send the input to the hub.
    AskHub {
        /// Stop, reset the stream and say [`HubFailure::TooLate`] then. The time until then is the hub's deadline.
        until: Instant,
        /// Why the hub is asked; it goes into the request.
        reason: Reason,
    },
    /// Give the answer that was made at `place`. The route is over.
    Answer {
        /// Whose answer to give.
        place: Place,
        /// Why that one.
        reason: Reason,
    },
    /// Give no answer. The route is over.
    Fail(Failure),
}

/// What is left when the hub fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fallback {
    /// The device's own answer, already made.
    Answer,
    /// A run on the device.
    Run,
    /// Nothing: the device failed before, or the policy forbids it.
    Nothing { device: Option<LocalFailure> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The device is at work; `hub` says how the hub failed before.
    Local { hub: Option<HubFailure> },
    /// The hub is at work.
    Hub { reason: Reason, fallback: Fallback },
    /// The one answer or failure was given.
    Over,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Local { .. } => "running on the device",
            Self::Hub { .. } => "asking the hub",
            Self::Over => "over",
        }
    }
}

/// The way of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    facts: RequestFacts,
    state: State,
}

impl Route {
    /// Decides where the request goes first.
    #[must_use]
    pub fn start(facts: RequestFacts, hub: HubState, now: Instant) -> (Self, Step) {
        let mut route = Self { facts, state: State::Over };
        let (state, step) = route.first(hub, now);
        route.state = state;
        (route, step)
    }

    /// Decides what follows from `event`; `hub` is how the hub stands at `now`.
    ///
    /// # Errors
    /// [`Refused`] for an event that the last step cannot have caused; the route is as it was.
    pub fn on(&mut self, event: Event, hub: HubState, now: Instant) -> Result<Step, Refused> {
        let (state, step) = match (self.state, event) {
            // The device's answer is in hand; only cascade looks at how sure it is.
            (State::Local { hub: failed }, Event::LocalAnswered { score, threshold }) => match failed {
                Some(why) => answer(Place::Device, why.reason()),
                None => self.judge(score, threshold, hub, now),
            },
            // The device cannot: the policy says whether the hub may.
            (State::Local { hub: failed }, Event::LocalFailed(why)) => self.without_device(why, failed, hub, now),
            (State::Hub { reason, .. }, Event::HubAnswered) => answer(Place::Hub, reason),
            // A less sure answer is better than none.
            (State::Hub { fallback: Fallback::Answer, .. }, Event::HubFailed(why)) => {
                answer(Place::Device, why.reason())
            }
            // The same input would be refused here as well.
            (State::Hub { fallback: Fallback::Run, .. }, Event::HubFailed(why @ HubFailure::BadInput)) => {
                fail(Failure::of(None, Some(why)))
            }
            (State::Hub { fallback: Fallback::Run, .. }, Event::HubFailed(why)) => self.run_local(Some(why), now),
            (State::Hub { fallback: Fallback::Nothing { device }, .. }, Event::HubFailed(why)) => {
                fail(Failure::of(device, Some(why)))
            }
            (State::Local { .. }, Event::HubAnswered | Event::HubFailed(_))
            | (State::Hub { .. }, Event::LocalAnswered { .. } | Event::LocalFailed(_))
            | (State::Over, _) => {
                return Err(Refused { machine: "route", state: self.state.name(), event: event.name() });
            }
        };
        self.state = state;
        Ok(step)
    }

    /// Whether the one answer or failure was given.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    fn first(&self, hub: HubState, now: Instant) -> (State, Step) {
        if self.facts.deadline.is_some_and(|deadline| deadline <= now) {
            return fail(Failure::of(None, None));
        }
        match (self.facts.policy, self.facts.local) {
            (PolicyMode::OnlyDevice | PolicyMode::PreferDevice | PolicyMode::Cascade, LocalState::Ready { .. }) => {
                self.run_local(None, now)
            }
            (PolicyMode::OnlyDevice | PolicyMode::PreferDevice | PolicyMode::Cascade, LocalState::NoModel) => {
                self.without_device(LocalFailure::NoModel, None, hub, now)
            }
            (PolicyMode::PreferHub, LocalState::Ready { .. }) => {
                self.ask(Reason::Policy, Fallback::Run, hub, now).unwrap_or_else(|why| self.run_local(Some(why), now))
            }
            (PolicyMode::PreferHub, LocalState::NoModel) => {
                self.ask_or_fail(Reason::Policy, Some(LocalFailure::NoModel), hub, now)
            }
            (PolicyMode::OnlyHub, _) => self.ask_or_fail(Reason::Policy, None, hub, now),
        }
    }

    /// Holds a fresh answer of the device against the policy.
    fn judge(&self, score: Option<f32>, threshold: Option<f32>, hub: HubState, now: Instant) -> (State, Step) {
        if self.facts.policy != PolicyMode::Cascade {
            return answer(Place::Device, Reason::Policy);
        }
        let reason = match (threshold, score) {
            (None, _) => Reason::NotCalibrated,
            (Some(_), None) => Reason::NoScore,
            (Some(_), Some(score)) if score.is_nan() => Reason::NoScore,
            // Every comparison with NaN is false: what cannot be compared is not confident.
            (Some(threshold), Some(score)) if score >= threshold => return answer(Place::Device, Reason::Confident),
            (Some(_), Some(_)) => Reason::LowConfidence,
        };
        self.ask(reason, Fallback::Answer, hub, now).unwrap_or_else(|why| answer(Place::Device, why.reason()))
    }

    /// What follows when the device cannot answer; `failed` says how the hub failed before.
    fn without_device(
        &self,
        why: LocalFailure,
        failed: Option<HubFailure>,
        hub: HubState,
        now: Instant,
    ) -> (State, Step) {
        match (self.facts.policy, why, failed) {
            // No place would take this input, and whoever sent it must be told: the hub runs the same operators.
            (_, LocalFailure::BadInput | LocalFailure::Refused, _) => fail(Failure::of(Some(why), None)),
            // Nobody is asked twice.
            (_, _, Some(_)) => fail(Failure::of(Some(why), failed)),
            (PolicyMode::PreferDevice | PolicyMode::Cascade, _, None) => {
                self.ask_or_fail(why.reason(), Some(why), hub, now)
            }
            (PolicyMode::OnlyDevice | PolicyMode::PreferHub | PolicyMode::OnlyHub, _, None) => {
                fail(Failure::of(Some(why), None))
            }
        }
    }

    fn run_local(&self, hub: Option<HubFailure>, now: Instant) -> (State, Step) {
        match self.facts.deadline {
            // The hub took all the time there was.
            Some(deadline) if deadline <= now => fail(Failure::of(None, Some(HubFailure::TooLate))),
            until => (State::Local { hub }, Step::RunLocal { until }),
        }
    }

    fn ask_or_fail(&self, reason: Reason, device: Option<LocalFailure>, hub: HubState, now: Instant) -> (State, Step) {
        let fallback = Fallback::Nothing { device };
        self.ask(reason, fallback, hub, now).unwrap_or_else(|why| fail(Failure::of(device, Some(why))))
    }

    /// The one place that lets an input leave the device.
    fn ask(
        &self,
        reason: Reason,
        fallback: Fallback,
        hub: HubState,
        now: Instant,
    ) -> Result<(State, Step), HubFailure> {
        if !self.facts.policy.may_leave_device() {
            return Err(HubFailure::Forbidden);
        }
        let HubState::Online { round_trip } = hub else { return Err(HubFailure::Unreachable) };
        let left = self.facts.deadline.map_or(HUB_WAIT_MAX, |deadline| deadline.saturating_duration_since(now));
        let wait = left.saturating_sub(self.kept_back(fallback).min(left / 2)).min(HUB_WAIT_MAX);
        if wait < HUB_TIME_MIN.max(round_trip) {
            return Err(HubFailure::TooLate);
        }
        Ok((State::Hub { reason, fallback }, Step::AskHub { until: now + wait, reason }))
    }

    /// Time that must be left when the hub does not answer.
    fn kept_back(&self, fallback: Fallback) -> Duration {
        match (self.facts.deadline, fallback, self.facts.local) {
            (None, _, _) | (_, Fallback::Nothing { .. }, _) | (_, Fallback::Run, LocalState::NoModel) => Duration::ZERO,
            (Some(_), Fallback::Answer, _) => ANSWER_TIME,
            (Some(_), Fallback::Run, LocalState::Ready { expected }) => {
                expected.map_or(LOCAL_TIME_UNKNOWN, |expected| expected.saturating_mul(2).max(LOCAL_TIME_MIN))
            }
        }
    }
}

fn answer(place: Place, reason: Reason) -> (State, Step) {
    (State::Over, Step::Answer { place, reason })
}

fn fail(failure: Failure) -> (State, Step) {
    (State::Over, Step::Fail(failure))
}
