//! Fleet of simulated devices for tests of gates: devices differ, rates drift over the day, and some devices are broken,
//! offline or silent whatever the version. Everything follows from the seed.

use std::cell::RefCell;
use std::collections::HashMap;

use hub_core::evidence::{Assignment, Attribute, CELL_S, Canary, Cell, Install, Metric, Tally, gather};
use hub_core::gate::{Gate, Judgement, Verdict};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use types::histogram::Histogram;
use types::{DeviceId, Version};

/// Start of the simulation in seconds of the Unix clock.
const START_S: u64 = 1_800_000_000 - 1_800_000_000 % CELL_S;

/// Hours after which a rollout that neither passes nor stops is given up.
const HOURS_MAX: u64 = 40;

/// Requests of a device in an hour.
const REQUESTS: u64 = 100;

/// Hour of the simulation at which rollouts begin: devices have a history before.
const ROLLOUT_H: u64 = 4;

/// Faults of the version under rollout, and the share of devices that are offline or silent.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    /// Additional share of audited answers that disagree.
    pub(super) disagreement: f64,
    /// Additional share of runs that fail.
    pub(super) errors: f64,
    /// Additional share of hours with a crash.
    pub(super) crashes: f64,
    /// Additional share of answers that are deferred.
    pub(super) deferrals: f64,
    /// Share of devices that refuse the version.
    pub(super) installs: f64,
    /// Devices with the fault; `None` for all.
    pub(super) only: Option<Attribute>,
    /// Share of devices that are offline.
    pub(super) offline: f64,
    /// Share of devices that report nothing.
    pub(super) silent: f64,
}

/// End of a simulated rollout.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Run {
    /// Every wave passed.
    Completed,
    /// The gate broke.
    Stopped { admitted: usize, audited: u64, after_h: u64, metrics: Vec<Metric> },
    /// Neither within [`HOURS_MAX`].
    Held,
}

/// A device, the same in every wave.
struct Device {
    id: DeviceId,
    attributes: Vec<Attribute>,
    error_rate: f64,
    disagreement: f64,
    deferrals: f64,
    latency: usize,
    has_fault: bool,
    is_offline: bool,
    is_silent: bool,
    refuses: bool,
}

pub(super) struct Fleet {
    seed: u64,
    faults: Faults,
    devices: Vec<Device>,
    numbers: HashMap<DeviceId, usize>,
    /// Hour at which each admitted device was told, in the order of admission.
    admitted: Vec<u64>,
    now_h: u64,
    wave_h: u64,
    /// Cells that were drawn by device, so that an hour is drawn once.
    drawn: RefCell<Vec<Vec<Cell>>>,
    /// Share of kept answers that are audited, in thousandths.
    audit_per_mille: u64,
}

