//! Tests of the outbox of requests: nothing is lost within the quota, nothing runs twice, and order and privacy are kept.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { bytes_max: 1000, entries_max: 20, in_flight_max: 3 };

fn request(id: u32, priority: QueuePriority, bytes: u64, expires_s: u64) -> Request {
    let model = if id.is_multiple_of(3) { "faces" } else { "digits" };
    Request { id: format!("r-{id}").parse().unwrap(), model: model.parse().unwrap(), priority, bytes, expires_s }
}

fn normal(id: u32, bytes: u64) -> Request {
    request(id, QueuePriority::Normal, bytes, 1000)
}

/// Offers a request and stores it.
fn take(outbox: &mut RequestOutbox, request: Request, now_s: u64) -> u64 {
    let Offered::Taken { number, displaced } = outbox.offer(request, now_s) else { panic!("not taken") };
    assert!(displaced.is_empty(), "{displaced:?}");
    outbox.handle(number, Event::Stored, now_s).unwrap();
    number
}

fn sent(outbox: &mut RequestOutbox, now: Instant) -> Vec<u64> {
    std::iter::from_fn(|| outbox.send(now)).collect()
}

#[test]
fn requests_are_sent_by_priority_and_age_a_few_at_a_time() {
    let (mut outbox, now) = (RequestOutbox::new(LIMITS), Instant::now());
    let low = take(&mut outbox, request(1, QueuePriority::Low, 10, 1000), 0);
    let first = take(&mut outbox, normal(2, 10), 0);
    let second = take(&mut outbox, normal(3, 10), 0);
    let high = take(&mut outbox, request(4, QueuePriority::High, 10, 1000), 0);
    assert_eq!(sent(&mut outbox, now), [high, first, second]);
    outbox.handle(first, Event::Answered { bytes: 5 }, 1).unwrap();
    assert_eq!(sent(&mut outbox, now), [low]);
}

#[test]
fn nothing_is_sent_before_it_is_stored() {
    let (mut outbox, now) = (RequestOutbox::new(LIMITS), Instant::now());
    let Offered::Taken { number, .. } = outbox.offer(normal(1, 10), 0) else { panic!() };
    assert_eq!(outbox.send(now), None);
    outbox.handle(number, Event::NotStored, 0).unwrap();
    assert_eq!((outbox.figures(), outbox.find(&"r-1".parse().unwrap())), (Figures::default(), None));
}

#[test]
fn an_id_is_taken_once_until_its_end_was_told() {
    let (mut outbox, now) = (RequestOutbox::new(LIMITS), Instant::now());
    let number = take(&mut outbox, normal(1, 10), 0);
    assert_eq!(outbox.offer(normal(1, 10), 0), Offered::Known(number));
    outbox.send(now);
    assert_eq!(outbox.offer(normal(1, 10), 0), Offered::Known(number));
    outbox.handle(number, Event::Answered { bytes: 1 }, 0).unwrap();
    assert_eq!(outbox.offer(normal(1, 10), 0), Offered::Known(number));
    assert_eq!(outbox.expire(1000), [number]);
    assert_eq!(outbox.entry(number).map(|entry| entry.state), Some(State::Ended(End::Expired)));
    assert!(take(&mut outbox, normal(1, 10), 1000) > number);
}

#[test]
fn a_full_outbox_displaces_only_lower_priorities_the_newest_first() {
    let mut outbox = RequestOutbox::new(LIMITS);
    let low: Vec<u64> = (0..4).map(|id| take(&mut outbox, request(id, QueuePriority::Low, 200, 1000), 0)).collect();
    take(&mut outbox, normal(10, 200), 0);
    assert_eq!(outbox.offer(request(11, QueuePriority::Low, 1, 1000), 0), Offered::Full);
    let Offered::Taken { displaced, .. } = outbox.offer(normal(12, 300), 0) else { panic!() };
    assert_eq!(displaced, [low[3], low[2]]);
    // More than all lower ones make room for: nothing is displaced.
    assert_eq!(outbox.offer(normal(13, 900), 0), Offered::Full);
    assert_eq!(outbox.entry(low[1]).map(|entry| entry.state), Some(State::Waiting));
}

#[test]
fn a_pause_of_an_overloaded_hub_is_kept_and_then_one_request_probes() {
    let (mut outbox, now) = (RequestOutbox::new(LIMITS), Instant::now());
    for id in 1..6 {
        take(&mut outbox, normal(id, 10), 0);
    }
    let numbers = sent(&mut outbox, now);
    let why = Back::Busy { retry_after: Some(Duration::from_secs(5)) };
    for number in &numbers {
        outbox.back(*number, why, now, 0).unwrap();
    }
    assert_eq!(outbox.send(now + Duration::from_secs(4)), None);
    let later = now + Duration::from_secs(5);
    assert_eq!(sent(&mut outbox, later), [numbers[0]], "the oldest again, alone");
    outbox.handle(numbers[0], Event::Answered { bytes: 1 }, 5).unwrap();
    assert_eq!(sent(&mut outbox, later), [numbers[1], numbers[2]]);
    // A hostile hub cannot silence it for longer than the limit.
    outbox.back(numbers[1], Back::Busy { retry_after: Some(Duration::MAX) }, later, u64::MAX).unwrap();
    let (until, _why) = outbox.poll_timeout().unwrap();
    assert!(until <= later + PAUSE_MAX + RETRY.max);
}

