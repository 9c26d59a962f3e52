//! A small fleet that obeys the steps of a rollout, second by second.

use std::collections::BTreeMap;

use types::{DeviceId, Digest, ModelName, Version};

use crate::filter::{Subject, SubjectModel};
use crate::fleet::{self as core, Follows, Greeting, Machine};
use crate::fleet::{Installed, Model, Outcome, Presence, Report};
use crate::labels::Labels;
use crate::rollout::{
    Cohort, DeviceView, Event, Judged, OnBreach, Refused, Rollout, RolloutId, Spec, Step, Survey, Verb, spec as limits,
    wave,
};

/// Seed of the clock: any time will do.
pub(super) const START: u64 = 1_800_000_000;

pub(super) fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

pub(super) fn device(number: usize) -> DeviceId {
    format!("d{number:04}").parse().unwrap()
}

fn digits() -> ModelName {
    "digits".parse().unwrap()
}

fn installed(number: u64) -> Installed {
    Installed { version: version(number), variant: "int8".parse().unwrap(), digest: Digest::of(b"x") }
}

pub(super) fn spec(waves: &str) -> Spec {
    Spec {
        model: digits(),
        version: version(2),
        cohort: Cohort::All,
        waves: wave::parse(waves).unwrap(),
        gate: None,
        approve: false,
        start_unix_s: None,
        max_per_site: None,
        on_breach: OnBreach::Pause,
        patience_s: limits::PATIENCE_S_DEFAULT,
        silent_s: limits::SILENT_S_DEFAULT,
    }
}

pub(super) fn rollout(spec: Spec) -> Rollout {
    assert_eq!(spec.check(), Ok(()));
    Rollout::new(RolloutId(1), spec, Some(version(1)), "anna", START)
}

/// A device of the fleet.
struct One {
    id: DeviceId,
    labels: Labels,
    device: core::Device,
    is_online: bool,
    pinned: Option<Version>,
    /// Time at which its update ends.
    busy_until: Option<u64>,
}

/// The fleet with its hub.
pub(super) struct World {
    devices: Vec<One>,
    pub(super) now: u64,
    pub(super) current: Option<Version>,
    /// Whether the version fails its golden inputs everywhere.
    pub(super) bad: bool,
    /// Site at which the version fails.
    pub(super) bad_site: Option<usize>,
    /// Duration of an update in seconds.
    pub(super) slow_s: u64,
    pub(super) judged: Option<Judged>,
    /// Steps that were carried out.
    pub(super) steps: Vec<Step>,
}

impl World {
    pub(super) fn new(devices: usize) -> Self {
        let mut world = Self {
            devices: Vec::new(),
            now: START,
            current: Some(version(1)),
            bad: false,
            bad_site: None,
            slow_s: 0,
            judged: None,
            steps: Vec::new(),
        };
        for _device in 0..devices {
            world.join();
        }
        world
    }

    pub(super) fn join(&mut self) -> usize {
        let number = self.devices.len();
        let set = BTreeMap::from([("site".to_owned(), format!("s{}", number % 3))]);
        let labels = Labels::default().changed(&set, &[]).unwrap();
        let follows = Follows { model: digits(), active: Some(installed(1)), previous: None };
        let mut fleet = core::Fleet::default();
        let id = device(number);
        fleet.connected(&id, core::ConnectionId(1), self.now);
        let greeting = Greeting { agent_version: "1".into(), machine: Machine::default(), models: vec![follows] };
        fleet.greeted(&id, core::ConnectionId(1), greeting, |_| None).unwrap();
        let device = fleet.device(&id).unwrap().clone();
        self.devices.push(One { id, labels, device, is_online: true, pinned: None, busy_until: None });
        number
    }

    pub(super) fn sleep(&mut self, number: usize) {
        let now = self.now;
        let one = &mut self.devices[number];
        one.is_online = false;
        one.device.presence = Presence::Away { since_unix_s: now };
    }

    pub(super) fn wake(&mut self, number: usize) {
        let now = self.now;
        let one = &mut self.devices[number];
        one.is_online = true;
        one.device.presence = Presence::Online { since_unix_s: now };
    }

    pub(super) fn pin(&mut self, number: usize, to: u64) {
        self.devices[number].pinned = Some(version(to));
    }

    pub(super) fn len(&self) -> usize {
        self.devices.len()
    }

