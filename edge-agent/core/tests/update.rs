//! Promises of the update machine.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at its first surprise")]

#[path = "update/device.rs"]
mod device;
#[path = "update/orders.rs"]
mod orders;
#[path = "update/proving.rs"]
mod proving;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use edge_core::slots::{Installed, Slots};
use edge_core::update::{
    Event, Failure, FailureKind, OfferKind, OnDisk, Outcome, Report, SECOND_CHANCE, Settings, State, Step, Updater,
    resume,
};
use types::{Digest, ModelName, Version};

fn digits() -> ModelName {
    "digits".parse().unwrap()
}

fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

fn installed(number: u64) -> Installed {
    Installed { version: version(number), variant: "int8".parse().unwrap(), digest: Digest::of(&number.to_le_bytes()) }
}

fn offered(number: u64) -> Event {
    Event::Offered { version: version(number), kind: OfferKind::Fleet }
}

fn failed(kind: FailureKind) -> Event {
    Event::Failed(Failure { kind, detail: "as the test wants".into() })
}

/// Pointers to these versions, the active one first.
fn slots(versions: &[u64]) -> Slots {
    let mut all = versions.iter().copied().map(installed);
    Slots { active: all.next(), previous: all.collect() }
}

/// An updater that serves the first of these versions and keeps the others, with the hub online.
fn serving_of(versions: &[u64], settings: Settings) -> Updater {
    let complete = versions.iter().copied().map(installed).collect();
    let found = OnDisk { slots: slots(versions), complete, ..OnDisk::default() };
    let (mut updater, steps) = resume(digits(), settings, found);
    assert_eq!(steps, []);
    handle(&mut updater, Event::HubOnline);
    updater
}

/// An updater that serves this version, with the hub online.
fn serving(number: u64) -> Updater {
    serving_of(&[number], Settings::default())
}

fn handle(updater: &mut Updater, event: Event) -> Vec<Step> {
    updater.handle(event, Instant::now(), 0).unwrap()
}

/// The events of an update that goes well, up to but without the one named.
fn until(number: u64, last: &Event) -> Vec<Event> {
    let all = [
        offered(number),
        Event::Trusted,
        Event::Fetched,
        Event::Verified(installed(number)),
        Event::Loaded,
        Event::GoldenMatched,
        Event::Switched,
    ];
    all.into_iter().take_while(|event| event != last).collect()
}

fn outcomes(steps: &[Step]) -> Vec<&'static str> {
    steps
        .iter()
        .filter_map(|step| match step {
            Step::Report(Report { outcome, .. }) => Some(outcome.as_str()),
            _ => None,
        })
        .collect()
}

#[test]
fn an_offer_becomes_active_after_every_check_and_the_old_one_is_kept() {
    let mut updater = serving(1);
    let mut steps = Vec::new();
    for event in until(2, &Event::Tick) {
        assert_eq!(updater.slots().active_version(), Some(version(1)), "the active one serves until the switch");
        steps.extend(handle(&mut updater, event));
    }
    let slots = slots(&[2, 1]);
    assert_eq!(updater.slots(), &slots);
    assert_eq!(*updater.state(), State::Idle);
    let jobs: Vec<&Step> = steps.iter().filter(|step| !matches!(step, Step::Report(_))).collect();
    let (two, v) = (installed(2), version(2));
    assert_eq!(
        jobs,
        [
            &Step::RefreshTrust { version: v },
            &Step::Fetch { version: v },
            &Step::Verify { version: v },
            &Step::Load { installed: two.clone() },
            &Step::CheckGolden { installed: two.clone() },
            &Step::Switch { installed: two, slots, probation: None },
        ]
    );
    assert_eq!(outcomes(&steps), ["started", "active"]);
}

#[test]
fn earlier_versions_beyond_the_keep_count_are_removed() {
    for (keep, removed) in [(0, [2, 3].as_slice()), (1, &[2]), (2, &[])] {
        let mut updater = serving_of(&[2], Settings { keep, ..Settings::default() });
        let events = until(3, &Event::Tick).into_iter().chain(until(4, &Event::Tick));
        let steps: Vec<Step> = events.flat_map(|event| handle(&mut updater, event)).collect();
        let gone = steps.iter().filter_map(|step| match step {
            Step::Remove { version } => Some(version.number()),
            _ => None,
        });
        assert_eq!(gone.collect::<Vec<_>>(), removed, "keep {keep}");
        assert_eq!(updater.slots().previous.len(), keep);
    }
}

#[test]
fn an_older_version_is_refused_and_the_same_is_confirmed() {
    let mut updater = serving(2);
    let older = handle(&mut updater, offered(1));
    assert!(
        matches!(&older[..], [Step::Report(Report { outcome: Outcome::Superseded { by }, .. })] if *by == version(2))
    );
    assert_eq!(outcomes(&handle(&mut updater, offered(2))), ["active"]);
    assert_eq!(*updater.state(), State::Idle);
}

