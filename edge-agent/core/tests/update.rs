//! Promises of the update machine.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at its first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use edge_core::slots::{Installed, Slots};
use edge_core::update::{
    Event, Failure, FailureKind, OfferKind, OnDisk, Outcome, Report, State, Step, Updater, resume,
};
use proptest::prelude::*;
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

/// An updater that serves this version, with the hub online.
fn serving(number: u64) -> Updater {
    let slots = Slots { active: Some(installed(number)), previous: None };
    let found = OnDisk { slots, complete: vec![installed(number)], ..OnDisk::default() };
    let (mut updater, steps) = resume(digits(), found);
    assert_eq!(steps, []);
    handle(&mut updater, Event::HubOnline);
    updater
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
    let slots = Slots { active: Some(installed(2)), previous: Some(installed(1)) };
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
            &Step::Switch { installed: two, slots },
        ]
    );
    assert_eq!(outcomes(&steps), ["started", "active"]);
}

#[test]
fn the_version_before_the_previous_one_is_removed() {
    let mut updater = serving(1);
    let mut steps = Vec::new();
    for event in until(2, &Event::Tick).into_iter().chain(until(3, &Event::Tick)) {
        steps.extend(handle(&mut updater, event));
    }
    assert!(steps.contains(&Step::Remove { version: version(1) }));
    assert!(!steps.contains(&Step::Remove { version: version(2) }));
}

#[test]
fn an_older_version_is_refused_and_the_same_is_confirmed() {
    let mut updater = serving(2);
    let older = handle(&mut updater, offered(1));
    assert!(
        matches!(&older[..], [Step::Report(Report { outcome: Outcome::Older { active }, .. })] if *active == version(2))
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
        assert_eq!(outcomes(&steps), ["failed"], "{kind}");
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
    let slots = Slots { active: Some(installed(3)), previous: Some(installed(2)) };
    let found = OnDisk { slots, complete: vec![installed(1), installed(2)], ..OnDisk::default() };
    let (mut updater, steps) = resume(digits(), found);
    let repaired = Slots { active: Some(installed(2)), previous: None };
    assert_eq!(steps.first(), Some(&Step::Repair { slots: repaired.clone() }));
    assert_eq!(outcomes(&steps), ["delayed"]);
    assert!(steps.contains(&Step::Remove { version: version(1) }));
    assert_eq!(updater.slots(), &repaired);
    handle(&mut updater, Event::HubOnline);
    assert!(handle(&mut updater, offered(3)).contains(&Step::RefreshTrust { version: version(3) }), "it can come back");
}

#[test]
fn a_half_fetched_version_is_kept_over_a_restart_and_a_failed_one_is_not() {
    let slots = Slots { active: Some(installed(1)), previous: None };
    let failure = Failure { kind: FailureKind::Tampered, detail: "chunk 3".into() };
    let found = OnDisk {
        slots,
        complete: vec![installed(1)],
        partial: vec![version(2), version(3)],
        failed: BTreeMap::from([(version(2), failure)]),
    };
    let (mut updater, steps) = resume(digits(), found);
    assert_eq!(steps, [Step::Remove { version: version(2) }]);
    handle(&mut updater, Event::HubOnline);
    assert_eq!(handle(&mut updater, offered(2)), [], "the restart has not forgotten it");
}

#[test]
fn what_an_earlier_run_left_behind_is_removed_when_a_higher_version_serves() {
    let found = OnDisk { complete: vec![installed(3)], partial: vec![version(2)], ..OnDisk::default() };
    let (mut updater, steps) = resume(digits(), found);
    assert_eq!(steps, [Step::Remove { version: version(2) }], "one start is kept, the highest");
    handle(&mut updater, Event::HubOnline);
    let steps: Vec<Step> = until(4, &Event::Tick).into_iter().flat_map(|event| handle(&mut updater, event)).collect();
    assert!(steps.contains(&Step::Remove { version: version(3) }));
}

/// What the test makes happen.
#[derive(Debug, Clone)]
enum Act {
    Offer {
        number: u64,
        retry: bool,
    },
    HubOnline,
    HubAway,
    /// The job under way ends well.
    Succeed,
    /// The job under way ends with this.
    Fail(FailureKind),
    /// The agent is killed, and starts again from the disk.
    Crash {
        at_the_pointer: bool,
    },
    /// The files of this version rot while the agent is down.
    Rot {
        number: u64,
    },
    Pass {
        seconds: u64,
    },
}

const KINDS: [FailureKind; 16] = [
    FailureKind::HubAway,
    FailureKind::Interrupted,
    FailureKind::HubBusy,
    FailureKind::DiskFull,
    FailureKind::Storage,
    FailureKind::TrustStale,
    FailureKind::NoRoom,
    FailureKind::TrustRefused,
    FailureKind::NotSigned,
    FailureKind::Tampered,
    FailureKind::BadManifest,
    FailureKind::NoVariant,
    FailureKind::ModelRefused,
    FailureKind::GoldenMismatch,
    FailureKind::Damaged,
    FailureKind::Superseded,
];

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (1..9_u64, any::<bool>()).prop_map(|(number, retry)| Act::Offer { number, retry }),
        2 => Just(Act::HubOnline),
        1 => Just(Act::HubAway),
        9 => Just(Act::Succeed),
        2 => proptest::sample::select(KINDS.to_vec()).prop_map(Act::Fail),
        1 => any::<bool>().prop_map(|at_the_pointer| Act::Crash { at_the_pointer }),
        1 => (1..9_u64).prop_map(|number| Act::Rot { number }),
        2 => (0..2000_u64).prop_map(|seconds| Act::Pass { seconds }),
    ]
}

