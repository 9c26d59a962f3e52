//! Promises of the routing policies.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at its first surprise")]

use std::time::{Duration, Instant};

use edge_core::route::{
    ANSWER_TIME, Event, HUB_TIME_MIN, HUB_WAIT_MAX, HubFailure, HubState, LocalFailure, LocalState, RequestInfo, Route,
    Step,
};
use proptest::prelude::*;
use types::policy::{Budget, Offline, Privacy};
use types::{ErrorCode, Place, Policy, PolicyMode, Reason};

const ONLINE: HubState = HubState::Online { round_trip: Duration::from_millis(2) };
const READY: LocalState = LocalState::Ready { expected: Some(Duration::from_millis(20)) };
const SURE: Event = Event::LocalAnswered { score: Some(0.9), threshold: Some(0.8) };
const UNSURE: Event = Event::LocalAnswered { score: Some(0.7), threshold: Some(0.8) };

fn facts(mode: PolicyMode) -> RequestInfo {
    RequestInfo { policy: Policy::from(mode), deadline: None, local: READY, input_bytes: 1000 }
}

/// Runs a route through these events, and returns its last step.
fn last(facts: RequestInfo, hub: HubState, events: &[Event]) -> Step {
    let now = Instant::now();
    let (mut route, mut steps) = Route::start(facts, hub, now);
    for event in events {
        steps = route.handle(*event, now).unwrap();
    }
    assert!(route.is_over(), "{steps:?} is not the end");
    only(&steps)
}

/// Returns the one step.
fn only(steps: &[Step]) -> Step {
    match steps {
        [step] => *step,
        other => panic!("{other:?} is not one step"),
    }
}

fn answered(place: Place, reason: Reason) -> Step {
    Step::Answer { place, reason }
}

fn code(step: Step) -> ErrorCode {
    match step {
        Step::Fail(failure) => failure.code,
        other => panic!("{other:?} is no failure"),
    }
}

#[test]
fn cascade_keeps_a_sure_answer_and_defers_an_unsure_one() {
    let cascade = facts(PolicyMode::Cascade);
    assert_eq!(last(cascade, ONLINE, &[SURE]), answered(Place::Device, Reason::Confident));
    let at = Event::LocalAnswered { score: Some(0.8), threshold: Some(0.8) };
    assert_eq!(last(cascade, ONLINE, &[at]), answered(Place::Device, Reason::Confident), "reaching it is enough");
    assert_eq!(last(cascade, ONLINE, &[UNSURE, Event::HubAnswered]), answered(Place::Hub, Reason::LowConfidence));
}

#[test]
fn an_answer_that_cannot_be_scored_is_deferred() {
    let cascade = facts(PolicyMode::Cascade);
    for score in [None, Some(f32::NAN)] {
        let answer = Event::LocalAnswered { score, threshold: Some(0.0) };
        let step = last(cascade, ONLINE, &[answer, Event::HubAnswered]);
        assert_eq!(step, answered(Place::Hub, Reason::NoScore), "{score:?}");
    }
    let nan_threshold = Event::LocalAnswered { score: Some(1.0), threshold: Some(f32::NAN) };
    assert_eq!(
        last(cascade, ONLINE, &[nan_threshold, Event::HubAnswered]),
        answered(Place::Hub, Reason::LowConfidence)
    );
    let without = Event::LocalAnswered { score: Some(1.0), threshold: None };
    assert_eq!(last(cascade, ONLINE, &[without, Event::HubAnswered]), answered(Place::Hub, Reason::NotCalibrated));
}

