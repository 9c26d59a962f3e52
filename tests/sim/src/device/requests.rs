//! Requests of applications to a device, decided by [`edge_core::route`].

use std::time::{Duration, Instant};

use edge_core::route::{Event, HubFailure, LocalFailure, LocalState, RequestInfo, Route, Step};
use types::{Place, Policy};

use super::{Alarm, Device};
use crate::env::{Env, Happening};
use crate::scenario::{POLICIES, Quality};
use crate::wire::Up;

/// Number of requests in an occasional burst: more than the hub queues for one device.
const BURST: usize = 12;

/// A request without a response yet.
#[derive(Debug)]
pub(super) struct Pending {
    route: Route,
    policy: Policy,
    deadline: Option<Instant>,
    /// Whether the device works on it.
    on_device: bool,
    /// Whether the hub works on it.
    at_hub: bool,
    /// Whether a version was active when the request arrived.
    had_model: bool,
}

impl Device {
    /// Sends a request of an application, sometimes a burst of them.
    pub(super) fn request(&mut self, env: &mut Env) {
        let next = env.time(Duration::ZERO, env.scenario.request_every * 2);
        self.later(env, next, Alarm::Request);
        let burst = if env.chance(0.05) { BURST } else { 1 };
        (0..burst).for_each(|_| self.ask(env));
    }

    fn ask(&mut self, env: &mut Env) {
        let at = rand::Rng::random_range(&mut env.random, 0..POLICIES.len());
        let policy = Policy::from(POLICIES[at]);
        let deadline = env.chance(0.7).then(|| env.now() + env.millis(1, 2000));
        let expected = Some(Duration::from_millis(50));
        let had_model = self.agent.served.is_some();
        let local = self.agent.served.map_or(LocalState::NoModel, |_| LocalState::Ready { expected });
        let hub = self.agent.uplink.hub(env.scenario.latency);
        let facts = RequestInfo { policy, deadline, local, input_bytes: 0 };
        let (route, steps) = Route::start(facts, hub, env.now());
        self.agent.requests_made += 1;
        let request = self.agent.requests_made;
        self.agent
            .requests
            .insert(request, Pending { route, policy, deadline, on_device: false, at_hub: false, had_model });
        self.follow(env, request, steps);
    }

    /// Handles an event of a request; does nothing if the request has ended.
    pub(super) fn route(&mut self, env: &mut Env, request: u64, event: Event) {
        let hub = self.agent.uplink.hub(env.scenario.latency);
        let now = env.now();
        let Some(pending) = self.agent.requests.get_mut(&request) else { return };
        // An echo of work that was cancelled, or that ended otherwise.
        let is_expected = match event {
            Event::LocalAnswered { .. } | Event::LocalFailed(_) => std::mem::take(&mut pending.on_device),
            Event::HubAnswered | Event::HubFailed(_) => std::mem::take(&mut pending.at_hub),
            Event::Tick | Event::Hub(_) => true,
        };
        if !is_expected {
            return;
        }
        let handled = pending.route.handle(Event::Hub(hub), now).and_then(|_none| pending.route.handle(event, now));
        match handled {
            Ok(steps) => self.follow(env, request, steps),
            Err(refused) => env.expect(false, || refused.to_string()),
        }
    }

    pub(super) fn too_late(&mut self, env: &mut Env, request: u64) {
        if self.agent.requests.get(&request).is_some_and(|pending| pending.at_hub) {
            self.say(env, Up::Cancel { request });
            self.route(env, request, Event::HubFailed(HubFailure::TooLate));
        }
    }

    pub(super) fn requests_lost_hub(&mut self, env: &mut Env) {
        let at_hub = self.agent.requests.iter().filter(|(_, pending)| pending.at_hub);
        let waiting: Vec<u64> = at_hub.map(|(request, _)| *request).collect();
        for request in waiting {
            self.route(env, request, Event::HubFailed(HubFailure::Unreachable));
        }
    }

    fn follow(&mut self, env: &mut Env, request: u64, steps: Vec<Step>) {
        for step in steps {
            self.take_step(env, request, step);
        }
        let timeout = self.agent.requests.get(&request).and_then(|pending| pending.route.poll_timeout());
        if let Some((at, _why)) = timeout {
            env.at(at, Happening::Device(self.at, self.boot, Alarm::Hedge(request)));
        }
    }

    fn take_step(&mut self, env: &mut Env, request: u64, step: Step) {
        let Some(pending) = self.agent.requests.get_mut(&request) else { return };
        let (policy, deadline, had_model) = (pending.policy, pending.deadline, pending.had_model);
        match step {
            Step::RunLocal { until } => {
                pending.on_device = true;
                self.run_local(env, request, until);
            }
            Step::AskHub { until, .. } => {
                pending.at_hub = true;
                let mode = policy.mode;
                env.expect(policy.may_send(0), || format!("{} asks the hub under {mode}", self.id));
                let left = until.saturating_duration_since(env.now());
                self.say(env, Up::Infer { request, policy: mode, left });
                env.at(until, Happening::Device(self.at, self.boot, Alarm::TooLate(request)));
            }
            // No policy of the simulated fleet queues.
            Step::Queue { .. } => {}
            Step::Cancel(Place::Device) => pending.on_device = false,
            Step::Cancel(Place::Hub) => {
                pending.at_hub = false;
                self.say(env, Up::Cancel { request });
            }
            Step::Answer { place: Place::Device, .. } => {
                env.watch.counts.by_device += 1;
                self.end(env, request, deadline);
            }
            Step::Answer { place: Place::Hub, .. } => {
                env.watch.counts.by_hub += 1;
                self.end(env, request, deadline);
            }
            Step::Fail(failure) => {
                env.watch.counts.failed += 1;
                let lacking = failure.device == Some(LocalFailure::NoModel) && had_model;
                env.expect(!lacking, || format!("{} had a model and has none: {failure}", self.id));
                self.end(env, request, deadline);
            }
        }
    }

    fn run_local(&mut self, env: &mut Env, request: u64, until: Option<Instant>) {
        let good = self.agent.served.is_none_or(|version| env.scenario.quality(version) == Some(Quality::Good));
        env.expect(good, || format!("{} answers with a bad version: {:?}", self.id, self.agent.served));
        let done = env.now() + env.millis(5, 150);
        let event = if self.agent.served.is_none() {
            Event::LocalFailed(LocalFailure::NoModel)
        } else if env.chance(env.scenario.trouble) {
            Event::LocalFailed(if env.chance(0.5) { LocalFailure::Busy } else { LocalFailure::Failed })
        } else {
            let score = if env.chance(0.6) { 0.95 } else { 0.5 };
            Event::LocalAnswered { score: Some(score), threshold: env.chance(0.9).then_some(0.8) }
        };
        let (at, event) = match until {
            Some(until) if until < done => (until, Event::LocalFailed(LocalFailure::TooLate)),
            Some(_) | None => (done, event),
        };
        env.at(at, Happening::Device(self.at, self.boot, Alarm::Local(request, event)));
    }

    fn end(&mut self, env: &mut Env, request: u64, deadline: Option<Instant>) {
        let now = env.now();
        let in_time = deadline.is_none_or(|deadline| now <= deadline);
        env.expect(in_time, || format!("{} waited past the deadline of request {request}", self.id));
        let ended = self.agent.requests.remove(&request);
        env.expect(ended.is_some_and(|pending| pending.route.is_over()), || format!("request {request} ended early"));
    }
}
