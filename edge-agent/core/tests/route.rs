//! Promises of the routing policies.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at its first surprise")]

use std::time::{Duration, Instant};

use edge_core::route::{
    ANSWER_TIME, Event, FailureCode, HUB_TIME_MIN, HUB_WAIT_MAX, HubFailure, HubState, LocalFailure, LocalState,
    RequestFacts, Route, Step,
};
use proptest::prelude::*;
use types::{Place, PolicyMode, Reason};

const ONLINE: HubState = HubState::Online { round_trip: Duration::from_millis(2) };
const READY: LocalState = LocalState::Ready { expected: Some(Duration::from_millis(20)) };
const SURE: Event = Event::LocalAnswered { score: Some(0.9), threshold: Some(0.8) };
const UNSURE: Event = Event::LocalAnswered { score: Some(0.7), threshold: Some(0.8) };

fn facts(policy: PolicyMode) -> RequestFacts {
    RequestFacts { policy, deadline: None, local: READY }
}

/// Runs a route through these events with the hub online, and gives its last step.
fn last(facts: RequestFacts, hub: HubState, events: &[Event]) -> Step {
    let now = Instant::now();
    let (mut route, mut step) = Route::start(facts, hub, now);
    for event in events {
        step = route.on(*event, hub, now).unwrap();
    }
    assert!(route.is_over(), "{step:?} is not the end");
    step
}

fn answered(place: Place, reason: Reason) -> Step {
    Step::Answer { place, reason }
}

fn code(step: Step) -> FailureCode {
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
    let without = RequestFacts { local: LocalState::NoModel, ..policy };
    assert_eq!(last(without, ONLINE, &[Event::HubAnswered]), answered(Place::Hub, Reason::NoLocalModel));
    assert_eq!(code(last(without, HubState::Away, &[])), FailureCode::HubUnreachable);
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
    assert!(failure.advice().contains("prefer-hub"));
}

#[test]
fn an_input_that_does_not_fit_is_refused_without_asking_anyone_else() {
    // Neither what the signature refuses nor what an operator cannot compute gets a second try: the hub runs the same model.
    for why in [LocalFailure::BadInput, LocalFailure::Refused] {
        for policy in [PolicyMode::OnlyDevice, PolicyMode::PreferDevice, PolicyMode::Cascade] {
            for hub in [ONLINE, HubState::Away] {
                assert_eq!(code(last(facts(policy), hub, &[Event::LocalFailed(why)])), FailureCode::BadInput);
            }
        }
        // After a hub that failed otherwise the request is still the one at fault.
        let hub_failed = Event::HubFailed(HubFailure::Failed);
        let step = last(facts(PolicyMode::PreferHub), ONLINE, &[hub_failed, Event::LocalFailed(why)]);
        assert_eq!(code(step), FailureCode::BadInput);
    }
    let hub_says_so = Event::HubFailed(HubFailure::BadInput);
    assert_eq!(code(last(facts(PolicyMode::PreferHub), ONLINE, &[hub_says_so])), FailureCode::BadInput);
}

#[test]
fn too_little_time_is_not_spent_on_asking() {
    let now = Instant::now();
    let within = |policy, left| RequestFacts { policy, deadline: Some(now + left), local: READY };
    let cascade = within(PolicyMode::Cascade, HUB_TIME_MIN + ANSWER_TIME / 2);
    let (mut route, _) = Route::start(cascade, ONLINE, now);
    assert_eq!(route.on(UNSURE, ONLINE, now), Ok(answered(Place::Device, Reason::HubTooLate)));
    let (_, step) = Route::start(within(PolicyMode::PreferHub, HUB_TIME_MIN), ONLINE, now);
    assert!(matches!(step, Step::RunLocal { .. }), "{step:?}");
    let far = HubState::Online { round_trip: Duration::from_secs(1) };
    let (_, step) = Route::start(within(PolicyMode::OnlyHub, Duration::from_millis(900)), far, now);
    assert_eq!(code(step), FailureCode::DeadlineExceeded, "shorter than one round trip");
}

