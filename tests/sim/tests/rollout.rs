//! Simulates whole rollouts over weeks: devices sleep, lose messages, have full disks and wrong clocks, and some refuse the
//! version. `SIM_SEED=n` runs only that seed.
#![expect(clippy::unwrap_used, reason = "a test ends at its first surprise")]

use std::collections::BTreeMap;

use hub_core::evidence::{Attribute, CELL_S, Cell, Tally, cell_of, gather};
use hub_core::filter::{Subject, SubjectModel};
use hub_core::fleet::{ConnectionId, Fleet, Follows, Greeting, Installed, Machine, Outcome, Report};
use hub_core::gate::{self, Gate};
use hub_core::labels::Labels;
use hub_core::rollout::{
    Cohort, DeviceView, Event, Judged, OnBreach, Rollout, RolloutId, Spec, Standing, State, Step, Survey, Verdict,
    spec, wave,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use types::update::Stage;
use types::{DeviceId, Digest, ModelName, Version};

/// Start of the simulation in seconds of the hub's Unix clock.
const START: u64 = 1_800_000_000;

/// Chance that a message is lost: a report is repeated in the next hour, an offer after the next greeting.
const LOSS: f64 = 0.1;

/// Days of the simulation. In the last two, every device is awake that ever is.
const DAYS: u64 = 21;

/// Device with the state that survives its sleep.
struct Device {
    id: DeviceId,
    /// Hours of the day in which it is awake, and the day from which on.
    awake: std::ops::Range<u64>,
    first_day: u64,
    clock_off_s: i64,
    /// Hour from which on its disk has room; `None` for never.
    room_from_h: Option<u64>,
    refuses: bool,
    active: u64,
    /// Version that it works on.
    target: Option<u64>,
    unreported: Option<Outcome>,
    serves_since_h: Option<u64>,
    is_online: bool,
    connections: u64,
}

struct World {
    random: StdRng,
    fleet: Fleet,
    devices: Vec<Device>,
    numbers: BTreeMap<DeviceId, usize>,
    labels: Labels,
    rollout: Rollout,
    gate: Gate,
    current: u64,
    /// Additional share of audited answers of the version that disagree, in thousandths.
    worse_per_mille: u64,
    hour: u64,
    connection: u64,
}

/// Mixes the bits of a number (splitmix64): a cheap source of chance that needs no state.
fn mixed(number: u64) -> u64 {
    let mut bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

fn digits() -> ModelName {
    "digits".parse().unwrap()
}

fn installed(number: u64) -> Installed {
    Installed { version: version(number), variant: "int8".parse().unwrap(), digest: Digest::of(b"x") }
}

impl World {
    fn new(seed: u64, devices: usize, waves: &str, worse_per_mille: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let spec = Spec {
            model: digits(),
            version: version(2),
            cohort: Cohort::All,
            waves: wave::parse(waves).unwrap(),
            gate: None,
            approve: false,
            start_unix_s: None,
            max_per_site: None,
            on_breach: OnBreach::RollBack,
            patience_s: spec::PATIENCE_S_DEFAULT * 7,
            silent_s: spec::SILENT_S_DEFAULT * 24,
        };
        let rollout = Rollout::new(RolloutId(seed + 1), spec, Some(version(1)), "anna", START);
        let devices: Vec<Device> = (0..devices).map(|number| Device::draw(&mut random, number)).collect();
        let numbers = devices.iter().enumerate().map(|(number, device)| (device.id.clone(), number)).collect();
        let gate = Gate { exposure_max: 1.0, ..Gate::default() };
        let (fleet, labels) = (Fleet::default(), Labels::default());
        Self {
            random,
            fleet,
            devices,
            numbers,
            labels,
            rollout,
            gate,
            current: 1,
            worse_per_mille,
            hour: 0,
            connection: 0,
        }
    }

    fn now(&self) -> u64 {
        START + self.hour * 3600
    }

    fn run(&mut self) {
        while self.hour < DAYS * 24 {
            self.hour += 1;
            for number in 0..self.devices.len() {
                self.live(number);
            }
            let is_running = matches!(self.rollout.state(), State::Scheduled { .. } | State::Running(_));
            let is_decided =
                is_running && self.hour.is_multiple_of(if self.rollout.parts().members.len() > 1_000 { 24 } else { 1 });
            let judged = is_decided.then(|| self.judge());
            // Devices are admitted in portions, each of which is one look.
            for _look in 0..30 {
                let before = self.rollout.parts().members.len();
                let steps = self.survey(judged.as_ref());
                steps.iter().for_each(|step| self.carry_out(step));
                if self.rollout.parts().members.len() == before {
                    break;
                }
            }
        }
    }

    /// Lets a device live for an hour.
    fn live(&mut self, number: usize) {
        let (now, hour) = (self.now(), self.hour);
        let is_last = hour + 48 >= DAYS * 24;
        let lost = self.random.random_bool(LOSS);
        let device = &mut self.devices[number];
        let is_awake = hour / 24 >= device.first_day && (is_last || device.awake.contains(&(hour % 24)));
        let connection = ConnectionId(device.connections);
        if is_awake != device.is_online {
            device.is_online = is_awake;
            if is_awake {
                self.connection += 1;
                device.connections = self.connection;
                self.greet(number);
            } else {
                self.fleet.disconnected(&device.id, connection, now);
            }
            return;
        }
        if !is_awake {
            return;
        }
        if let Some(target) = device.target {
            let has_room = device.room_from_h.is_some_and(|from| hour >= from);
            device.unreported = Some(match (device.refuses, has_room) {
                (true, _) => Outcome::Rejected("golden answers differ".to_owned()),
                (false, false) => Outcome::Retrying("the disk is full".to_owned()),
                (false, true) => Outcome::Active(()),
            });
            if device.refuses || has_room {
                device.target = None;
            }
            if !device.refuses && has_room {
                (device.active, device.serves_since_h) = (target, Some(hour));
            }
        }
        if !lost && let Some(outcome) = device.unreported.take() {
            self.report(number, outcome);
        }
    }

    fn greet(&mut self, number: usize) {
        let (now, device) = (self.now(), &self.devices[number]);
        let connection = ConnectionId(device.connections);
        self.fleet.connected(&device.id, connection, now);
        let follows = Follows { model: digits(), active: Some(installed(device.active)), previous: None };
        let greeting = Greeting { agent_version: "1".into(), machine: Machine::default(), models: vec![follows] };
        let current = version(self.current);
        let id = device.id.clone();
        let offers = self.fleet.greeted(&id, connection, greeting, |_model| Some(current)).unwrap();
        self.rollout.reconnected(&id);
        let offered = self.with(Some(&id), |devices, rollout| rollout.offers(&devices[0]));
        let wanted = offered.or(offers.first().map(|offer| offer.version)).map(Version::number);
        let device = &mut self.devices[number];
        if let Some(wanted) = wanted.filter(|wanted| *wanted > device.active && !device.refuses) {
            device.target = Some(wanted);
        }
    }

    fn report(&mut self, number: usize, outcome: Outcome) {
        let (now, device) = (self.now(), &self.devices[number]);
        let installed = (outcome == Outcome::Active(())).then(|| installed(device.active));
        let (model, stage) = (digits(), Stage::Active);
        let report = Report { model, version: version(2), variant: None, stage, outcome, installed };
        self.fleet.reported(&device.id, ConnectionId(device.connections), report, now).unwrap();
    }

    fn carry_out(&mut self, step: &Step) {
        let lost = self.random.random_bool(LOSS);
        match step {
            Step::Offer { device } if !lost => {
                let device = &mut self.devices[self.numbers[device]];
                assert!(device.is_online, "an offer to a device that sleeps");
                device.target = (device.active < 2).then_some(2);
            }
            Step::Return { device, to } if !lost => {
                let number = self.numbers[device];
                let device = &mut self.devices[number];
                (device.active, device.target, device.serves_since_h) = (to.number(), None, None);
                self.report(number, Outcome::RolledBack("asked by the hub".to_owned()));
                self.greet(number);
            }
            Step::MakeCurrent => {
                self.current = 2;
                let now = self.now();
                self.rollout.handle(Event::Promoted, now).unwrap();
                // As the daemon does: devices that woke during the last look are offered the current version.
                for recipient in self.fleet.publish(&digits(), version(2)) {
                    self.devices[self.numbers[&recipient.device]].target = Some(2);
                }
            }
            Step::Revert { to } => self.current = to.number(),
            // A message is lost with its connection, and the device greets again.
            Step::Offer { device } | Step::Return { device, .. } => self.cut(self.numbers[device]),
            Step::Audit { .. } => {}
        }
    }

    fn cut(&mut self, number: usize) {
        let (now, device) = (self.now(), &mut self.devices[number]);
        device.is_online = false;
        self.fleet.disconnected(&device.id, ConnectionId(device.connections), now);
    }

    fn survey(&mut self, judged: Option<&Judged>) -> Vec<Step> {
        let (now, current) = (self.now(), Some(version(self.current)));
        let holds = Judged { verdict: Verdict::Holds, reasons: Vec::new(), audit_per_mille: 50 };
        let mut rollout = self.rollout.clone();
        let steps = self.with(None, |devices, _rollout| {
            let judged = Some(judged.unwrap_or(&holds));
            rollout.handle(Event::Survey(&Survey { devices, current, is_superseded: false, judged }), now).unwrap()
        });
        // A hub that was killed here goes on with what is stored; what it told devices is forgotten.
        rollout.take_changed();
        self.rollout = if self.hour.is_multiple_of(50) { Rollout::restored(rollout.parts().clone()) } else { rollout };
        steps
    }

    fn judge(&self) -> Judged {
        let now = self.now();
        let assignment = self.with(None, |devices, rollout| rollout.assignment(devices, now));
        let cells = |id: &DeviceId| self.cells(self.numbers[id]);
        let attributes = |_id: &DeviceId| Vec::<Attribute>::new();
        let judgement = self.gate.judge(&gather(&assignment, &self.gate, &cells, &attributes, now));
        let verdict = match judgement.verdict {
            gate::Verdict::Passes => Verdict::Passes,
            gate::Verdict::Holds => Verdict::Holds,
            gate::Verdict::Breaks => Verdict::Breaks,
        };
        Judged { verdict, reasons: judgement.sentences(), audit_per_mille: 50 }
    }

    /// Returns the counters of a device: its last day, by its own clock, put in the hub's hours as the hub does.
    fn cells(&self, number: usize) -> Vec<Cell> {
        let device = &self.devices[number];
        let hours = self.hour.saturating_sub(24)..self.hour;
        let awake = hours.filter(|hour| hour / 24 >= device.first_day && device.awake.contains(&(hour % 24)));
        let cell = |hour: u64| {
            let has_version = device.serves_since_h.is_some_and(|since| hour >= since);
            let own_clock = (START + hour * CELL_S).saturating_add_signed(-device.clock_off_s);
            let from_unix_s = cell_of(own_clock, 60, device.clock_off_s, self.now());
            let per_mille = 10 + if has_version { self.worse_per_mille } else { 0 };
            let differs = |audit: &u64| mixed(number as u64 ^ hour << 24 ^ audit << 48) % 1_000 < per_mille;
            let agreed = 6 - (0..6).filter(differs).count() as u64;
            let tally = Tally { kept: 110, deferred: 10, audited: 6, agreed, ..Tally::default() };
            Cell { version: version(if has_version { 2 } else { 1 }), from_unix_s, tally }
        };
        awake.map(cell).collect()
    }

    /// Calls a function with the devices that the hub knows, or with one, as a rollout sees them.
    fn with<R>(&self, only: Option<&DeviceId>, call: impl FnOnce(&[DeviceView<'_>], &Rollout) -> R) -> R {
        let model = digits();
        let known: Vec<_> = match only {
            Some(id) => self.fleet.device(id).map(|device| (id, device)).into_iter().collect(),
            None => self.fleet.devices().collect(),
        };
        let models: Vec<[SubjectModel<'_>; 1]> = known
            .iter()
            .map(|(_id, device)| {
                let active = device.model(&model).and_then(|model| model.active.as_ref());
                [SubjectModel { name: "digits", active: active.map(|it| (it.version.number(), it.variant.as_str())) }]
            })
            .collect();
        let view = |((id, device), models)| {
            let (id, models): (&DeviceId, &[SubjectModel<'_>; 1]) = (id, models);
            let device: &hub_core::fleet::Device = device;
            let subject = Subject {
                name: id.as_str(),
                labels: &self.labels,
                is_online: self.fleet.connection(id).is_some(),
                is_revoked: false,
                agent: None,
                os: None,
                arch: None,
                engines: &[],
                models,
            };
            let since_unix_s = device.presence.since_unix_s();
            DeviceView { id, subject, status: device.model(&model), pinned: None, speaks: true, since_unix_s }
        };
        let views: Vec<DeviceView<'_>> = known.iter().copied().zip(&models).map(view).collect();
        call(&views, &self.rollout)
    }

    /// Returns the number of devices by their end: on the version, or the reason why not.
    fn ends(&self, wanted: u64) -> BTreeMap<String, usize> {
        let now = self.now();
        let mut ends = BTreeMap::new();
        let explained: BTreeMap<DeviceId, String> = self.with(None, |devices, rollout| {
            let why = |view: &DeviceView<'_>| match rollout.parts().members.get(view.id) {
                Some(member) => match rollout.standing(member, Some(view), now) {
                    Standing::Failed { .. } => "failed".to_owned(),
                    Standing::Silent { .. } => "silent".to_owned(),
                    Standing::Working | Standing::Idle => "working".to_owned(),
                    other => format!("{other:?}"),
                },
                None => format!("{:?}", rollout.admits(view)),
            };
            devices.iter().map(|view| (view.id.clone(), why(view))).collect()
        });
        for device in &self.devices {
            let end = match explained.get(&device.id) {
                _ if device.active == wanted => "desired version".to_owned(),
                None => "never seen".to_owned(),
                Some(why) => why.clone(),
            };
            *ends.entry(end).or_default() += 1;
        }
        ends
    }
}

impl Device {
    fn draw(random: &mut StdRng, number: usize) -> Self {
        let begin = random.random_range(0..12);
        let awake = if random.random_bool(0.6) { 0..24 } else { begin..begin + 10 };
        // Some are seen after days, one in two hundred never.
        let first_day = match random.random_range(0..1_000) {
            0..5 => DAYS + 1,
            5..100 => random.random_range(1..DAYS - 2),
            _ => 0,
        };
        let room_from_h = match random.random_range(0..1_000) {
            0..3 => None,
            3..40 => Some(random.random_range(0..(DAYS - 3) * 24)),
            _ => Some(0),
        };
        Self {
            id: format!("device-{number}").parse().unwrap(),
            awake,
            first_day,
            clock_off_s: random.random_range(-100_000_000..100_000_000),
            room_from_h,
            refuses: random.random_bool(0.002),
            active: 1,
            target: None,
            unreported: None,
            serves_since_h: None,
            is_online: false,
            connections: 0,
        }
    }
}

/// Returns the size of the fleet: small unless long tests are wanted.
fn fleet() -> usize {
    if std::env::var("SANDERLING_TEST_LONG").is_ok_and(|value| value == "1") { 10_000 } else { 300 }
}

fn seed() -> u64 {
    std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

#[test]
fn every_device_ends_on_the_new_version_or_an_explained_other_one() {
    let mut world = World::new(seed(), fleet(), "1,0.5%,5%,25%,100%", 0);
    world.run();
    let ends = world.ends(2);
    eprintln!("{ends:?}, {:?}", world.rollout.state());
    assert!(matches!(world.rollout.state(), State::Completed { .. }), "{:#?}", world.rollout.parts().decisions);
    let never = world.devices.iter().filter(|device| device.first_day > DAYS).count();
    let refused = world.devices.iter().filter(|device| device.refuses && device.first_day < DAYS).count();
    let full = |device: &&Device| device.room_from_h.is_none() && !device.refuses && device.first_day < DAYS;
    let full = world.devices.iter().filter(full).count();
    let on_it = ends.get("desired version").copied().unwrap_or_default();
    assert_eq!(on_it + never + refused + full, world.devices.len(), "{ends:?}");
    assert_eq!(ends.get("never seen").copied().unwrap_or_default(), never, "{ends:?}");
    // Devices that refuse the version and came after the rollout are no part of it.
    let late =
        ends.iter().filter(|(end, _devices)| end.starts_with("Closed")).map(|(_end, devices)| devices).sum::<usize>();
    assert_eq!(ends.get("failed").copied().unwrap_or_default() + late, refused, "{ends:?}");
}

#[test]
fn a_version_with_wrong_answers_is_stopped_early_and_every_device_returns() {
    let mut world = World::new(seed(), fleet(), "1,5%,25%,100%", 250);
    world.run();
    let ends = world.ends(1);
    let touched = world.rollout.parts().members.len();
    eprintln!("{touched} devices touched, {ends:?}, {:?}", world.rollout.state());
    assert!(matches!(world.rollout.state(), State::RolledBack { .. }), "{:#?}", world.rollout.parts().decisions);
    assert!(touched * 4 <= world.devices.len(), "{touched}");
    assert_eq!(world.devices.iter().filter(|device| device.active != 1).count(), 0, "{ends:?}");
}

#[test]
fn the_same_seed_gives_the_same_weeks() {
    let run = |seed| {
        let mut world = World::new(seed, 60, "1,10%,100%", 0);
        world.run();
        (world.ends(2), world.rollout.parts().clone())
    };
    assert_eq!(run(7), run(7));
}
