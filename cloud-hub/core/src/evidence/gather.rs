//! Makes the evidence of a rollout from its state and the stored counters.

use types::{DeviceId, Version};

use super::slices::Attribute;
use super::{
    AGES, Assignment, CELL_S, Canary, Cell, DeviceTally, Draw, Evidence, Install, Metric, Tally, latency_bucket,
    memory_bucket,
};
use crate::gate::{DRAW_LOOKS, Gate};
use crate::stats::arms::CONTROLS_MAX;
use crate::stats::permutation::{CANARIES_MAX, Counted};
use types::histogram::BUCKETS;

/// Seconds after the end of a window before it is used: the counters of its last minutes arrive within them.
pub const LATE_S: u64 = 300;

/// Divides the control devices among the canary devices: number `n` gets an `8 n`-th of the cohort, so that the first few,
/// which decide early, have many, and half of the cohort has some.
const CONTROLS_DIVISOR: u64 = 8;

/// Makes the evidence of a rollout. `cells` returns the stored counters of a device, `attributes` its labels, hardware and
/// engine.
#[must_use]
pub fn gather(
    assignment: &Assignment,
    gate: &Gate,
    cells: &dyn Fn(&DeviceId) -> Vec<Cell>,
    attributes: &dyn Fn(&DeviceId) -> Vec<Attribute>,
    now_unix_s: u64,
) -> Evidence {
    let mut evidence = Evidence {
        cohort: assignment.cohort,
        admitted_next: assignment.admitted_next,
        wave_age_s: now_unix_s.saturating_sub(assignment.wave_since_unix_s),
        window_s: gate.window_s.max(1),
        ..Evidence::default()
    };
    let mut first_since = None;
    for (canary, own_controls) in pairs(assignment, gate) {
        count_install(&mut evidence, gate, canary.install, now_unix_s);
        let own = attributes(&canary.device);
        let outcome = match canary.install {
            Install::Active { .. } => Some(0.0),
            Install::Failed => Some(1.0),
            Install::Pending | Install::Told { .. } => None,
        };
        if let Some(failed) = outcome {
            evidence.slices.add(Metric::Installs, true, failed, &own);
        }
        let Install::Active { since_unix_s, counts_from_unix_s } = canary.install else { continue };
        let device = Device { cells: cells(&canary.device), version: assignment.version };
        let (with, before) = (device.counts(true, counts_from_unix_s, u64::MAX), device.counts(false, 0, since_unix_s));
        evidence.canary.add(&with);
        add_slices(&mut evidence, gate, true, &with, &own);
        evidence.devices.push(DeviceTally { device: canary.device.clone(), with, before });
        let compared: Vec<(Device, &DeviceId)> = own_controls
            .iter()
            .map(|control| (Device { cells: cells(control), version: assignment.version }, control))
            .collect();
        let since = since_unix_s.next_multiple_of(CELL_S);
        let counts_from = since.max(counts_from_unix_s);
        if *first_since.get_or_insert(counts_from) == counts_from {
            add_draws(&mut evidence, &device, &compared, counts_from, now_unix_s);
        }
        let mut newest: Vec<Tally> = Vec::new();
        for age in 0..AGES {
            let until = since.saturating_add(window_end_s(evidence.window_s, age));
            if until.saturating_add(LATE_S) > now_unix_s {
                break;
            }
            let with = device.counts(true, since, until);
            newest = compared.iter().map(|(control, _id)| control.counts(false, since, until)).collect();
            compare(&mut evidence, gate, age, &with, &newest);
        }
        for (tally, (_control, id)) in newest.iter().zip(&compared) {
            evidence.control.add(tally);
            add_slices(&mut evidence, gate, false, tally, &attributes(id));
        }
    }
    evidence
}

/// Returns the devices whose counters [`gather`] reads: those that serve the version, and their controls.
pub fn involved<'a>(assignment: &'a Assignment, gate: &'a Gate) -> impl Iterator<Item = &'a DeviceId> {
    let serving = pairs(assignment, gate).filter(|(canary, _)| matches!(canary.install, Install::Active { .. }));
    serving.flat_map(|(canary, controls)| std::iter::once(&canary.device).chain(controls))
}

/// Returns the number of control devices that are compared with the first `canaries` canary devices of a cohort, for a gate
/// with the maximum number of controls.
#[must_use]
pub fn controls_of(canaries: usize, cohort: usize) -> usize {
    let cohort = u64::try_from(cohort).unwrap_or(u64::MAX);
    let most = usize::from(CONTROLS_MAX);
    (1_u64..).take(canaries).map(|number| controls_of_one(number, cohort, most)).sum()
}

/// Returns the number of control devices of a canary device, by its number in the order of admission, from 1.
fn controls_of_one(number: u64, cohort: u64, most: usize) -> usize {
    let share = cohort / CONTROLS_DIVISOR.saturating_mul(number).max(1);
    usize::try_from(share).unwrap_or(most).clamp(1, most)
}