#[test]
fn a_model_that_may_not_send_now_does_not_hold_up_another_one() {
    let (mut outbox, now) = (RequestOutbox::new(LIMITS), Instant::now());
    let faces = take(&mut outbox, normal(3, 10), 0);
    let digits = take(&mut outbox, normal(4, 10), 0);
    assert_eq!(outbox.send(now), Some(faces));
    outbox.back(faces, Back::Withheld, now, 0).unwrap();
    assert_eq!(sent(&mut outbox, now), [digits]);
    assert_eq!(sent(&mut outbox, now + REST), [faces]);
}

#[test]
fn answers_beyond_their_quota_displace_the_oldest_ones() {
    let (mut outbox, now) = (RequestOutbox::new(LIMITS), Instant::now());
    let numbers: Vec<u64> = (1..4).map(|id| take(&mut outbox, normal(id, 10), 0)).collect();
    sent(&mut outbox, now);
    assert!(outbox.handle(numbers[0], Event::Answered { bytes: 600 }, 0).unwrap().is_empty());
    assert_eq!(outbox.handle(numbers[1], Event::Answered { bytes: 500 }, 0).unwrap(), [numbers[0]]);
    assert_eq!(outbox.handle(numbers[2], Event::Answered { bytes: 5000 }, 0).unwrap(), [numbers[1]]);
    assert_eq!(outbox.entry(numbers[2]).map(|entry| entry.state), Some(State::Answered { bytes: 5000 }));
}

#[test]
fn a_late_answer_of_a_request_that_was_dropped_is_refused() {
    let (mut outbox, now) = (RequestOutbox::new(LIMITS), Instant::now());
    let number = take(&mut outbox, normal(1, 10), 0);
    outbox.send(now);
    outbox.handle(number, Event::Dropped, 0).unwrap();
    assert!(outbox.handle(number, Event::Answered { bytes: 1 }, 0).is_err());
    assert!(outbox.back(number, Back::Away, now, 0).is_err());
    assert_eq!(outbox.figures(), Figures::default());
}

#[test]
fn a_restart_keeps_the_new_attempt_and_not_the_end_before_it() {
    let mut outbox = RequestOutbox::new(LIMITS);
    take(&mut outbox, normal(1, 10), 0);
    outbox.expire(1000);
    let mut stored: Vec<Entry> = outbox.entries().cloned().collect();
    let again = take(&mut outbox, normal(1, 10), 1000);
    stored.extend(outbox.entries().cloned());
    let restored = RequestOutbox::restore(LIMITS, stored);
    assert_eq!(restored.find(&"r-1".parse().unwrap()).map(|entry| entry.number), Some(again));
    assert_eq!(restored.figures().requests, 1);
}

#[test]
fn an_end_is_remembered_for_a_week_and_not_for_ever() {
    let mut outbox = RequestOutbox::new(LIMITS);
    let number = take(&mut outbox, normal(1, 10), 0);
    assert_eq!(outbox.expire(1000), [number]);
    assert!(outbox.expire(999 + ENDED_KEPT_S).is_empty() && outbox.entry(number).is_some());
    assert!(outbox.expire(1000 + ENDED_KEPT_S).is_empty() && outbox.entry(number).is_none());
}

/// Step of a random run.
#[derive(Debug, Clone)]
enum Act {
    Offer { id: u32, priority: QueuePriority, bytes: u64, is_stored: bool },
    Send,
    Answer(u64),
    Back(u8),
    Fail,
    Drop(usize),
    Wait(u64),
    Restart,
}

fn acts() -> impl Strategy<Value = Act> {
    let priority = prop::sample::select(QueuePriority::ALL.to_vec());
    prop_oneof![
        5 => (0_u32..60, priority, 0_u64..300, prop::bool::weighted(0.9))
            .prop_map(|(id, priority, bytes, is_stored)| Act::Offer { id, priority, bytes, is_stored }),
        5 => Just(Act::Send),
        4 => (0_u64..400).prop_map(Act::Answer),
        2 => (0_u8..3).prop_map(Act::Back),
        1 => Just(Act::Fail),
        1 => (0_usize..20).prop_map(Act::Drop),
        2 => (0_u64..200).prop_map(Act::Wait),
        1 => Just(Act::Restart),
    ]
}

