//! Promises of the connection to the hub.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at its first surprise")]

use std::time::{Duration, Instant};

use edge_core::route::HubState;
use edge_core::uplink::{
    DIAL, Event, GOODBYE_MAX, REJECTED_MAX, REJECTED_MIN, Rejection, STABLE_AFTER, State, Step, Uplink,
};
use proptest::prelude::*;

const FAILED: Event = Event::Failed { retry_after: None };

fn uplink(addresses: &[&str]) -> Uplink {
    Uplink::new(addresses.iter().map(|address| (*address).to_owned()).collect()).unwrap()
}

/// Returns the one step that follows from this event.
fn one(uplink: &mut Uplink, event: Event, now: Instant, random: u64) -> Step {
    match &uplink.handle(event, now, random).unwrap()[..] {
        [step] => step.clone(),
        other => panic!("{other:?} is not one step"),
    }
}

/// Returns the wait that follows from this event, with the longest draw.
fn wait_after(uplink: &mut Uplink, event: Event, now: Instant) -> Duration {
    match one(uplink, event, now, u64::MAX) {
        Step::Wait { until } | Step::Reject { until, .. } => until - now,
        other => panic!("{other:?} is no wait"),
    }
}

fn redial(uplink: &mut Uplink) -> (Instant, String) {
    let (at, _) = uplink.poll_timeout().unwrap();
    match one(uplink, Event::Tick, at, 0) {
        Step::Dial { address } => (at, address),
        other => panic!("{other:?}"),
    }
}

fn go_online(uplink: &mut Uplink, now: Instant) {
    assert_eq!(uplink.handle(Event::Connected, now, 0), Ok(vec![Step::Greet]));
    assert_eq!(uplink.hub(Duration::ZERO), HubState::Away, "not before the hub has greeted");
    assert_eq!(uplink.handle(Event::Welcomed, now, 0), Ok(vec![Step::GoOnline]));
    assert_eq!(uplink.hub(Duration::ZERO), HubState::Online { round_trip: Duration::ZERO });
}

#[test]
fn a_hub_without_an_address_is_a_mistake() {
    assert!(Uplink::new(vec![]).is_err());
}

#[test]
fn waits_double_and_addresses_take_turns() {
    let now = Instant::now();
    let mut uplink = uplink(&["a:1", "b:1"]);
    assert_eq!(uplink.handle(Event::Start, now, 0), Ok(vec![Step::Dial { address: "a:1".into() }]));
    let mut seen = Vec::new();
    for _ in 0..6 {
        let ceiling = wait_after(&mut uplink, FAILED, now).as_secs_f64().round();
        seen.push((ceiling, redial(&mut uplink).1));
    }
    let expected = [(2.0, "b:1"), (2.0, "a:1"), (4.0, "b:1"), (4.0, "a:1"), (8.0, "b:1"), (8.0, "a:1")];
    assert!(seen.iter().map(|(wait, address)| (*wait, address.as_str())).eq(expected), "{seen:?}");
}

#[test]
fn only_a_connection_that_held_makes_earlier_failures_forgotten() {
    let now = Instant::now();
    let mut uplink = uplink(&["a:1"]);
    uplink.handle(Event::Start, now, 0).unwrap();
    for _ in 0..4 {
        wait_after(&mut uplink, FAILED, now);
        redial(&mut uplink);
    }
    go_online(&mut uplink, now);
    assert!(wait_after(&mut uplink, Event::Lost, now + Duration::from_secs(1)) > Duration::from_secs(30));
    let (later, _) = redial(&mut uplink);
    go_online(&mut uplink, later);
    assert!(wait_after(&mut uplink, Event::Lost, later + STABLE_AFTER) <= DIAL.base);
}

#[test]
fn a_refusal_that_does_not_pass_is_told_once_and_tried_slowly() {
    let now = Instant::now();
    let mut uplink = uplink(&["a:1"]);
    uplink.handle(Event::Start, now, 0).unwrap();
    let step = one(&mut uplink, Event::Rejected(Rejection::Revoked), now, 0);
    assert_eq!(step, Step::Reject { why: Rejection::Revoked, until: now + REJECTED_MIN });
    let (at, _) = redial(&mut uplink);
    assert_eq!(
        uplink.handle(Event::Rejected(Rejection::Revoked), at, 0),
        Ok(vec![Step::Wait { until: at + REJECTED_MIN }])
    );
    let (at, _) = redial(&mut uplink);
    assert!(matches!(
        one(&mut uplink, Event::Rejected(Rejection::WrongCa), at, 0),
        Step::Reject { why: Rejection::WrongCa, .. }
    ));
    assert!(matches!(one(&mut uplink, Event::Nudge, at, 0), Step::Dial { .. }), "a new certificate ends the wait");
}