    /// Calls a function with the devices as a rollout sees them.
    pub(super) fn with<R>(&self, call: impl FnOnce(&[DeviceView<'_>]) -> R) -> R {
        let model = digits();
        let models: Vec<[SubjectModel<'_>; 1]> = self
            .devices
            .iter()
            .map(|one| {
                let active = one.device.model(&model).and_then(|model| model.active.as_ref());
                [SubjectModel {
                    name: "digits",
                    active: active.map(|active| (active.version.number(), active.variant.as_str())),
                }]
            })
            .collect();
        let views: Vec<DeviceView<'_>> = self
            .devices
            .iter()
            .zip(&models)
            .map(|(one, models)| DeviceView {
                id: &one.id,
                subject: Subject {
                    name: one.id.as_str(),
                    labels: &one.labels,
                    is_online: one.is_online,
                    is_revoked: false,
                    agent: None,
                    os: None,
                    arch: None,
                    engines: &[],
                    models,
                },
                status: one.device.model(&model),
                pinned: one.pinned,
                speaks: true,
                since_unix_s: one.device.presence.since_unix_s(),
            })
            .collect();
        call(&views)
    }

    /// Lets a second pass: a survey, its steps, and what the devices do.
    pub(super) fn tick(&mut self, rollout: &mut Rollout) {
        self.now += 1;
        self.devices_work();
        let judged = self.judged.clone();
        let (current, now) = (self.current, self.now);
        let steps = self.with(|devices| {
            let survey = Survey { devices, current, is_superseded: false, judged: judged.as_ref() };
            rollout.handle(Event::Survey(&survey), now).unwrap()
        });
        for step in &steps {
            self.carry_out(step, rollout);
        }
        rollout.take_changed();
        self.steps.extend(steps);
    }

    pub(super) fn run(&mut self, rollout: &mut Rollout, seconds: u64) {
        (0..seconds).for_each(|_second| self.tick(rollout));
    }

    pub(super) fn verb(&mut self, rollout: &mut Rollout, verb: Verb) -> Result<(), Refused> {
        // A later second than the last report.
        self.now += 1;
        rollout.handle(Event::Verb { verb, by: "anna", reason: "" }, self.now).map(drop)
    }

    pub(super) fn serving(&self, number: u64) -> usize {
        self.devices.iter().filter(|one| self.active(one) == Some(version(number))).count()
    }

    pub(super) fn busy_per_site(&self) -> usize {
        let busy =
            |site: usize| self.devices.iter().skip(site).step_by(3).filter(|one| one.busy_until.is_some()).count();
        (0..3).map(busy).max().unwrap()
    }

    fn active(&self, one: &One) -> Option<Version> {
        status(one).active.as_ref().map(|active| active.version)
    }

    fn carry_out(&mut self, step: &Step, rollout: &mut Rollout) {
        let now = self.now;
        match step {
            Step::Offer { device } => {
                let until = now.saturating_add(self.slow_s);
                let one = self.find(device);
                assert!(one.is_online, "offers go to connected devices only");
                one.busy_until = Some(until);
                report(one, 2, Outcome::Started, now);
            }
            Step::Return { device, to } => {
                assert_eq!(*to, version(1));
                let one = self.find(device);
                one.busy_until = None;
                report(one, 2, Outcome::RolledBack("asked by the hub".into()), now);
                let follows = Follows { model: digits(), active: Some(installed(1)), previous: None };
                greet(one, follows);
            }
            Step::MakeCurrent => {
                self.current = Some(version(2));
                rollout.handle(Event::Promoted, now).unwrap();
            }
            Step::Revert { to } => self.current = Some(*to),
            Step::Audit { .. } => {}
        }
    }

    fn find(&mut self, device: &DeviceId) -> &mut One {
        self.devices.iter_mut().find(|one| one.id == *device).unwrap()
    }

    fn devices_work(&mut self) {
        let (now, bad, bad_site) = (self.now, self.bad, self.bad_site);
        for (number, one) in self.devices.iter_mut().enumerate() {
            if !one.is_online || one.busy_until.is_none_or(|until| until > now) {
                continue;
            }
            one.busy_until = None;
            let fails = bad || bad_site == Some(number % 3);
            let outcome = if fails { Outcome::Rejected("golden answers differ".into()) } else { Outcome::Active(()) };
            report(one, 2, outcome, now);
        }
    }
}

fn status(one: &One) -> &Model {
    one.device.model(&digits()).unwrap()
}

/// Passes a report through the fleet's own code.
fn report(one: &mut One, number: u64, outcome: Outcome, now: u64) {
    let installed = (outcome == Outcome::Active(())).then(|| installed(number));
    let stage = types::update::Stage::Active;
    let report = Report { model: digits(), version: version(number), variant: None, stage, outcome, installed };
    let connection = core::ConnectionId(1);
    let mut fleet = core::Fleet::default();
    fleet.restore(one.id.clone(), one.device.clone());
    let presence = one.device.presence;
    fleet.connected(&one.id, connection, now);
    fleet.reported(&one.id, connection, report, now).unwrap();
    one.device = fleet.device(&one.id).unwrap().clone();
    one.device.presence = presence;
}

fn greet(one: &mut One, follows: Follows) {
    let connection = core::ConnectionId(1);
    let mut fleet = core::Fleet::default();
    fleet.restore(one.id.clone(), one.device.clone());
    fleet.connected(&one.id, connection, one.device.presence.since_unix_s());
    let greeting = Greeting { agent_version: "1".into(), machine: Machine::default(), models: vec![follows] };
    fleet.greeted(&one.id, connection, greeting, |_| None).unwrap();
    one.device = fleet.device(&one.id).unwrap().clone();
}