#[test]
fn an_unsure_answer_is_better_than_none() {
    let cascade = facts(PolicyMode::Cascade);
    assert_eq!(last(cascade, HubState::Away, &[UNSURE]), answered(Place::Device, Reason::HubUnreachable));
    for (why, reason) in [
        (HubFailure::Unreachable, Reason::HubUnreachable),
        (HubFailure::TooLate, Reason::HubTooLate),
        (HubFailure::Busy, Reason::HubFailed),
        (HubFailure::UnknownModel, Reason::HubFailed),
        (HubFailure::BadInput, Reason::HubFailed),
        (HubFailure::NotAuthorised, Reason::HubFailed),
        (HubFailure::Failed, Reason::HubFailed),
    ] {
        assert_eq!(last(cascade, ONLINE, &[UNSURE, Event::HubFailed(why)]), answered(Place::Device, reason));
    }
}

#[test]
fn prefer_device_uses_the_hub_only_when_the_device_cannot() {
    let policy = facts(PolicyMode::PreferDevice);
    assert_eq!(last(policy, ONLINE, &[UNSURE]), answered(Place::Device, Reason::Policy));
    for (why, reason) in [
        (LocalFailure::NoModel, Reason::NoLocalModel),
        (LocalFailure::Busy, Reason::DeviceBusy),
        (LocalFailure::Failed, Reason::DeviceFailed),
    ] {
        let step = last(policy, ONLINE, &[Event::LocalFailed(why), Event::HubAnswered]);
        assert_eq!(step, answered(Place::Hub, reason));
    }
    let without = RequestInfo { local: LocalState::NoModel, ..policy };
    assert_eq!(last(without, ONLINE, &[Event::HubAnswered]), answered(Place::Hub, Reason::NoLocalModel));
    assert_eq!(code(last(without, HubState::Away, &[])), ErrorCode::HubUnreachable);
}

#[test]
fn prefer_hub_falls_back_on_the_device() {
    let policy = facts(PolicyMode::PreferHub);
    assert_eq!(last(policy, ONLINE, &[Event::HubAnswered]), answered(Place::Hub, Reason::Policy));
    assert_eq!(last(policy, HubState::Away, &[UNSURE]), answered(Place::Device, Reason::HubUnreachable));
    let failed = Event::HubFailed(HubFailure::Failed);
    assert_eq!(last(policy, ONLINE, &[failed, SURE]), answered(Place::Device, Reason::HubFailed));
    let busy = Event::LocalFailed(LocalFailure::Busy);
    let Step::Fail(failure) = last(policy, ONLINE, &[failed, busy]) else { panic!() };
    assert_eq!(failure.to_string(), "the device's queue is full, and the hub failed");
}

#[test]
fn only_hub_fails_fast_and_clearly_when_the_hub_is_away() {
    let step = last(facts(PolicyMode::OnlyHub), HubState::Away, &[]);
    let Step::Fail(failure) = step else { panic!() };
    assert_eq!(failure.to_string(), "the hub cannot be reached");
    assert!(failure.code.advice().contains("prefer-hub"));
}

#[test]
fn an_input_that_does_not_fit_is_refused_without_asking_anyone_else() {
    // Neither what the signature refuses nor what an operator cannot compute gets a second try: the hub runs the same model.
    for why in [LocalFailure::BadInput, LocalFailure::Refused] {
        for policy in [PolicyMode::OnlyDevice, PolicyMode::PreferDevice, PolicyMode::Cascade] {
            for hub in [ONLINE, HubState::Away] {
                assert_eq!(code(last(facts(policy), hub, &[Event::LocalFailed(why)])), ErrorCode::BadInput);
            }
        }
        // After a hub that failed otherwise the request is still the one at fault.
        let hub_failed = Event::HubFailed(HubFailure::Failed);
        let step = last(facts(PolicyMode::PreferHub), ONLINE, &[hub_failed, Event::LocalFailed(why)]);
        assert_eq!(code(step), ErrorCode::BadInput);
    }
    let hub_says_so = Event::HubFailed(HubFailure::BadInput);
    assert_eq!(code(last(facts(PolicyMode::PreferHub), ONLINE, &[hub_says_so])), ErrorCode::BadInput);
}