impl Fleet {
    pub(super) fn new(seed: u64, devices: usize, faults: Faults) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let devices: Vec<Device> = (0..devices).map(|number| Device::draw(&mut random, number, &faults)).collect();
        let numbers = devices.iter().enumerate().map(|(number, device)| (device.id.clone(), number)).collect();
        let drawn = RefCell::new(vec![Vec::new(); devices.len()]);
        let (now_h, wave_h) = (ROLLOUT_H, ROLLOUT_H);
        Self { seed, faults, devices, numbers, admitted: Vec::new(), now_h, wave_h, drawn, audit_per_mille: 50 }
    }

    /// Brings the version to the fleet in waves of these sizes, and looks at the gate every hour.
    pub(super) fn rollout(&mut self, gate: &Gate, waves: &[usize]) -> Run {
        let mut wave = 0;
        self.audit_per_mille = gate.audit_share_per_mille.into();
        self.admit(waves[0]);
        while self.now_h < ROLLOUT_H + HOURS_MAX {
            self.now_h += 1;
            let next = waves.get(wave + 1).copied().unwrap_or(self.devices.len());
            let evidence = self.evidence(gate, next);
            match gate.decide(&evidence) {
                Verdict::Holds => {}
                Verdict::Passes => {
                    wave += 1;
                    if wave == waves.len() {
                        return Run::Completed;
                    }
                    self.admit(waves[wave]);
                }
                Verdict::Breaks => {
                    let breaking = gate.judge(&evidence).reasons.into_iter();
                    let metrics = breaking.filter(|reason| reason.finding == Verdict::Breaks);
                    return Run::Stopped {
                        admitted: self.admitted.len(),
                        audited: evidence.canary.audited,
                        after_h: self.now_h - ROLLOUT_H,
                        metrics: metrics.filter_map(|reason| reason.metric).collect(),
                    };
                }
            }
        }
        Run::Held
    }

    /// Judges the rollout as it stands.
    pub(super) fn judge(&self, gate: &Gate) -> Judgement {
        gate.judge(&self.evidence(gate, self.devices.len()))
    }

    fn admit(&mut self, until: usize) {
        self.wave_h = self.now_h;
        self.admitted.resize(until.min(self.devices.len()), self.now_h);
    }

    fn evidence(&self, gate: &Gate, next: usize) -> hub_core::evidence::Evidence {
        let at = |hour: u64| START_S + hour * CELL_S;
        let canaries = self.admitted.iter().zip(&self.devices).map(|(told_h, device)| {
            let install = match device {
                Device { is_offline: true, .. } => Install::Pending,
                Device { is_silent: true, .. } => Install::Told { at_unix_s: at(*told_h) },
                Device { refuses: true, .. } => Install::Failed,
                _ => Install::Active { since_unix_s: at(*told_h) + 30, counts_from_unix_s: at(*told_h) },
            };
            Canary { device: device.id.clone(), install }
        });
        let assignment = Assignment {
            version: version(2),
            canaries: canaries.collect(),
            controls: self.devices.iter().rev().map(|device| device.id.clone()).collect(),
            cohort: self.devices.len() as u64,
            admitted_next: next as u64,
            wave_since_unix_s: at(self.wave_h),
        };
        // Ten minutes after the hour: the windows that ended at the hour are complete.
        let now = at(self.now_h) + 600;
        let cells = |id: &DeviceId| self.cells(self.numbers[id]);
        let attributes = |id: &DeviceId| self.devices[self.numbers[id]].attributes.clone();
        gather(&assignment, gate, &cells, &attributes, now)
    }

    fn cells(&self, number: usize) -> Vec<Cell> {
        if self.devices[number].is_offline {
            return Vec::new();
        }
        let told_h = self.admitted.get(number).copied();
        let mut drawn = self.drawn.borrow_mut();
        let cells = &mut drawn[number];
        for hour in cells.len() as u64..self.now_h {
            let has_version = told_h.is_some_and(|told_h| hour > told_h);
            let tally = self.draw(number, hour, has_version);
            let version = version(if has_version { 2 } else { 1 });
            cells.push(Cell { version, from_unix_s: START_S + hour * CELL_S, tally });
        }
        cells.clone()
    }

    /// Draws the counters of a device in an hour.
    fn draw(&self, number: usize, hour: u64, has_version: bool) -> Tally {
        let device = &self.devices[number];
        let mut random = StdRng::seed_from_u64(self.seed ^ (number as u64) << 20 ^ hour << 44);
        // Everything is worse by day, for both arms alike.
        let day = 1.0 + 0.6 * (hour as f64 / 24.0 * std::f64::consts::TAU).sin();
        let fault = |size: f64| if has_version && device.has_fault { size } else { 0.0 };
        let mut count = |of: u64, rate: f64| binomial(&mut random, of, rate);
        let failed = count(REQUESTS, (device.error_rate * day + fault(self.faults.errors)).min(1.0));
        let deferred = count(REQUESTS - failed, device.deferrals + fault(self.faults.deferrals));
        let kept = REQUESTS - failed - deferred;
        let audited = kept * self.audit_per_mille / 1000;
        let agreed = audited - count(audited, device.disagreement * day + fault(self.faults.disagreement));
        let crashed = count(1, 0.002 + fault(self.faults.crashes));
        let mut latency = vec![0; device.latency + 2];
        latency[device.latency] = kept;
        latency[device.latency + usize::from(count(1, 0.2) > 0)] += deferred;
        Tally {
            kept,
            deferred,
            failed,
            crashed,
            audited,
            agreed,
            latency: Histogram::of(&latency),
            memory_bytes: Some(9 << 20),
            ..Tally::default()
        }
    }
}

impl Device {
    fn draw(random: &mut StdRng, number: usize, faults: &Faults) -> Self {
        let mut pick = |choices: &[(&'static str, f64)]| {
            let mut draw: f64 = random.random();
            let found = choices.iter().find(|(_value, share)| {
                draw -= share;
                draw < 0.0
            });
            found.map_or(choices[0].0, |(value, _share)| value).to_owned()
        };
        let pairs = [
            ("engine", pick(&[("ort", 0.8), ("wgpu", 0.2)])),
            ("arch", pick(&[("x86_64", 0.4), ("aarch64", 0.45), ("armv7", 0.15)])),
            ("os", pick(&[("linux", 0.7), ("android", 0.3)])),
        ];
        let mut attributes: Vec<Attribute> =
            pairs.into_iter().map(|(key, value)| Attribute { key: key.to_owned(), value }).collect();
        let site = format!("site-{}", random.random_range(0..8));
        attributes.push(Attribute { key: "label.site".to_owned(), value: site });
        attributes.push(Attribute { key: "label.serial".to_owned(), value: number.to_string() });
        let mut chance = |p: f64| random.random::<f64>() < p;
        // One device in a hundred fails most runs, with every version; one in thirty sees odd inputs.
        let error_rate = if chance(0.01) { 0.6 } else { 0.002 };
        let disagreement = if chance(0.03) { 0.06 } else { 0.0085 };
        let deferrals = if chance(0.3) { 0.2 } else { 0.08 };
        let latency = if chance(0.25) { 6 } else { 3 };
        let has_fault = faults.only.as_ref().is_none_or(|only| attributes.contains(only));
        let (is_offline, is_silent) = (chance(faults.offline), chance(faults.silent));
        let refuses = chance(0.0005) || has_fault && chance(faults.installs);
        let id = format!("device-{number}").parse().unwrap();
        Self { id, attributes, error_rate, disagreement, deferrals, latency, has_fault, is_offline, is_silent, refuses }
    }
}

/// Draws a binomial number by the gaps between successes.
fn binomial(random: &mut StdRng, of: u64, rate: f64) -> u64 {
    if rate <= 0.0 || rate >= 1.0 {
        return if rate <= 0.0 { 0 } else { of };
    }
    let (mut at, mut count) = (0.0, 0);
    loop {
        at += (random.random::<f64>().ln() / (-rate).ln_1p()).floor() + 1.0;
        if at > of as f64 {
            return count;
        }
        count += 1;
    }
}

fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}
