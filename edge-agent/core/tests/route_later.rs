//! Promises of routes that leave the hub's answer for later.
#![expect(clippy::unwrap_used, reason = "a test ends at its first surprise")]

use std::time::{Duration, Instant};

use edge_core::policy::{Left, Snapshot, Surroundings};
use edge_core::route::{Event, HubFailure, HubState, LocalFailure, LocalState, RequestInfo, Route, Step};
use types::policy::{Conditions, Offline};
use types::{Place, Policy, PolicyMode, Reason};

const ONLINE: HubState = HubState::Online { round_trip: Duration::from_millis(2) };
const READY: LocalState = LocalState::Ready { expected: None };
const SURE: Event = Event::LocalAnswered { score: Some(0.9), threshold: Some(0.8) };
const UNSURE: Event = Event::LocalAnswered { score: Some(0.7), threshold: Some(0.8) };

fn queueing(mode: PolicyMode) -> Policy {
    Policy { offline: Offline::Queue, ..Policy::from(mode) }
}

fn amending(mode: PolicyMode) -> Policy {
    Policy { amends: true, ..Policy::from(mode) }
}

/// Runs a route through these events, and returns its last steps.
fn last(policy: Policy, local: LocalState, hub: HubState, events: &[Event]) -> Vec<Step> {
    let info = RequestInfo { policy, deadline: None, local, input_bytes: 10 };
    last_of(Snapshot::of(info, hub), events)
}

fn last_of(snapshot: Snapshot, events: &[Event]) -> Vec<Step> {
    let now = Instant::now();
    let (mut route, mut steps) = Route::begin(snapshot, now);
    for event in events {
        steps = route.handle(*event, now).unwrap();
    }
    assert!(route.is_over(), "{steps:?}");
    steps
}

fn provisional(wanted: Reason, reason: Reason) -> Vec<Step> {
    vec![Step::Queue { reason: wanted }, Step::Answer { place: Place::Device, reason }]
}

fn is_queued_without_answer(steps: &[Step], wanted: Reason) -> bool {
    matches!(steps, [Step::Queue { reason }, Step::Fail(_)] if *reason == wanted)
}

#[test]
fn while_the_hub_is_away_an_unsure_answer_is_provisional_and_a_sure_one_is_final() {
    let policy = queueing(PolicyMode::Cascade);
    let steps = last(policy, READY, HubState::Away, &[UNSURE]);
    assert_eq!(steps, provisional(Reason::LowConfidence, Reason::HubUnreachable));
    let sure = last(policy, READY, HubState::Away, &[SURE]);
    assert_eq!(sure, [Step::Answer { place: Place::Device, reason: Reason::Confident }]);
    let broken = [UNSURE, Event::HubFailed(HubFailure::Unreachable)];
    assert_eq!(last(policy, READY, ONLINE, &broken), provisional(Reason::LowConfidence, Reason::HubUnreachable));
}

#[test]
fn without_a_local_answer_the_request_waits_alone() {
    for (mode, wanted) in [
        (PolicyMode::OnlyHub, Reason::Policy),
        (PolicyMode::PreferHub, Reason::Policy),
        (PolicyMode::Cascade, Reason::NoLocalModel),
        (PolicyMode::PreferDevice, Reason::NoLocalModel),
        (PolicyMode::Hedge, Reason::NoLocalModel),
    ] {
        for policy in [queueing(mode), amending(mode)] {
            let steps = last(policy, LocalState::NoModel, HubState::Away, &[]);
            assert!(is_queued_without_answer(&steps, wanted), "{mode}: {steps:?}");
        }
    }
    let failed = [Event::LocalFailed(LocalFailure::Crashed)];
    let steps = last(queueing(PolicyMode::Cascade), READY, HubState::Away, &failed);
    assert!(is_queued_without_answer(&steps, Reason::DeviceFailed), "{steps:?}");
}

#[test]
fn a_wrong_input_is_told_and_not_queued() {
    for why in [LocalFailure::BadInput, LocalFailure::Refused] {
        let steps = last(queueing(PolicyMode::PreferHub), READY, HubState::Away, &[Event::LocalFailed(why)]);
        assert!(matches!(steps.as_slice(), [Step::Fail(_)]), "{steps:?}");
    }
}

#[test]
fn an_application_that_amends_has_the_answer_of_the_device_at_once_though_the_hub_is_there() {
    let steps = last(amending(PolicyMode::Cascade), READY, ONLINE, &[UNSURE]);
    assert_eq!(steps, provisional(Reason::LowConfidence, Reason::LowConfidence));
    let steps = last(amending(PolicyMode::PreferHub), READY, ONLINE, &[SURE]);
    assert_eq!(steps, provisional(Reason::Policy, Reason::Policy));
    // A failing device leaves the hub, which is asked at once.
    let failed = [Event::LocalFailed(LocalFailure::Failed), Event::HubAnswered];
    let steps = last(amending(PolicyMode::PreferHub), READY, ONLINE, &failed);
    assert_eq!(steps, [Step::Answer { place: Place::Hub, reason: Reason::DeviceFailed }]);
    let sure = last(amending(PolicyMode::Cascade), READY, ONLINE, &[SURE]);
    assert_eq!(sure, [Step::Answer { place: Place::Device, reason: Reason::Confident }]);
}

#[test]
fn what_a_passing_condition_withholds_waits_and_what_never_leaves_does_not() {
    let info = |policy| RequestInfo { policy, deadline: None, local: READY, input_bytes: 10 };
    let conditions = Conditions { is_unmetered: true, ..Conditions::default() };
    let metered = Snapshot {
        surroundings: Surroundings { is_metered: true, ..Surroundings::default() },
        ..Snapshot::of(info(Policy { conditions, ..queueing(PolicyMode::Cascade) }), ONLINE)
    };
    assert_eq!(last_of(metered, &[UNSURE]), provisional(Reason::LowConfidence, Reason::MeteredLink));
    let spent = Snapshot {
        left: Left { calls: Some(0), ..Left::default() },
        ..Snapshot::of(info(queueing(PolicyMode::Cascade)), ONLINE)
    };
    assert_eq!(last_of(spent, &[UNSURE]), provisional(Reason::LowConfidence, Reason::CallsSpent));
    for reason in [Reason::NeverLeaves, Reason::NoConsent, Reason::NoTag] {
        for policy in [queueing(PolicyMode::Cascade), amending(PolicyMode::Cascade), amending(PolicyMode::PreferHub)] {
            for hub in [ONLINE, HubState::Away] {
                let policy = Policy { withheld: Some(reason), ..policy };
                let steps = last(policy, READY, hub, &[UNSURE]);
                assert_eq!(steps, [Step::Answer { place: Place::Device, reason }], "{reason} {hub:?}");
            }
        }
    }
}
