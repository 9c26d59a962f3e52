//! Decides by the evidence, metric by metric, then over all of them.

use std::f64::consts::PI;

use super::{
    AGE_SHARES, DEVICE_SHARE, DRAW_LOOKS, DRAW_SHARE, Figures, Gate, Judgement, Rate, Ratio, Reason, Undecided, Verdict,
};
use crate::evidence::{
    DeviceTally, Draw, Evidence, Histograms, Metric, Tally, bucket_ratio, memory_bound, window_end_s,
};
use crate::stats::arms::{Arms, Side};
use crate::stats::bernoulli::{self, JEFFREYS};
use crate::stats::permutation::Counted;
use crate::stats::{Interval, permutation, quantile};

/// Error probability of the intervals that are shown: the usual 95 %. Decisions use the smaller ones of the gate.
const SHOWN_DELTA: f64 = 0.05;

/// Order of the quantile over devices: sizes are compared by their medians.
const MEDIAN: f64 = 0.5;

/// Answers with an earlier version from which a device counts as one that was above its limit before.
const BEFORE_MIN: u64 = 10;

impl Gate {
    /// Decides by the evidence, with reasons.
    #[must_use]
    pub fn judge(&self, evidence: &Evidence) -> Judgement {
        let measured = Metric::ALL.into_iter().filter(|metric| self.measures(*metric));
        let mut reasons: Vec<Reason> = measured.map(|metric| self.reason(metric, evidence)).collect();
        let (verdict, about_the_wave) = self.overall(reasons.iter().map(|reason| reason.finding), evidence);
        reasons.extend(about_the_wave);
        let breaking = reasons.iter().filter(|reason| reason.finding == Verdict::Breaks);
        let slice = breaking
            .filter_map(|reason| reason.metric)
            .find_map(|metric| evidence.slices.worst(metric).map(|excess| (metric, excess)));
        Judgement { verdict, reasons, slice }
    }

    /// Decides as [`Gate::judge`], without figures: for simulations, which decide often.
    #[must_use]
    pub fn decide(&self, evidence: &Evidence) -> Verdict {
        let measured = Metric::ALL.into_iter().filter(|metric| self.measures(*metric));
        let findings = measured.map(|metric| self.finding(metric, evidence).0);
        self.overall(findings, evidence).0
    }

    /// Joins the findings of the metrics; a reason about the wave says why an undecided one passes or holds.
    fn overall(&self, findings: impl Iterator<Item = Verdict>, evidence: &Evidence) -> (Verdict, Option<Reason>) {
        let findings: Vec<Verdict> = findings.collect();
        if findings.contains(&Verdict::Breaks) {
            return (Verdict::Breaks, None);
        }
        let of_wave = |finding, figures| (finding, Some(Reason { metric: None, finding, figures }));
        let devices = evidence.installs.active;
        if devices < self.sample_min {
            return of_wave(Verdict::Holds, Figures::Sample { devices, needed: self.sample_min });
        }
        if findings.iter().all(|finding| *finding == Verdict::Passes) {
            return (Verdict::Passes, None);
        }
        let after_s = evidence.wave_age_s;
        if after_s < self.wait_s {
            return (Verdict::Holds, None);
        }
        let (admitted, cohort) = (evidence.admitted_next, evidence.cohort);
        if admitted as f64 > self.exposure_max * cohort as f64 {
            return of_wave(Verdict::Holds, Figures::Exposure { devices: admitted, cohort, max: self.exposure_max });
        }
        match self.undecided {
            Undecided::Pass => of_wave(Verdict::Passes, Figures::Undecided { after_s }),
            Undecided::Hold => of_wave(Verdict::Holds, Figures::Undecided { after_s }),
        }
    }

    fn reason(&self, metric: Metric, evidence: &Evidence) -> Reason {
        let (finding, at) = self.finding(metric, evidence);
        let figures = match (metric, at) {
            (Metric::Installs, _) => self.install_figures(evidence),
            (_, At::Device(at)) => self.device_figures(metric, evidence, at),
            (_, At::Draw(at)) => draw_figures(evidence, at),
            (Metric::Latency | Metric::Memory, At::Age(age)) => self.size_figures(metric, evidence, age),
            (_, At::Age(age)) => self.rate_figures(metric, evidence, age),
        };
        Reason { metric: Some(metric), finding, figures }
    }