/// Returns each canary device with its control devices. They depend only on the place in the order of admission, so that
/// they stay the same during the whole rollout, and no control device is given twice.
fn pairs<'a>(assignment: &'a Assignment, gate: &'a Gate) -> impl Iterator<Item = (&'a Canary, &'a [DeviceId])> {
    let mut rest = assignment.controls.as_slice();
    let most = usize::from(gate.controls.clamp(1, CONTROLS_MAX));
    assignment.canaries.iter().zip(1_u64..).map(move |(canary, number)| {
        let count = controls_of_one(number, assignment.cohort, most).min(rest.len());
        let (own, left) = rest.split_at(count);
        rest = left;
        (canary, own)
    })
}

/// Returns the end of the window of an age, in seconds after its begin: each is about twice as long as the one before.
pub(crate) fn window_end_s(window_s: u64, age: usize) -> u64 {
    window_s.saturating_mul((2_u64 << age.min(AGES)) - 1)
}

struct Device {
    cells: Vec<Cell>,
    version: Version,
}

impl Device {
    /// Returns the counts of the version under rollout, or of all other versions, in cells that begin in this time.
    fn counts(&self, with: bool, from: u64, until: u64) -> Tally {
        let mut sum = Tally::default();
        let counted =
            |cell: &&Cell| (cell.version == self.version) == with && (from..until).contains(&cell.from_unix_s);
        self.cells.iter().filter(counted).for_each(|cell| sum.add(&cell.tally));
        sum
    }
}

/// Adds a canary device on which the version served among the first, with its controls, to the windows that are over.
fn add_draws(
    evidence: &mut Evidence,
    device: &Device,
    controls: &[(Device, &DeviceId)],
    since_unix_s: u64,
    now_unix_s: u64,
) {
    for (at, (windows, _share)) in DRAW_LOOKS.into_iter().enumerate() {
        let window_s = evidence.window_s.saturating_mul(windows);
        let until = since_unix_s.saturating_add(window_s);
        if until.saturating_add(LATE_S) > now_unix_s {
            return;
        }
        if evidence.draws.len() <= at {
            evidence.draws.push(Draw { window_s, ..Draw::default() });
        }
        let Some(draw) = evidence.draws.get_mut(at) else { return };
        // A device without audits has no number. Controls count only beside their canary device.
        let audits = |device: &Device, with| {
            let Tally { audited, agreed, .. } = device.counts(with, since_unix_s, until);
            (audited > 0).then(|| Counted { bad: audited.saturating_sub(agreed), of: audited })
        };
        if let Some(audited) = audits(device, true).filter(|_| draw.canary.len() < CANARIES_MAX) {
            draw.canary.push(audited);
            draw.control.extend(controls.iter().filter_map(|(control, _id)| audits(control, false)));
        }
    }
}

fn count_install(evidence: &mut Evidence, gate: &Gate, install: Install, now_unix_s: u64) {
    let installs = &mut evidence.installs;
    let count = match install {
        Install::Active { .. } => &mut installs.active,
        Install::Failed => &mut installs.failed,
        Install::Told { at_unix_s } if now_unix_s.saturating_sub(at_unix_s) > gate.silent_after_s => {
            &mut installs.silent
        }
        Install::Told { .. } | Install::Pending => &mut installs.pending,
    };
    *count += 1;
}

fn compare(evidence: &mut Evidence, gate: &Gate, age: usize, canary: &Tally, controls: &[Tally]) {
    for metric in Metric::RATES {
        let Some(rate) = metric.rate(canary) else { continue };
        let rates: Vec<f64> = controls.iter().filter_map(|control| metric.rate(control)).collect();
        evidence.rates.entry((metric, age)).or_default().add(rate, &rates);
    }
    for metric in [Metric::Latency, Metric::Memory] {
        let histograms = evidence.buckets.entry((metric, age)).or_default();
        let note = |histogram: &mut Vec<u64>, tally: &Tally| {
            histogram.resize(BUCKETS, 0);
            if let Some(count) = bucket(metric, gate, tally).and_then(|bucket| histogram.get_mut(bucket)) {
                *count += 1;
            }
        };
        note(&mut histograms.canary, canary);
        controls.iter().for_each(|control| note(&mut histograms.control, control));
    }
}

fn bucket(metric: Metric, gate: &Gate, tally: &Tally) -> Option<usize> {
    match metric {
        Metric::Latency => latency_bucket(tally, gate.latency.map_or(0.95, |latency| latency.quantile)),
        Metric::Memory => memory_bucket(tally),
        Metric::Installs | Metric::Errors | Metric::Crashes | Metric::Deferrals | Metric::Agreement => None,
    }
}

fn add_slices(evidence: &mut Evidence, gate: &Gate, is_canary: bool, tally: &Tally, attributes: &[Attribute]) {
    for metric in Metric::ALL {
        let figure = metric.rate(tally).or_else(|| bucket(metric, gate, tally).map(|bucket| bucket as f64 / 4.0));
        if let Some(figure) = figure {
            evidence.slices.add(metric, is_canary, figure, attributes);
        }
    }
}