#[test]
fn a_bad_version_is_given_up_at_every_stage_reported_once_and_left_alone() {
    let stages = [Event::Trusted, Event::Fetched, Event::Verified(installed(2)), Event::Loaded, Event::GoldenMatched];
    let kinds = [
        FailureKind::NotSigned,
        FailureKind::Tampered,
        FailureKind::Tampered,
        FailureKind::ModelRefused,
        FailureKind::GoldenMismatch,
    ];
    for (stage, kind) in stages.iter().zip(kinds) {
        let mut updater = serving(1);
        for event in until(2, stage) {
            handle(&mut updater, event);
        }
        let steps = handle(&mut updater, failed(kind));
        assert_eq!(outcomes(&steps), ["rejected"], "{kind}");
        assert!(steps.contains(&Step::Remove { version: version(2) }));
        assert_eq!((updater.state(), updater.slots().active_version()), (&State::Idle, Some(version(1))));
        assert_eq!(handle(&mut updater, offered(2)), [], "not again by itself");
        assert_eq!(outcomes(&handle(&mut updater, offered(3))), ["started"], "a higher one is another matter");
    }
}

#[test]
fn an_operator_may_have_a_failed_version_tried_once_more() {
    let mut updater = serving(1);
    handle(&mut updater, offered(2));
    handle(&mut updater, failed(FailureKind::NotSigned));
    let retry = Event::Offered { version: version(2), kind: OfferKind::Retry };
    let steps = handle(&mut updater, retry);
    assert!(steps.contains(&Step::Forget { version: version(2) }));
    assert!(steps.contains(&Step::RefreshTrust { version: version(2) }));
}

#[test]
fn wrong_bytes_are_tried_again_within_a_day_and_a_bad_model_never() {
    for (kind, again) in [
        (FailureKind::Tampered, true),
        (FailureKind::NotSigned, true),
        (FailureKind::GoldenMismatch, false),
        (FailureKind::ModelRefused, false),
        (FailureKind::TrustRefused, false),
    ] {
        let mut updater = serving(1);
        let mut now = Instant::now();
        handle(&mut updater, offered(2));
        for round in 1..8_u32 {
            let steps = updater.handle(failed(kind), now, u64::MAX).unwrap();
            assert_eq!(outcomes(&steps), ["rejected"], "{kind}");
            assert_eq!(updater.failed().len(), 1, "it counts as given up");
            let Some((until, _why)) = updater.poll_timeout() else {
                assert!(!again, "{kind} is not tried again");
                break;
            };
            assert!(again && until - now <= SECOND_CHANCE.max, "{kind}: {:?}", until - now);
            assert!(until - now >= SECOND_CHANCE.ceiling(round) - Duration::from_secs(1), "too soon in round {round}");
            assert_eq!(updater.handle(Event::Tick, until - Duration::from_secs(1), 0).unwrap(), []);
            now = until;
            let steps = updater.handle(Event::Tick, now, 0).unwrap();
            assert!(steps.contains(&Step::Forget { version: version(2) }));
            assert!(steps.contains(&Step::RefreshTrust { version: version(2) }));
        }
    }
}

#[test]
fn a_second_chance_survives_a_restart_and_ends_with_a_higher_version() {
    let slots = slots(&[1]);
    let failure = |kind| Failure { kind, detail: "chunk 3".into() };
    let failed = BTreeMap::from([
        (version(2), failure(FailureKind::Tampered)),
        (version(3), failure(FailureKind::Tampered)),
        (version(4), failure(FailureKind::GoldenMismatch)),
    ]);
    let found = OnDisk { slots, complete: vec![installed(1)], failed, ..OnDisk::default() };
    let (mut updater, _steps) = resume(digits(), Settings::default(), found);
    let now = Instant::now();
    updater.handle(Event::HubOnline, now, u64::MAX).unwrap();
    let (until, _why) = updater.poll_timeout().unwrap();
    assert!(until - now <= SECOND_CHANCE.max);
    let steps = updater.handle(Event::Tick, until, 0).unwrap();
    assert!(steps.contains(&Step::RefreshTrust { version: version(3) }), "the highest first: {steps:?}");
    handle(&mut updater, Event::Trusted);
    handle(&mut updater, Event::Fetched);
    for event in [Event::Verified(installed(3)), Event::Loaded, Event::GoldenMatched, Event::Switched] {
        handle(&mut updater, event);
    }
    assert_eq!(updater.poll_timeout(), None, "version 2 is under the active one now");
}

#[test]
fn a_failure_that_may_pass_is_tried_again_and_told_once() {
    let mut updater = serving(1);
    let mut now = Instant::now();
    handle(&mut updater, offered(2));
    for (kind, told) in [
        (FailureKind::Interrupted, true),
        (FailureKind::Interrupted, false),
        (FailureKind::DiskFull, true),
        (FailureKind::DiskFull, false),
    ] {
        let steps = updater.handle(failed(kind), now, u64::MAX).unwrap();
        assert_eq!(outcomes(&steps).len(), usize::from(told), "{kind}");
        let (until, _) = updater.poll_timeout().unwrap();
        assert!(until > now);
        assert_eq!(updater.handle(Event::Tick, now, 0).unwrap(), [], "too early");
        now = until;
        assert_eq!(updater.handle(Event::Tick, now, 0).unwrap(), [Step::RefreshTrust { version: version(2) }]);
    }
}