    fn finding(&self, metric: Metric, evidence: &Evidence) -> (Verdict, At) {
        let nothing = (Verdict::Holds, At::Age(0));
        match metric {
            Metric::Installs => (self.judge_installs(evidence), At::Age(0)),
            Metric::Latency => self.latency.map_or(nothing, |ratio| self.judge_sizes(metric, ratio, evidence)),
            Metric::Memory => self.memory.map_or(nothing, |ratio| self.judge_sizes(metric, ratio, evidence)),
            Metric::Errors | Metric::Crashes | Metric::Deferrals | Metric::Agreement => {
                self.rate(metric).map_or(nothing, |rate| self.judge_rate(metric, rate, evidence))
            }
        }
    }

    /// A version that no device could install breaks at once, by rule: nothing shows that it can be installed at all.
    fn judge_installs(&self, evidence: &Evidence) -> Verdict {
        let (Some(limit), installs) = (self.installs_failed_max, evidence.installs) else { return Verdict::Passes };
        let failed = installs.failed + installs.silent;
        let ended = failed + installs.active;
        let delta = self.delta * self.share(Metric::Installs);
        let nowhere = installs.active == 0 && installs.failed > 0;
        if nowhere || bernoulli::is_above(failed, ended, limit, delta, JEFFREYS) {
            Verdict::Breaks
        } else if bernoulli::is_below(failed, ended, limit, self.pass_delta, JEFFREYS) {
            Verdict::Passes
        } else {
            Verdict::Holds
        }
    }

    fn judge_rate(&self, metric: Metric, rate: Rate, evidence: &Evidence) -> (Verdict, At) {
        let delta = self.delta * self.share(metric);
        let (of_devices, of_arms) = match rate.device_max {
            Some(_) => (delta * DEVICE_SHARE, delta * (1.0 - DEVICE_SHARE)),
            None => (0.0, delta),
        };
        if let Some(limit) = rate.device_max
            && let Some(at) = device_above(metric, limit, of_devices, &evidence.devices)
        {
            return (Verdict::Breaks, At::Device(at));
        }
        let of_draws = if metric == Metric::Agreement && rate.stop <= 0.0 { of_arms * DRAW_SHARE } else { 0.0 };
        let of_arms = of_arms - of_draws;
        let first_age = evidence.rates.get(&(metric, 0));
        let is_within =
            first_age.is_some_and(|arms| arms.shows(Side::Below, rate.margin, self.pass_delta * AGE_SHARES[0]));
        if !is_within && let Some(at) = draw_above(&evidence.draws, of_draws) {
            return (Verdict::Breaks, At::Draw(at));
        }
        let mut passes = None;
        for (age, share) in AGE_SHARES.into_iter().enumerate() {
            let Some(arms) = evidence.rates.get(&(metric, age)) else { continue };
            let is_within = arms.shows(Side::Below, rate.margin, self.pass_delta * share);
            if is_within {
                passes.get_or_insert(age);
            } else if arms.shows(Side::Above, rate.stop, of_arms * share) {
                return (Verdict::Breaks, At::Age(age));
            }
        }
        passes.map_or((Verdict::Holds, At::Age(0)), |age| (Verdict::Passes, At::Age(age)))
    }

    fn judge_sizes(&self, metric: Metric, ratio: Ratio, evidence: &Evidence) -> (Verdict, At) {
        let delta = self.delta * self.share(metric);
        let mut passes = None;
        for (age, share) in AGE_SHARES.into_iter().enumerate() {
            let Some(Histograms { canary, control }) = evidence.buckets.get(&(metric, age)) else { continue };
            let bounds = |delta: f64| {
                let of = |histogram: &[u64]| quantile::interval(histogram, MEDIAN, delta);
                (of(canary), of(control))
            };
            let (with, without) = bounds(delta * share);
            if bucket_ratio(with.low, without.high) > ratio.factor {
                return (Verdict::Breaks, At::Age(age));
            }
            let (with, without) = bounds(self.pass_delta * share);
            if bucket_ratio(with.high, without.low) <= ratio.factor {
                passes.get_or_insert(age);
            }
        }
        passes.map_or((Verdict::Holds, At::Age(0)), |age| (Verdict::Passes, At::Age(age)))
    }

    fn install_figures(&self, evidence: &Evidence) -> Figures {
        let installs = evidence.installs;
        let failed = installs.failed + installs.silent;
        let share = bernoulli::interval(failed, failed + installs.active, SHOWN_DELTA, JEFFREYS);
        Figures::Installs { installs, share, limit: self.installs_failed_max.unwrap_or(1.0) }
    }