/// A device as the updater's shell would have it: a disk, sessions and at most one job.
struct Device {
    updater: Updater,
    now: Instant,
    /// On the disk.
    slots: Slots,
    complete: BTreeSet<u64>,
    partial: BTreeSet<u64>,
    remembered: BTreeMap<Version, Failure>,
    /// In memory.
    job: Option<Step>,
    served: Option<Version>,
    beside: Option<Version>,
}

impl Device {
    fn new() -> Self {
        Self {
            updater: Updater::new(digits()),
            now: Instant::now(),
            slots: Slots::default(),
            complete: BTreeSet::new(),
            partial: BTreeSet::new(),
            remembered: BTreeMap::new(),
            job: None,
            served: None,
            beside: None,
        }
    }

    fn restart(&mut self) {
        let found = OnDisk {
            slots: self.slots.clone(),
            complete: self.complete.iter().map(|number| installed(*number)).collect(),
            partial: self.partial.iter().map(|number| version(*number)).collect(),
            failed: self.remembered.clone(),
        };
        let (updater, steps) = resume(digits(), found);
        self.updater = updater;
        (self.job, self.beside) = (None, None);
        self.obey(steps);
        self.served = self.updater.slots().active_version();
    }

    fn event(&mut self, event: Event) {
        let steps = self.updater.handle(event, self.now, u64::MAX / 2).unwrap();
        self.obey(steps);
    }