#[test]
fn a_live_connection_whose_device_is_revoked_is_rejected() {
    let now = Instant::now();
    let mut uplink = uplink(&["a:1"]);
    uplink.handle(Event::Start, now, 0).unwrap();
    go_online(&mut uplink, now);
    assert!(matches!(one(&mut uplink, Event::Rejected(Rejection::Revoked), now, 0), Step::Reject { .. }));
    assert_eq!(uplink.hub(Duration::ZERO), HubState::Away);
}

#[test]
fn a_hub_that_goes_is_left_in_peace_for_as_long_as_it_says_within_reason() {
    let now = Instant::now();
    for (asked, least) in [(30, 30), (1_000_000, GOODBYE_MAX.as_secs())] {
        let mut uplink = uplink(&["a:1"]);
        uplink.handle(Event::Start, now, 0).unwrap();
        go_online(&mut uplink, now);
        let goodbye = Event::Goodbye { retry_after: Some(Duration::from_secs(asked)) };
        let wait = wait_after(&mut uplink, goodbye, now);
        assert!(wait >= Duration::from_secs(least) && wait <= Duration::from_secs(least) + DIAL.max);
    }
}

#[test]
fn a_dial_or_greeting_that_never_ends_is_given_up() {
    let now = Instant::now();
    let mut uplink = uplink(&["a:1"]);
    uplink.handle(Event::Start, now, 0).unwrap();
    let (until, _) = uplink.poll_timeout().unwrap();
    assert!(matches!(one(&mut uplink, Event::Tick, until, 0), Step::Wait { .. }));
    redial(&mut uplink);
    uplink.handle(Event::Connected, until, 0).unwrap();
    let (until, _) = uplink.poll_timeout().unwrap();
    assert!(matches!(one(&mut uplink, Event::Tick, until, 0), Step::Wait { .. }));
}

#[test]
fn a_stopped_uplink_stays_stopped() {
    let now = Instant::now();
    let mut uplink = uplink(&["a:1"]);
    uplink.handle(Event::Start, now, 0).unwrap();
    assert_eq!(uplink.handle(Event::Stop, now, 0), Ok(vec![Step::Close]));
    assert_eq!(uplink.poll_timeout(), None);
    assert_eq!(uplink.handle(Event::Tick, now + REJECTED_MAX, 0), Ok(Vec::new()));
    assert!(uplink.handle(Event::Connected, now, 0).is_err());
}

fn any_event() -> impl Strategy<Value = Event> {
    let pause = proptest::option::of((0..100_000_u64).prop_map(Duration::from_secs));
    prop_oneof![
        Just(Event::Start),
        Just(Event::Connected),
        Just(Event::Welcomed),
        Just(Event::Lost),
        Just(Event::Nudge),
        Just(Event::Tick),
        pause.clone().prop_map(|retry_after| Event::Failed { retry_after }),
        pause.prop_map(|retry_after| Event::Goodbye { retry_after }),
        proptest::sample::select(vec![Rejection::Revoked, Rejection::CertificateExpired, Rejection::WrongCa])
            .prop_map(Event::Rejected),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_hub_is_dialled_again_within_a_bounded_time(
        events in proptest::collection::vec((any_event(), any::<u64>(), 0..100_u64), 0..100),
    ) {
        let mut now = Instant::now();
        let mut uplink = uplink(&["a:1", "b:1", "c:1"]);
        uplink.handle(Event::Start, now, 0).unwrap();
        for (event, random, seconds) in events {
            now += Duration::from_secs(seconds);
            let before = uplink.state();
            if uplink.handle(event, now, random).is_err() {
                prop_assert_eq!(uplink.state(), before, "a refused event changes nothing");
            }
            let longest = REJECTED_MAX.max(GOODBYE_MAX + DIAL.max);
            match uplink.state() {
                State::Online { .. } => prop_assert_eq!(uplink.poll_timeout(), None),
                State::Stopped => prop_assert!(false, "nothing but Stop stops it"),
                _ => prop_assert!(uplink.poll_timeout().is_some_and(|(until, _)| until <= now + longest)),
            }
        }
    }
}