#[test]
fn a_missing_hub_is_waited_for() {
    let mut updater = serving(1);
    handle(&mut updater, offered(2));
    handle(&mut updater, Event::HubAway);
    assert_eq!(handle(&mut updater, failed(FailureKind::HubAway)), []);
    assert!(matches!(updater.state(), State::Paused { .. }));
    assert_eq!(handle(&mut updater, Event::HubOnline), [Step::RefreshTrust { version: version(2) }]);
    // Back before the broken fetch was noticed: not a pause that nobody would end.
    handle(&mut updater, Event::Trusted);
    handle(&mut updater, Event::HubAway);
    handle(&mut updater, Event::HubOnline);
    handle(&mut updater, failed(FailureKind::HubAway));
    assert!(updater.poll_timeout().is_some());
}

#[test]
fn verified_files_are_switched_to_without_the_hub() {
    let mut updater = serving(1);
    for event in until(2, &Event::Verified(installed(2))) {
        handle(&mut updater, event);
    }
    handle(&mut updater, Event::HubAway);
    for event in [Event::Verified(installed(2)), Event::Loaded, Event::GoldenMatched, Event::Switched] {
        handle(&mut updater, event);
    }
    assert_eq!(updater.slots().active_version(), Some(version(2)));
}

#[test]
fn the_highest_offer_wins_while_busy() {
    let mut updater = serving(1);
    handle(&mut updater, offered(2));
    assert_eq!(handle(&mut updater, offered(4)), [Step::Abandon { version: version(2) }]);
    assert_eq!(handle(&mut updater, offered(3)), [], "lower than what waits");
    assert_eq!(handle(&mut updater, offered(5)), [], "told to stop already");
    let steps = handle(&mut updater, failed(FailureKind::Superseded));
    assert!(steps.contains(&Step::Remove { version: version(2) }));
    assert!(steps.contains(&Step::RefreshTrust { version: version(5) }));
}

#[test]
fn a_verified_version_that_is_not_the_one_under_way_is_refused() {
    let mut updater = serving(1);
    for event in until(3, &Event::Verified(installed(3))) {
        handle(&mut updater, event);
    }
    let error = updater.handle(Event::Verified(installed(2)), Instant::now(), 0).unwrap_err();
    assert_eq!(error.to_string(), "update: event \"verified\" makes no sense in state \"verifying\"");
}

#[test]
fn a_damaged_active_version_gives_way_to_the_previous_one_after_a_restart() {
    let slots = slots(&[3, 2]);
    let found = OnDisk { slots, complete: vec![installed(1), installed(2)], ..OnDisk::default() };
    let (mut updater, steps) = resume(digits(), Settings::default(), found);
    let repaired = self::slots(&[2]);
    assert_eq!(steps.first(), Some(&Step::Repair { slots: repaired.clone() }));
    assert_eq!(outcomes(&steps), ["retrying"]);
    assert!(steps.contains(&Step::Remove { version: version(1) }));
    assert_eq!(updater.slots(), &repaired);
    handle(&mut updater, Event::HubOnline);
    assert!(handle(&mut updater, offered(3)).contains(&Step::RefreshTrust { version: version(3) }), "it can come back");
}

#[test]
fn a_half_fetched_version_is_kept_over_a_restart_and_a_failed_one_is_not() {
    let slots = slots(&[1]);
    let failure = Failure { kind: FailureKind::Tampered, detail: "chunk 3".into() };
    let found = OnDisk {
        slots,
        complete: vec![installed(1)],
        partial: vec![version(2), version(3)],
        failed: BTreeMap::from([(version(2), failure)]),
        ..OnDisk::default()
    };
    let (mut updater, steps) = resume(digits(), Settings::default(), found);
    assert_eq!(steps, [Step::Remove { version: version(2) }]);
    handle(&mut updater, Event::HubOnline);
    assert_eq!(handle(&mut updater, offered(2)), [], "the restart has not forgotten it");
}

#[test]
fn what_an_earlier_run_left_behind_is_removed_when_a_higher_version_serves() {
    let found = OnDisk { complete: vec![installed(3)], partial: vec![version(2)], ..OnDisk::default() };
    let (mut updater, steps) = resume(digits(), Settings::default(), found);
    assert_eq!(steps, [Step::Remove { version: version(2) }], "one start is kept, the highest");
    handle(&mut updater, Event::HubOnline);
    let steps: Vec<Step> = until(4, &Event::Tick).into_iter().flat_map(|event| handle(&mut updater, event)).collect();
    assert!(steps.contains(&Step::Remove { version: version(3) }));
}