#[test]
fn too_little_time_is_not_spent_on_asking() {
    let now = Instant::now();
    let within = |mode, left| RequestInfo { deadline: Some(now + left), ..facts(mode) };
    let cascade = within(PolicyMode::Cascade, HUB_TIME_MIN + ANSWER_TIME / 2);
    let (mut route, _) = Route::start(cascade, ONLINE, now);
    assert_eq!(route.handle(UNSURE, now), Ok(vec![answered(Place::Device, Reason::HubTooLate)]));
    let (_, steps) = Route::start(within(PolicyMode::PreferHub, HUB_TIME_MIN), ONLINE, now);
    assert!(matches!(only(&steps), Step::RunLocal { .. }), "{steps:?}");
    let far = HubState::Online { round_trip: Duration::from_secs(1) };
    let (_, steps) = Route::start(within(PolicyMode::OnlyHub, Duration::from_millis(900)), far, now);
    assert_eq!(code(only(&steps)), ErrorCode::DeadlineExceeded, "shorter than one round trip");
}

#[test]
fn prefer_hub_keeps_time_back_for_the_device() {
    let now = Instant::now();
    let deadline = now + Duration::from_millis(100);
    let asked_until = |local| {
        let facts = RequestInfo { deadline: Some(deadline), local, ..facts(PolicyMode::PreferHub) };
        match only(&Route::start(facts, ONLINE, now).1) {
            Step::AskHub { until, .. } => until,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(asked_until(READY), deadline - Duration::from_millis(40), "twice what a run takes");
    let slow = LocalState::Ready { expected: Some(Duration::from_secs(5)) };
    assert_eq!(asked_until(slow), deadline - Duration::from_millis(50), "never more than half");
    assert_eq!(asked_until(LocalState::NoModel), deadline);
}

#[test]
fn a_deadline_that_has_passed_asks_nobody() {
    let now = Instant::now();
    for mode in PolicyMode::ALL {
        let facts = RequestInfo { deadline: Some(now), ..facts(mode) };
        assert_eq!(code(only(&Route::start(facts, ONLINE, now).1)), ErrorCode::DeadlineExceeded);
    }
}

#[test]
fn an_event_that_makes_no_sense_is_refused_and_changes_nothing() {
    let now = Instant::now();
    let (mut route, _) = Route::start(facts(PolicyMode::Cascade), ONLINE, now);
    let error = route.handle(Event::HubAnswered, now).unwrap_err();
    assert_eq!(error.to_string(), "route: event \"hub answered\" makes no sense in state \"running on the device\"");
    assert_eq!(route.handle(SURE, now), Ok(vec![answered(Place::Device, Reason::Confident)]));
    assert!(route.handle(SURE, now).is_err(), "one answer, once");
}

#[test]
fn a_policy_with_a_deadline_sets_it_where_the_request_brings_none() {
    let now = Instant::now();
    let policy = Policy { deadline: Some(Duration::from_millis(300)), ..Policy::from(PolicyMode::OnlyDevice) };
    let started = |deadline| only(&Route::start(RequestInfo { policy, deadline, ..facts(policy.mode) }, ONLINE, now).1);
    assert_eq!(started(None), Step::RunLocal { until: Some(now + Duration::from_millis(300)) });
    let own = Some(now + Duration::from_secs(9));
    assert_eq!(started(own), Step::RunLocal { until: own }, "the request's own deadline wins");
}

#[test]
fn an_input_over_the_budget_stays_on_the_device() {
    let limited = |mode| {
        let policy = Policy { budget: Budget { hub_bytes: Some(999), ..Budget::default() }, ..Policy::from(mode) };
        RequestInfo { policy, ..facts(mode) }
    };
    assert_eq!(last(limited(PolicyMode::Cascade), ONLINE, &[UNSURE]), answered(Place::Device, Reason::Policy));
    assert_eq!(last(limited(PolicyMode::PreferHub), ONLINE, &[SURE]), answered(Place::Device, Reason::Policy));
    let Step::Fail(failure) = last(limited(PolicyMode::OnlyHub), ONLINE, &[]) else { panic!() };
    assert_eq!(
        (failure.code, failure.to_string()),
        (ErrorCode::BadInput, "the policy keeps the input on the device".into())
    );
}

/// Starts a hedged route and lets its delay pass; the hub is asked then.
fn hedged(hub: HubState) -> (Route, Instant, Vec<Step>) {
    let start = Instant::now();
    let (mut route, steps) = Route::start(facts(PolicyMode::Hedge), hub, start);
    assert!(matches!(only(&steps), Step::RunLocal { .. }), "{steps:?}");
    let (at, _why) = route.poll_timeout().unwrap();
    assert_eq!(at, start + types::policy::HEDGE_AFTER);
    assert_eq!(route.handle(Event::Tick, start), Ok(Vec::new()), "not before its time");
    let steps = route.handle(Event::Tick, at).unwrap();
    assert_eq!(route.poll_timeout(), None);
    (route, at, steps)
}

#[test]
fn a_hedge_asks_the_hub_only_when_the_device_takes_long() {
    assert_eq!(last(facts(PolicyMode::Hedge), ONLINE, &[SURE]), answered(Place::Device, Reason::Confident));
    let (_, _, steps) = hedged(ONLINE);
    assert!(matches!(only(&steps), Step::AskHub { reason: Reason::Hedged, .. }), "{steps:?}");
}

#[test]
fn the_first_acceptable_answer_of_a_hedge_wins_and_the_other_place_is_cancelled() {
    let device = answered(Place::Device, Reason::Confident);
    let hub = answered(Place::Hub, Reason::Hedged);
    let (mut route, now, _) = hedged(ONLINE);
    assert_eq!(route.handle(SURE, now), Ok(vec![Step::Cancel(Place::Hub), device]));
    let (mut route, now, _) = hedged(ONLINE);
    assert_eq!(route.handle(Event::HubAnswered, now), Ok(vec![Step::Cancel(Place::Device), hub]));
    // An unsure answer waits for the hub, and is returned if that fails.
    let (mut route, now, _) = hedged(ONLINE);
    assert_eq!(route.handle(UNSURE, now), Ok(Vec::new()));
    assert_eq!(route.clone().handle(Event::HubAnswered, now), Ok(vec![hub]));
    let failed = Event::HubFailed(HubFailure::Failed);
    assert_eq!(route.handle(failed, now), Ok(vec![answered(Place::Device, Reason::HubFailed)]));
    // Without a threshold every answer is acceptable.
    let (mut route, now, _) = hedged(ONLINE);
    let plain = Event::LocalAnswered { score: Some(0.1), threshold: None };
    assert_eq!(route.handle(plain, now), Ok(vec![Step::Cancel(Place::Hub), answered(Place::Device, Reason::Policy)]));
}

#[test]
fn a_hedge_survives_the_failure_of_either_place() {
    let (mut route, now, _) = hedged(ONLINE);
    assert_eq!(route.handle(Event::HubFailed(HubFailure::Busy), now), Ok(Vec::new()), "the device goes on");
    assert_eq!(route.handle(SURE, now), Ok(vec![answered(Place::Device, Reason::Confident)]));
    let (mut route, now, _) = hedged(ONLINE);
    assert_eq!(route.handle(Event::LocalFailed(LocalFailure::Failed), now), Ok(Vec::new()), "the hub goes on");
    assert_eq!(route.handle(Event::HubAnswered, now), Ok(vec![answered(Place::Hub, Reason::Hedged)]));
    // A bad input is refused at once, also at the hub.
    let (mut route, now, _) = hedged(ONLINE);
    let steps = route.handle(Event::LocalFailed(LocalFailure::BadInput), now).unwrap();
    assert_eq!(steps.first(), Some(&Step::Cancel(Place::Hub)));
    assert_eq!(code(steps[1]), ErrorCode::BadInput);
    // A hub that is away when the delay is over changes nothing, and is asked later if the device fails.
    let (mut route, now, steps) = hedged(HubState::Away);
    assert_eq!(steps, []);
    assert_eq!(route.handle(Event::Hub(ONLINE), now), Ok(Vec::new()));
    let steps = route.handle(Event::LocalFailed(LocalFailure::Failed), now).unwrap();
    assert!(matches!(only(&steps), Step::AskHub { reason: Reason::DeviceFailed, .. }), "{steps:?}");
}

type Threshold = Option<f32>;

/// How the world behaves in one random run: delays in milliseconds, `None` for a failure.
#[derive(Debug, Clone)]
struct World {
    hub_first: HubState,
    hub_later: HubState,
    local: Result<(u64, Option<f32>, Threshold), (u64, LocalFailure)>,
    hub: Result<u64, (u64, HubFailure)>,
}

fn hub_state() -> impl Strategy<Value = HubState> {
    let online = (0..200_u64).prop_map(|ms| HubState::Online { round_trip: Duration::from_millis(ms) });
    prop_oneof![1 => Just(HubState::Away), 3 => online]
}

fn score() -> impl Strategy<Value = Option<f32>> {
    proptest::option::of(prop_oneof![4 => 0.0..=1.0_f32, 1 => Just(f32::NAN)])
}

fn world() -> impl Strategy<Value = World> {
    use HubFailure::{Busy, Failed, NotAuthorised, UnknownModel, Unreachable};
    let local_failure = prop_oneof![
        Just(LocalFailure::NoModel),
        Just(LocalFailure::Busy),
        Just(LocalFailure::Failed),
        Just(LocalFailure::Refused),
        Just(LocalFailure::BadInput)
    ];
    let hub_failure = proptest::sample::select(vec![Busy, Failed, NotAuthorised, Unreachable, UnknownModel]);
    let local = prop_oneof![(0..500_u64, score(), score()).prop_map(Ok), (0..500_u64, local_failure).prop_map(Err),];
    let hub = prop_oneof![(0..500_u64).prop_map(Ok), (0..500_u64, hub_failure).prop_map(Err)];
    (hub_state(), hub_state(), local, hub).prop_map(|(hub_first, hub_later, local, hub)| World {
        hub_first,
        hub_later,
        local,
        hub,
    })
}

/// Policies of every mode, some of them with a hedge delay, a deadline or a budget.
fn policy() -> impl Strategy<Value = Policy> {
    let optional = |most: u64| proptest::option::of(0..most);
    let later = (any::<bool>(), any::<bool>());
    (proptest::sample::select(PolicyMode::ALL.to_vec()), optional(300), optional(600), optional(2000), later).prop_map(
        |(mode, hedge, deadline, hub_bytes, (amends, queues))| {
            let preset = Policy::from(mode);
            let hedge = preset.hedge.and(hedge.map(Duration::from_millis));
            Policy {
                hedge,
                deadline: deadline.map(Duration::from_millis),
                budget: Budget { hub_bytes, ..Budget::default() },
                amends,
                offline: if queues { Offline::Queue } else { Offline::Answer },
                ..preset
            }
        },
    )
}

fn facts_with(now: Instant) -> impl Strategy<Value = RequestInfo> {
    let local = prop_oneof![
        1 => Just(LocalState::NoModel),
        3 => proptest::option::of(0..300_u64)
            .prop_map(|ms| LocalState::Ready { expected: ms.map(Duration::from_millis) }),
    ];
    (policy(), proptest::option::of(0..600_u64), local, 0..2000_u64).prop_map(
        move |(policy, ms, local, input_bytes)| RequestInfo {
            policy,
            deadline: ms.map(|ms| now + Duration::from_millis(ms)),
            local,
            input_bytes,
        },
    )
}

/// A shell in virtual time: obeys steps, waits no longer than their `until`, and sends what came of them.
struct Shell<'a> {
    world: &'a World,
    now: Instant,
    /// Events to come of the device and of the hub.
    in_flight: [Option<(Instant, Event)>; 2],
}

impl Shell<'_> {
    fn obey(&mut self, step: Step) {
        let by = |ms: u64, until: Option<Instant>, event, late| {
            let done = self.now + Duration::from_millis(ms);
            match until {
                Some(until) if until < done => (until.max(self.now), late),
                Some(_) | None => (done, event),
            }
        };
        match step {
            Step::RunLocal { until } => {
                let late = Event::LocalFailed(LocalFailure::TooLate);
                self.in_flight[0] = Some(match self.world.local {
                    Ok((ms, score, threshold)) => by(ms, until, Event::LocalAnswered { score, threshold }, late),
                    Err((ms, why)) => by(ms, until, Event::LocalFailed(why), late),
                });
            }
            Step::AskHub { until, .. } => {
                let late = Event::HubFailed(HubFailure::TooLate);
                self.in_flight[1] = Some(match self.world.hub {
                    Ok(ms) => by(ms, Some(until), Event::HubAnswered, late),
                    Err((ms, why)) => by(ms, Some(until), Event::HubFailed(why), late),
                });
            }
            Step::Cancel(Place::Device) => self.in_flight[0] = None,
            Step::Cancel(Place::Hub) => self.in_flight[1] = None,
            Step::Queue { .. } | Step::Answer { .. } | Step::Fail(_) => {}
        }
    }

    /// Lets time pass to the next event; `None` when nothing will ever happen.
    fn next(&mut self, timeout: Option<Instant>) -> Option<Event> {
        let first = self.in_flight.iter().flatten().map(|(at, _)| *at).min();
        if let Some(tick) = timeout.filter(|tick| first.is_none_or(|first| *tick <= first)) {
            self.now = self.now.max(tick);
            return Some(Event::Tick);
        }
        let slot = self.in_flight.iter_mut().find(|slot| slot.is_some_and(|(at, _)| Some(at) == first))?;
        let (at, event) = slot.take()?;
        self.now = at;
        Some(event)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn every_route_ends_once_in_time_and_only_where_its_policy_allows(
        (start, facts, world) in Just(Instant::now()).prop_flat_map(|now| (Just(now), facts_with(now), world())),
    ) {
        let mut shell = Shell { world: &world, now: start, in_flight: [None, None] };
        let limit = facts.policy.deadline.map(|limit| start + limit);
        let deadline = facts.deadline.or(limit);
        let (mut route, mut steps) = Route::start(facts, world.hub_first, start);
        let (mut local_runs, mut asks, mut queued, mut ends) = (0, 0, 0, Vec::new());
        let mut has_answer = false;
        loop {
            for step in steps {
                prop_assert!(ends.is_empty(), "it went on after its end");
                match step {
                    Step::RunLocal { until } => {
                        local_runs += 1;
                        prop_assert_eq!(until, deadline, "a run on the device is bounded by the deadline");
                    }
                    Step::AskHub { until, .. } => {
                        asks += 1;
                        prop_assert!(until <= deadline.unwrap_or(until).min(shell.now + HUB_WAIT_MAX));
                        prop_assert!(facts.policy.may_send(facts.input_bytes), "the input left the device");
                    }
                    Step::Cancel(Place::Device) => prop_assert!(shell.in_flight[0].is_some(), "nothing to cancel"),
                    Step::Cancel(Place::Hub) => prop_assert!(shell.in_flight[1].is_some(), "nothing to cancel"),
                    Step::Queue { .. } => {
                        queued += 1;
                        prop_assert!(facts.policy.amends || facts.policy.offline == Offline::Queue);
                        prop_assert!(facts.policy.may_send(facts.input_bytes), "what must not leave is queued");
                    }
                    Step::Answer { .. } | Step::Fail(_) => ends.push(step),
                }
                shell.obey(step);
            }
            prop_assert!(local_runs <= 1 && asks <= 1, "nobody is asked twice");
            prop_assert!(queued == 0 || (queued == 1 && route.is_over()), "it is queued once, at the end");
            prop_assert_eq!(route.is_over(), !ends.is_empty());
            if route.is_over() {
                break;
            }
            let Some(event) = shell.next(route.poll_timeout().map(|(at, _)| at)) else {
                return Err(TestCaseError::fail("nothing is in flight and the route is not over"));
            };
            has_answer |= matches!(event, Event::LocalAnswered { .. });
            route.handle(Event::Hub(world.hub_later), shell.now).unwrap();
            steps = route.handle(event, shell.now).unwrap();
        }
        prop_assert_eq!(shell.in_flight, [None, None], "work goes on behind the end");
        prop_assert!(deadline.is_none_or(|deadline| shell.now <= deadline.max(start)), "it waited past its deadline");
        match only(&ends) {
            Step::Answer { place: Place::Device, .. } => {
                prop_assert!(local_runs == 1 && facts.policy.mode != PolicyMode::OnlyHub);
            }
            Step::Answer { place: Place::Hub, .. } => prop_assert_eq!((asks, queued), (1, 0)),
            Step::Fail(failure) => {
                prop_assert!(!failure.to_string().is_empty() && !failure.code.advice().is_empty());
                prop_assert!(!has_answer, "an answer was thrown away: {}", failure);
            }
            other @ (Step::RunLocal { .. } | Step::AskHub { .. } | Step::Queue { .. } | Step::Cancel(_)) => {
                prop_assert!(false, "{other:?}");
            }
        }
        prop_assert!(route.handle(Event::Tick, shell.now).is_err(), "over is over");
    }

    #[test]
    fn an_input_of_the_device_never_reaches_the_hub_whatever_happens(
        mode in proptest::sample::select(PolicyMode::ALL.to_vec()),
        events in proptest::collection::vec((0..11_u8, score(), score(), hub_state()), 0..8),
        (start, facts) in Just(Instant::now()).prop_flat_map(|now| (Just(now), facts_with(now))),
    ) {
        let policy = Policy {
            privacy: Privacy::DeviceOnly,
            offline: facts.policy.offline,
            amends: facts.policy.amends,
            ..Policy::from(mode)
        };
        let facts = RequestInfo { policy, ..facts };
        let (mut route, steps) = Route::start(facts, ONLINE, start);
        let mut steps = vec![Ok(steps)];
        for (kind, score, threshold, hub) in events {
            let event = match kind {
                0 => Event::LocalAnswered { score, threshold },
                1 => Event::LocalFailed(LocalFailure::NoModel),
                2 => Event::LocalFailed(LocalFailure::Busy),
                3 => Event::LocalFailed(LocalFailure::Failed),
                4 => Event::LocalFailed(LocalFailure::TooLate),
                5 => Event::LocalFailed(LocalFailure::BadInput),
                6 => Event::HubAnswered,
                7 => Event::HubFailed(HubFailure::Failed),
                8 => Event::Tick,
                9 => Event::Hub(hub),
                _ => Event::HubFailed(HubFailure::TooLate),
            };
            steps.push(route.handle(event, start + Duration::from_secs(1)));
        }
        let all: Vec<Step> = steps.into_iter().flatten().flatten().collect();
        let leaves = |step: &Step| matches!(step, Step::AskHub { .. } | Step::Queue { .. });
        prop_assert!(!all.iter().any(leaves), "the input left the device, or waits for it");
        let ends = all.iter().filter(|step| matches!(step, Step::Answer { .. } | Step::Fail(_))).count();
        prop_assert!(ends <= 1);
    }
}