    fn rate_figures(&self, metric: Metric, evidence: &Evidence, age: usize) -> Figures {
        let (Some(arms), Some(rate)) = (evidence.rates.get(&(metric, age)), self.rate(metric)) else {
            return Figures::None;
        };
        let Some((canary, control)) = arms.means() else { return Figures::None };
        let difference: Interval = Arms::interval(arms, SHOWN_DELTA);
        let answers = counted(metric, &evidence.canary).1;
        let window_s = window_end_s(evidence.window_s, age);
        Figures::Rates { canary, control, difference, margin: rate.margin, devices: arms.blocks(), answers, window_s }
    }

    fn device_figures(&self, metric: Metric, evidence: &Evidence, at: usize) -> Figures {
        let (Some(device), Some(rate)) = (evidence.devices.get(at), self.rate(metric)) else { return Figures::None };
        let (bad, of) = counted(metric, &device.with);
        Figures::Device { device: device.device.clone(), bad, of, limit: rate.device_max.unwrap_or(1.0) }
    }

    fn size_figures(&self, metric: Metric, evidence: &Evidence, age: usize) -> Figures {
        let Some(Histograms { canary, control }) = evidence.buckets.get(&(metric, age)) else { return Figures::None };
        let value = |bucket: usize| match metric {
            Metric::Memory => memory_bound(bucket),
            Metric::Installs
            | Metric::Errors
            | Metric::Crashes
            | Metric::Deferrals
            | Metric::Agreement
            | Metric::Latency => types::histogram::bound_us(bucket),
        };
        let (Some(with), Some(without)) = (quantile::observed(canary, MEDIAN), quantile::observed(control, MEDIAN))
        else {
            return Figures::None;
        };
        let ratio = if metric == Metric::Memory { self.memory } else { self.latency };
        let factor = ratio.map_or(1.0, |ratio| ratio.factor);
        Figures::Sizes { canary: value(with), control: value(without), factor, devices: canary.iter().sum() }
    }
}

/// Test that decided: that of an age of windows, or that of one device.
#[derive(Debug, Clone, Copy)]
enum At {
    Age(usize),
    Device(usize),
    Draw(usize),
}

/// Returns the first look at the devices that got the version first that shows harm: chance alone would hardly give them so
/// much more than their control devices.
fn draw_above(draws: &[Draw], delta: f64) -> Option<usize> {
    if delta <= 0.0 {
        return None;
    }
    draws
        .iter()
        .zip(DRAW_LOOKS)
        .position(|(draw, (_windows, share))| permutation::p_value(&draw.canary, &draw.control) <= delta * share)
}

fn draw_figures(evidence: &Evidence, at: usize) -> Figures {
    let Some(draw) = evidence.draws.get(at) else { return Figures::None };
    let rate = |devices: &[Counted]| {
        let sum = |count: fn(&Counted) -> u64| devices.iter().map(count).sum::<u64>() as f64;
        sum(|device| device.bad) / sum(|device| device.of).max(1.0)
    };
    Figures::Draw {
        canary: rate(&draw.canary),
        control: rate(&draw.control),
        devices: draw.canary.len() as u64,
        controls: draw.control.len() as u64,
        window_s: draw.window_s,
        chance: permutation::p_value(&draw.canary, &draw.control),
    }
}

/// Returns the first device that is shown to be above a limit for single devices. Device number `n` gets the share
/// `6 / (pi^2 n^2)` of the error probability: the shares of any number of devices add up to at most 1.
fn device_above(metric: Metric, limit: f64, delta: f64, devices: &[DeviceTally]) -> Option<usize> {
    devices.iter().enumerate().position(|(at, device)| {
        let ((bad, of), (bad_before, before)) = (counted(metric, &device.with), counted(metric, &device.before));
        let was_above = before >= BEFORE_MIN && bad_before as f64 > limit * before as f64;
        let number = (at + 1) as f64;
        let delta = delta * 6.0 / (PI * PI * number * number);
        !was_above && bernoulli::is_above(bad, of, limit, delta, JEFFREYS)
    })
}

/// Returns the answers that count against a version, and all answers, for a metric.
fn counted(metric: Metric, tally: &Tally) -> (u64, u64) {
    match metric {
        Metric::Errors => (tally.failed, tally.runs()),
        Metric::Crashes => (tally.crashed, tally.runs()),
        Metric::Deferrals => (tally.deferred, tally.kept.saturating_add(tally.deferred)),
        Metric::Agreement => (tally.audited.saturating_sub(tally.agreed), tally.audited),
        Metric::Installs | Metric::Latency | Metric::Memory => (0, 0),
    }
}
