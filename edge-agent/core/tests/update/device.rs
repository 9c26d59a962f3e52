//! The update machine on a simulated device: any sequence of offers, failures, crashes and rot.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use edge_core::slots::Slots;
use edge_core::update::measure::Comparison;
use edge_core::update::orders::{Orders, OwnerOrder};
use edge_core::update::probation::{Probation, ProbationLimits, Sample};
use edge_core::update::{
    Event, Failure, FailureKind, LastEnd, OfferKind, OnDisk, Settings, ShadowTally, State, Step, Updater, before_load,
    measure, resume,
};
use proptest::prelude::*;
use types::Version;

use crate::{digits, failed, installed, offered, serving, version};

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
    Owner(OwnerOrder),
    HubPin(Option<u64>),
    Return {
        from: u64,
        to: u64,
    },
    /// The version that serves does this, on probation or not.
    Behave {
        deaths: u64,
    },
}

/// Every stage is on, so that a crash may come at each.
fn settings() -> Settings {
    Settings {
        measure: Some(measure::Limits::default()),
        shadow: true,
        probation: Some(ProbationLimits::default()),
        ..Settings::default()
    }
}

fn order() -> impl Strategy<Value = OwnerOrder> {
    prop_oneof![
        2 => Just(OwnerOrder::Rollback),
        2 => (1..9_u64).prop_map(|number| OwnerOrder::Pin(version(number))),
        2 => Just(OwnerOrder::Unpin),
        1 => Just(OwnerOrder::Hold),
        2 => Just(OwnerOrder::Resume),
    ]
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
        1 => order().prop_map(Act::Owner),
        1 => proptest::option::of(1..9_u64).prop_map(Act::HubPin),
        2 => (1..9_u64, 1..9_u64).prop_map(|(from, to)| Act::Return { from, to }),
        1 => (0..3_u64).prop_map(|deaths| Act::Behave { deaths }),
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
    orders: Orders,
    probation: Option<Probation>,
    /// In memory.
    job: Option<Step>,
    served: Option<Version>,
    beside: Option<Version>,
}

impl Device {
    fn new() -> Self {
        Self {
            updater: Updater::new(digits(), settings()),
            now: Instant::now(),
            slots: Slots::default(),
            complete: BTreeSet::new(),
            partial: BTreeSet::new(),
            remembered: BTreeMap::new(),
            orders: Orders::default(),
            probation: None,
            job: None,
            served: None,
            beside: None,
        }
    }

    fn restart(&mut self, last_end: LastEnd) {
        let found = OnDisk {
            slots: self.slots.clone(),
            complete: self.complete.iter().map(|number| installed(*number)).collect(),
            partial: self.partial.iter().map(|number| version(*number)).collect(),
            failed: self.remembered.clone(),
            // The metadata lists the even versions only: a return to another one needs the hub.
            listed: self.complete.iter().filter(|number| *number % 2 == 0).map(|number| version(*number)).collect(),
            orders: self.orders.clone(),
            probation: self.probation.clone(),
        };
        (self.job, self.beside) = (None, None);
        let (found, first) = before_load(&digits(), &settings(), found, last_end);
        let no_jobs = first.iter().all(|step| {
            matches!(
                step,
                Step::Repair { .. }
                    | Step::Remember { .. }
                    | Step::KeepOrders { .. }
                    | Step::KeepProbation { .. }
                    | Step::Report(_)
            )
        });
        assert!(no_jobs, "{first:?}");
        let (updater, steps) = resume(digits(), settings(), found);
        self.updater = updater;
        self.write(first);
        self.served = self.slots.active_version();
        self.obey(steps);
        self.served = self.updater.slots().active_version();
    }