proptest! {
    #[test]
    fn every_acknowledged_request_ends_once_and_the_figures_are_exact(steps in prop::collection::vec(acts(), 1..300)) {
        let mut outbox = RequestOutbox::new(LIMITS);
        let (start, mut now_s) = (Instant::now(), 0_u64);
        let (mut acknowledged, mut ended) = (BTreeSet::new(), BTreeSet::new());
        let mut answers = BTreeMap::<u64, u32>::new();
        let mut in_flight = Vec::new();
        for step in steps {
            let now = start + Duration::from_secs(now_s);
            match step {
                Act::Offer { id, priority, bytes, is_stored } => {
                    let before = outbox.clone();
                    match outbox.offer(request(id, priority, bytes, now_s + 500), now_s) {
                        Offered::Taken { number, displaced } => {
                            for number in displaced {
                                let gone = before.entry(number).unwrap();
                                prop_assert!(gone.state == State::Waiting && gone.request.priority < priority);
                            }
                            outbox.handle(number, if is_stored { Event::Stored } else { Event::NotStored }, now_s).unwrap();
                            if is_stored {
                                acknowledged.insert(number);
                            }
                        }
                        Offered::Known(number) => prop_assert!(outbox.entry(number).is_some()),
                        Offered::Full => prop_assert_eq!(outbox.figures(), before.figures(), "nothing is displaced"),
                    }
                }
                Act::Send => {
                    let waiting: Vec<Entry> =
                        outbox.entries().filter(|entry| entry.state == State::Waiting).cloned().collect();
                    if let Some(number) = outbox.send(now) {
                        let sent = outbox.entry(number).unwrap();
                        prop_assert_eq!(sent.state, State::InFlight);
                        let before = |other: &&Entry| {
                            other.request.model == sent.request.model
                                && (other.request.priority > sent.request.priority
                                    || (other.request.priority == sent.request.priority && other.number < number))
                        };
                        prop_assert!(waiting.iter().find(before).is_none(), "out of order");
                        in_flight.push(number);
                    }
                    prop_assert!(outbox.figures().in_flight <= LIMITS.in_flight_max);
                }
                Act::Answer(bytes) => {
                    if let Some(number) = in_flight.pop()
                        && outbox.handle(number, Event::Answered { bytes }, now_s).is_ok()
                    {
                        *answers.entry(number).or_default() += 1;
                    }
                }
                Act::Back(kind) => {
                    if let Some(number) = in_flight.pop() {
                        let why = [Back::Away, Back::Busy { retry_after: None }, Back::Withheld][usize::from(kind)];
                        let _dropped_meanwhile = outbox.back(number, why, now, u64::MAX / 2);
                    }
                }
                Act::Fail => {
                    if let Some(number) = in_flight.pop() {
                        let _dropped_meanwhile = outbox.handle(number, Event::Failed, now_s);
                    }
                }
                Act::Drop(at) => {
                    let open = outbox.entries().filter(|entry| !matches!(entry.state, State::Ended(_)));
                    let number = open.map(|entry| entry.number).nth(at);
                    if let Some(number) = number {
                        outbox.handle(number, Event::Dropped, now_s).unwrap();
                    }
                }
                Act::Wait(seconds) => {
                    now_s += seconds;
                    for number in outbox.expire(now_s) {
                        let is_over = matches!(outbox.entry(number).unwrap().state, State::Ended(End::Expired));
                        prop_assert!(is_over);
                    }
                }
                Act::Restart => {
                    let stored = outbox.entries().cloned().collect();
                    outbox = RequestOutbox::restore(LIMITS, stored);
                    in_flight.clear();
                }
            }
            let figures = outbox.figures();
            prop_assert!(figures.request_bytes <= LIMITS.bytes_max && figures.requests <= LIMITS.entries_max);
            prop_assert!(figures.answer_bytes <= LIMITS.bytes_max || figures.answers == 1);
            let sum = outbox.entries().filter(|entry| {
                matches!(entry.state, State::Storing | State::Waiting | State::InFlight)
            });
            prop_assert_eq!(sum.map(|entry| entry.request.bytes).sum::<u64>(), figures.request_bytes);
            // Nothing acknowledged vanishes: it is here, or its end could be seen.
            ended.extend(outbox.entries().filter(|entry| matches!(entry.state, State::Ended(_))).map(|entry| entry.number));
            for number in &acknowledged {
                prop_assert!(outbox.entry(*number).is_some() || ended.contains(number), "entry {} vanished", number);
            }
            prop_assert!(answers.values().all(|count| *count == 1), "answered twice");
        }
    }

    #[test]
    fn nothing_is_lost_while_all_fits(ids in prop::collection::btree_set(0_u32..1000, 1..20), cuts in prop::collection::vec(any::<bool>(), 100)) {
        let mut outbox = RequestOutbox::new(LIMITS);
        let mut now = Instant::now();
        for id in &ids {
            take(&mut outbox, normal(*id, 10), 0);
        }
        let mut cuts = cuts.into_iter();
        for _ in 0..10_000 {
            while let Some(number) = outbox.send(now) {
                match cuts.next() {
                    Some(true) => outbox.back(number, Back::Away, now, 1 << 60).unwrap(),
                    Some(false) | None => drop(outbox.handle(number, Event::Answered { bytes: 10 }, 0).unwrap()),
                }
            }
            if outbox.figures().requests == 0 {
                break;
            }
            now += Duration::from_secs(10);
        }
        let answered = outbox.entries().filter(|entry| matches!(entry.state, State::Answered { .. })).count();
        prop_assert_eq!(answered, ids.len());
    }
}