#[test]
fn prefer_hub_keeps_time_back_for_the_device() {
    let now = Instant::now();
    let deadline = now + Duration::from_millis(100);
    let asked_until = |local| {
        let facts = RequestFacts { policy: PolicyMode::PreferHub, deadline: Some(deadline), local };
        match Route::start(facts, ONLINE, now).1 {
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
    for policy in PolicyMode::ALL {
        let facts = RequestFacts { policy, deadline: Some(now), local: READY };
        assert_eq!(code(Route::start(facts, ONLINE, now).1), FailureCode::DeadlineExceeded);
    }
}

#[test]
fn an_event_that_makes_no_sense_is_refused_and_changes_nothing() {
    let now = Instant::now();
    let (mut route, _) = Route::start(facts(PolicyMode::Cascade), ONLINE, now);
    let error = route.on(Event::HubAnswered, ONLINE, now).unwrap_err();
    assert_eq!(error.to_string(), "route: event \"hub answered\" makes no sense in state \"running on the device\"");
    assert_eq!(route.on(SURE, ONLINE, now), Ok(answered(Place::Device, Reason::Confident)));
    assert!(route.on(SURE, ONLINE, now).is_err(), "one answer, once");
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

fn facts_with(now: Instant) -> impl Strategy<Value = RequestFacts> {
    let local = prop_oneof![
        1 => Just(LocalState::NoModel),
        3 => proptest::option::of(0..300_u64)
            .prop_map(|ms| LocalState::Ready { expected: ms.map(Duration::from_millis) }),
    ];
    (proptest::sample::select(PolicyMode::ALL.to_vec()), proptest::option::of(0..600_u64), local).prop_map(
        move |(policy, ms, local)| RequestFacts {
            policy,
            deadline: ms.map(|ms| now + Duration::from_millis(ms)),
            local,
        },
    )
}

/// Works as the shell does: obeys, waits no longer than `until`, and says what came of it.
fn obey(step: Step, world: &World, now: &mut Instant) -> Option<Event> {
    let wait = |now: &mut Instant, ms: u64, until: Option<Instant>| {
        let done = *now + Duration::from_millis(ms);
        *now = until.map_or(done, |until| done.min(until.max(*now)));
        *now == done
    };
    match step {
        Step::RunLocal { until } => Some(match world.local {
            Ok((ms, score, threshold)) if wait(now, ms, until) => Event::LocalAnswered { score, threshold },
            Err((ms, why)) if wait(now, ms, until) => Event::LocalFailed(why),
            Ok(_) | Err(_) => Event::LocalFailed(LocalFailure::TooLate),
        }),
        Step::AskHub { until, .. } => Some(match world.hub {
            Ok(ms) if wait(now, ms, Some(until)) => Event::HubAnswered,
            Err((ms, why)) if wait(now, ms, Some(until)) => Event::HubFailed(why),
            Ok(_) | Err(_) => Event::HubFailed(HubFailure::TooLate),
        }),
        Step::Answer { .. } | Step::Fail(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn every_route_ends_once_in_time_and_only_where_its_policy_allows(
        (start, facts, world) in Just(Instant::now()).prop_flat_map(|now| (Just(now), facts_with(now), world())),
    ) {
        let mut now = start;
        let (mut route, mut step) = Route::start(facts, world.hub_first, now);
        let (mut local_runs, mut asks) = (0, 0);
        while !route.is_over() {
            match step {
                Step::RunLocal { until } => {
                    local_runs += 1;
                    prop_assert_eq!(until, facts.deadline, "a run on the device is bounded by the deadline");
                }
                Step::AskHub { until, .. } => {
                    asks += 1;
                    prop_assert!(until <= facts.deadline.unwrap_or(until).min(now + HUB_WAIT_MAX));
                    prop_assert!(facts.policy.may_leave_device(), "the input left the device");
                }
                Step::Answer { .. } | Step::Fail(_) => prop_assert!(false, "it went on after its end"),
            }
            let event = obey(step, &world, &mut now).unwrap();
            step = route.on(event, world.hub_later, now).unwrap();
            prop_assert!(local_runs <= 1 && asks <= 1, "nobody is asked twice");
        }
        prop_assert!(facts.deadline.is_none_or(|deadline| now <= deadline.max(start)), "it waited past its deadline");
        match step {
            Step::Answer { place: Place::Device, .. } => {
                prop_assert!(local_runs == 1 && facts.policy != PolicyMode::OnlyHub);
            }
            Step::Answer { place: Place::Hub, .. } => prop_assert_eq!(asks, 1),
            Step::Fail(failure) => {
                prop_assert!(!failure.to_string().is_empty() && !failure.advice().is_empty());
                // Whoever has an answer gives it.
                let has_answer = local_runs == 1 && matches!(world.local, Ok((ms, ..)) if Duration::from_millis(ms) < now - start);
                prop_assert!(!has_answer || asks == 0 || facts.policy == PolicyMode::PreferHub, "{failure}");
            }
            Step::RunLocal { .. } | Step::AskHub { .. } => prop_assert!(false, "no end"),
        }
        prop_assert_eq!(obey(step, &world, &mut now), None);
    }

    #[test]
    fn only_device_never_asks_the_hub_whatever_it_is_told(
        events in proptest::collection::vec((0..9_u8, score(), score(), hub_state()), 0..8),
        (start, facts) in Just(Instant::now()).prop_flat_map(|now| (Just(now), facts_with(now))),
    ) {
        let facts = RequestFacts { policy: PolicyMode::OnlyDevice, ..facts };
        let (mut route, step) = Route::start(facts, ONLINE, start);
        let mut steps = vec![Ok(step)];
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
                _ => Event::HubFailed(HubFailure::TooLate),
            };
            steps.push(route.on(event, hub, start));
        }
        let asked = steps.iter().any(|step| matches!(step, Ok(Step::AskHub { .. })));
        prop_assert!(!asked, "the input left the device");
        let ends = steps.iter().filter(|step| matches!(step, Ok(Step::Answer { .. } | Step::Fail(_)))).count();
        prop_assert!(ends <= 1);
    }
}