    fn write(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Repair { slots } => self.slots = slots,
                Step::Remember { version, failure } => drop(self.remembered.insert(version, failure)),
                Step::KeepOrders { orders } => self.orders = orders,
                Step::KeepProbation { probation } => self.probation = probation,
                Step::Report(_) => {}
                other => panic!("{other:?} comes too early"),
            }
        }
    }

    fn event(&mut self, event: Event) {
        let steps = self.updater.handle(event, self.now, u64::MAX / 2).unwrap();
        self.obey(steps);
    }

    fn obey(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Recall { .. }
                | Step::RefreshTrust { .. }
                | Step::Fetch { .. }
                | Step::Verify { .. }
                | Step::Load { .. }
                | Step::CheckGolden { .. }
                | Step::Measure { .. }
                | Step::Shadow { .. }
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
                Step::KeepOrders { orders } => self.orders = orders,
                Step::KeepProbation { probation } => self.probation = probation,
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
            Some(Step::Recall { version })
                if self.complete.contains(&version.number()) && version.number() % 2 == 0 =>
            {
                Event::Verified(installed(version.number()))
            }
            Some(Step::Recall { .. }) => failed(FailureKind::NotSigned),
            Some(Step::CheckGolden { .. }) => Event::GoldenMatched,
            Some(Step::Measure { .. }) => Event::Measured(Comparison::default()),
            Some(Step::Shadow { .. }) => Event::Shadowed(ShadowTally::default()),
            Some(Step::Switch { installed, slots, probation }) => {
                assert_eq!(self.beside.take(), Some(installed.version));
                self.probation = probation.or(self.probation.take());
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
        if let (Some(Step::Switch { slots, probation, .. }), true) = (&self.job, at_the_pointer) {
            self.slots = slots.clone();
            self.probation = probation.clone();
        }
        self.restart(LastEnd::Agent);
    }

    fn rot(&mut self, number: u64) {
        self.complete.remove(&number);
        self.restart(LastEnd::Orderly);
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
                self.event(Event::Observed(Sample::default()));
            }
            Act::Owner(order) => {
                if self.updater.check_order(&order).is_ok() {
                    self.event(Event::Ordered(order));
                }
            }
            Act::HubPin(number) => self.event(Event::Pinned(number.map(version))),
            Act::Return { from, to } => {
                self.event(Event::Return { from: version(from), to: version(to), reason: "it is bad".to_owned() });
            }
            Act::Behave { deaths } => self.event(Event::Observed(Sample { deaths, ..Sample::default() })),
        }
    }

    fn check(&self) {
        assert_eq!(self.updater.slots(), &self.slots, "the pointers known are the pointers stored");
        assert_eq!(self.served, self.slots.active_version(), "what serves is what the pointer names");
        assert_eq!(self.updater.orders(), &self.orders, "the orders known are the orders stored");
        let on_probation = |probation: Option<&Probation>| probation.map(|probation| probation.version);
        assert_eq!(on_probation(self.updater.probation()), on_probation(self.probation.as_ref()), "the same probation");
        assert!(self.slots.previous.len() <= settings().keep, "too many are kept");
        for slot in self.slots.all() {
            assert!(self.complete.contains(&slot.version.number()), "a pointer names an incomplete version");
        }
        let busy = !matches!(self.updater.state(), State::Idle | State::Paused { .. } | State::Waiting { .. });
        assert_eq!(busy, self.job.is_some(), "a state of work has a job, and no other has");
    }

    /// Lets everything go well until nothing is left to do.
    fn settle(&mut self) {
        self.event(Event::HubOnline);
        for _ in 0..60 {
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
            // A loss of files, an order and a return are the only ways down.
            // A switch that has begun is not stopped by the end of its order.
            let is_switching = matches!(device.job, Some(Step::Switch { .. }));
            let may_go_down = matches!(act, Act::Rot { .. }) || device.orders.anchor().is_some() || is_switching;
            device.act(act);
            device.check();
            prop_assert!(before.is_none() || device.served.is_some() || may_go_down, "it serves nothing any more");
            prop_assert!(
                may_go_down || before.is_none() || device.served >= before || !device.remembered.is_empty(),
                "it went back without a reason"
            );
        }
        device.settle();
        device.check();
        prop_assert_eq!(device.updater.state(), &State::Idle);
        let anchor = device.orders.anchor().filter(|anchor| !device.remembered.contains_key(anchor));
        prop_assert!(anchor.is_none() || device.served == anchor, "an order is not carried out: {anchor:?}");
        for order in [OwnerOrder::Unpin, OwnerOrder::Resume] {
            device.event(Event::Ordered(order));
        }
        device.event(Event::Pinned(None));
        device.settle();
        device.event(Event::Offered { version: version(20), kind: OfferKind::Fleet });
        device.settle();
        device.check();
        prop_assert_eq!(device.served, Some(version(20)));
        prop_assert_eq!(&device.beside, &None);
        prop_assert!(device.complete.len() <= 1 + settings().keep, "files are left over: {:?}", device.complete);
    }

    #[test]
    fn no_sequence_of_events_makes_an_unverified_version_active(
        events in proptest::collection::vec((0..18_u8, 1..5_u64, proptest::sample::select(KINDS.to_vec())), 0..200),
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
                11 => Event::Ordered(OwnerOrder::Rollback),
                12 => Event::Ordered(OwnerOrder::Pin(version(number))),
                13 => Event::Ordered(OwnerOrder::Unpin),
                14 => Event::Pinned(Some(version(number)).filter(|_| number % 2 == 0)),
                15 => Event::Return { from: version(number), to: version(1), reason: String::new() },
                16 => Event::Measured(Comparison::default()),
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