    fn obey(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::RefreshTrust { .. }
                | Step::Fetch { .. }
                | Step::Verify { .. }
                | Step::Load { .. }
                | Step::CheckGolden { .. }
                | Step::Switch { .. } => {
                    assert_eq!(self.job, None, "one job at a time");
                    if let Step::Load { installed } | Step::CheckGolden { installed } | Step::Switch { installed, .. } =
                        &step
                    {
                        assert!(self.complete.contains(&installed.version.number()), "loaded before it was verified");
                    }
                    self.job = Some(step);
                }
                Step::Abandon { .. } => assert!(self.job.is_some(), "nothing to stop"),
                Step::Unload { version } => {
                    assert_eq!(self.beside, Some(version), "nothing to release");
                    self.beside = None;
                }
                Step::Remove { version } => {
                    assert!(!self.slots.names(version) && self.served != Some(version), "removed what is needed");
                    self.complete.remove(&version.number());
                    self.partial.remove(&version.number());
                    self.beside = self.beside.filter(|beside| *beside != version);
                }
                Step::Repair { slots } => self.slots = slots,
                Step::Remember { version, failure } => {
                    self.remembered.insert(version, failure);
                }
                Step::Forget { version } => {
                    self.remembered.remove(&version);
                }
                Step::Report(_) | Step::WaitUntil(_) => {}
            }
        }
        assert!(self.remembered.iter().eq(self.updater.failed()), "what is stored is what is known");
    }

    fn succeed(&mut self) {
        let event = match self.job.take() {
            None => return,
            Some(Step::RefreshTrust { .. }) => Event::Trusted,
            Some(Step::Fetch { version }) => {
                self.partial.insert(version.number());
                Event::Fetched
            }
            Some(Step::Verify { version }) => {
                self.partial.remove(&version.number());
                self.complete.insert(version.number());
                Event::Verified(installed(version.number()))
            }
            Some(Step::Load { installed }) => {
                assert_eq!(self.beside, None, "two candidates in memory");
                self.beside = Some(installed.version);
                Event::Loaded
            }
            Some(Step::CheckGolden { .. }) => Event::GoldenMatched,
            Some(Step::Switch { installed, slots }) => {
                assert_eq!(self.beside.take(), Some(installed.version));
                self.slots = slots;
                self.served = Some(installed.version);
                Event::Switched
            }
            Some(other) => panic!("{other:?} is no job"),
        };
        self.event(event);
    }

    fn fail(&mut self, kind: FailureKind) {
        match self.job.take() {
            None => {}
            Some(_) => self.event(failed(kind)),
        }
    }

    fn crash(&mut self, at_the_pointer: bool) {
        if let (Some(Step::Switch { slots, .. }), true) = (&self.job, at_the_pointer) {
            self.slots = slots.clone();
        }
        self.restart();
    }

    fn rot(&mut self, number: u64) {
        self.complete.remove(&number);
        self.restart();
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Offer { number, retry } => {
                let kind = if retry { OfferKind::Retry } else { OfferKind::Fleet };
                self.event(Event::Offered { version: version(number), kind });
            }
            Act::HubOnline => self.event(Event::HubOnline),
            Act::HubAway => self.event(Event::HubAway),
            Act::Succeed => self.succeed(),
            Act::Fail(kind) => self.fail(kind),
            Act::Crash { at_the_pointer } => self.crash(at_the_pointer),
            Act::Rot { number } => self.rot(number),
            Act::Pass { seconds } => {
                self.now += Duration::from_secs(seconds);
                self.event(Event::Tick);
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.updater.slots(), &self.slots, "the pointers known are the pointers stored");
        assert_eq!(self.served, self.slots.active_version(), "what serves is what the pointer names");
        for slot in [&self.slots.active, &self.slots.previous].into_iter().flatten() {
            assert!(self.complete.contains(&slot.version.number()), "a pointer names an incomplete version");
        }
        let busy = !matches!(self.updater.state(), State::Idle | State::Paused { .. } | State::Waiting { .. });
        assert_eq!(busy, self.job.is_some(), "a state of work has a job, and no other has");
    }

    /// Lets everything go well until nothing is left to do.
    fn settle(&mut self) {
        self.event(Event::HubOnline);
        for _ in 0..100 {
            self.succeed();
            if let Some((until, _)) = self.updater.poll_timeout() {
                self.now = until;
                self.event(Event::Tick);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_happens_a_complete_verified_version_serves_and_the_machine_comes_to_rest(
        acts in proptest::collection::vec(act(), 0..120),
    ) {
        let mut device = Device::new();
        for act in acts {
            let before = device.served;
            let lossy = matches!(act, Act::Rot { .. });
            device.act(act);
            device.check();
            prop_assert!(lossy || before.is_none() || device.served >= before, "it went back, or served nothing");
        }
        device.settle();
        device.check();
        prop_assert_eq!(device.updater.state(), &State::Idle);
        device.event(Event::Offered { version: version(20), kind: OfferKind::Fleet });
        device.settle();
        prop_assert_eq!(device.served, Some(version(20)));
        prop_assert_eq!(&device.beside, &None);
        prop_assert!(device.complete.len() <= 2, "files are left over: {:?}", device.complete);
    }

    #[test]
    fn no_sequence_of_events_makes_an_unverified_version_active(
        events in proptest::collection::vec((0..12_u8, 1..5_u64, proptest::sample::select(KINDS.to_vec())), 0..200),
    ) {
        let mut updater = serving(1);
        let mut verified = BTreeSet::from([version(1)]);
        for (which, number, kind) in events {
            let event = match which {
                0 | 1 => offered(number),
                2 => Event::Offered { version: version(number), kind: OfferKind::Retry },
                3 => Event::HubOnline,
                4 => Event::HubAway,
                5 => Event::Trusted,
                6 => Event::Fetched,
                7 => Event::Verified(installed(number)),
                8 => Event::Loaded,
                9 => Event::GoldenMatched,
                10 => Event::Switched,
                _ => failed(kind),
            };
            let before = updater.slots().clone();
            let is_switch = event == Event::Switched;
            let proof = match &event {
                Event::Verified(installed) => Some(installed.version),
                _ => None,
            };
            let taken = updater.handle(event, Instant::now(), 0).is_ok();
            verified.extend(proof.filter(|_| taken));
            prop_assert!(is_switch && taken || *updater.slots() == before, "only a switch moves the pointers");
            prop_assert!(updater.slots().active_version().is_some_and(|active| verified.contains(&active)));
        }
    }
}
