//! Gate between two waves of a rollout: passes, holds or breaks.
//!
//! [`Gate::judge`] is fed with [`Evidence`] by the rollout, as often as it likes, and answers with a [`Judgement`].
//!
//! # Error probability
//! A version that does no harm is stopped with a probability of at most [`Gate::delta`] over the whole rollout, whatever
//! the number of looks and waves. The tests are sequential and run through all waves of a rollout, so waves cost nothing.
//! `delta` is divided among the metrics that the gate measures ([`SHARES`]); the part of a metric among its tests: a tenth
//! for the limit of single devices, if there is one, the rest for the comparison of the arms, and that
//! among the ages of the windows ([`AGE_SHARES`]). Agreement leaves a part of it to the randomization test of the devices that get
//! the version first ([`DRAW_SHARE`]), which looks five times ([`DRAW_LOOKS`]). Division needs no independence (union bound).

mod judge;
mod words;

use crate::evidence::{AGES, Excess, Installs, Metric};
use crate::stats::Interval;
use crate::stats::arms::CONTROLS_MAX;

/// Weights of the metrics in the division of `delta`. Agreement differs by the fewest points and costs an extra request
/// for each observation, so it gets more than half of the whole.
pub const SHARES: [(Metric, f64); 7] = [
    (Metric::Installs, 0.1),
    (Metric::Errors, 0.1),
    (Metric::Crashes, 0.1),
    (Metric::Deferrals, 0.05),
    (Metric::Agreement, 0.6),
    (Metric::Latency, 0.05),
    (Metric::Memory, 0.05),
];

/// Shares of the ages of windows in a comparison: early windows decide first, later ones have more data of each device.
pub const AGE_SHARES: [f64; AGES] = [0.4, 0.2, 0.15, 0.1, 0.1, 0.05];

/// Looks at the devices that get the version first: windows of each, and its share of the error probability of [`DRAW_SHARE`].
pub const DRAW_LOOKS: [(u64, f64); 5] = [(1, 0.35), (2, 0.3), (3, 0.2), (5, 0.1), (8, 0.05)];

/// Share of the comparison of the devices that get the version first in the error probability of agreement that is left after
/// the limits of single devices: it decides with fewest audits, and only about the first wave.
pub const DRAW_SHARE: f64 = 0.6;

/// Share of the limits of single devices in the error probability of a metric.
pub const DEVICE_SHARE: f64 = 0.1;

/// Default probability that a version without harm is stopped.
pub const DELTA: f64 = 0.01;

/// Default probability that a metric passes although its harm is above the margin. Larger than [`DELTA`], because later
/// waves go on testing.
pub const PASS_DELTA: f64 = 0.05;

/// Default length of the first window of a device in seconds.
pub const WINDOW_S: u64 = 3600;

/// Default time after which a device that was told and is connected counts as silent, in seconds: a large file over a
/// slow link takes hours.
pub const SILENT_AFTER_S: u64 = 24 * 3600;

/// Default time after which an undecided wave ends, in seconds: the first windows of a wave are complete then.
pub const WAIT_S: u64 = 3 * 3600;

/// Default share of kept answers that canary and control devices send to the hub for comparison, in thousandths.
pub const AUDIT_SHARE_PER_MILLE: u16 = 50;

/// Limits of a rate, as a difference between canary and control.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Harm that is accepted (non-inferiority margin): the metric passes once the difference is shown to be below it.
    pub margin: f64,
    /// The gate breaks once the difference is shown to be above this; at most the margin.
    pub stop: f64,
    /// Limit for each single device; `None` for no such limit. A device that was above it with earlier versions already
    /// is left out.
    pub device_max: Option<f64>,
}

/// Limits of a size, as a ratio of the medians of canary and control.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// Quantile within one device that is compared, like 0.95 for latency. Memory has its largest value instead.
    pub quantile: f64,
    /// Ratio of canary to control that is accepted; the gate breaks once the ratio is shown to be above it.
    pub factor: f64,
}

/// Verdict where the evidence shows neither harm nor harmlessness within [`Gate::wait_s`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Undecided {
    /// The wave passes.
    #[default]
    Pass,
    /// The wave holds until the evidence decides or an operator does.
    Hold,
}

/// Conditions for the next wave of a rollout.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    /// Probability that a version without harm is stopped, over the whole rollout.
    pub delta: f64,
    /// Probability that a metric passes although its harm is above the margin.
    pub pass_delta: f64,
    /// Length of the first window of a device in seconds; a multiple of an hour.
    pub window_s: u64,
    /// Maximum number of control devices for each canary device.
    pub controls: u8,
    /// Share of devices that may fail to install or keep the version; `None` measures nothing.
    pub installs_failed_max: Option<f64>,
    /// Time in seconds after which a device that was told and is connected counts as failed for its silence.
    pub silent_after_s: u64,
    /// Share of runs that fail.
    pub errors: Option<Rate>,
    /// Share of devices on which the process of the model ends on its own.
    pub crashes: Option<Rate>,
    /// Share of answers that are left to the hub.
    pub deferrals: Option<Rate>,
    /// Share of audited answers that disagree with the full model.
    pub agreement: Option<Rate>,
    /// Share of kept answers that canary and control devices send to the hub for comparison, in thousandths.
    pub audit_share_per_mille: u16,
    /// Duration of a run.
    pub latency: Option<Ratio>,
    /// Memory of the session.
    pub memory: Option<Ratio>,
    /// Minimum number of devices that serve the version before a wave passes.
    pub sample_min: u64,
    /// Largest share of the cohort that may be admitted while the evidence is undecided.
    pub exposure_max: f64,
    /// Time after the start of a wave at which an undecided wave ends, in seconds.
    pub wait_s: u64,
    /// Verdict at that time.
    pub undecided: Undecided,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            delta: DELTA,
            pass_delta: PASS_DELTA,
            window_s: WINDOW_S,
            controls: CONTROLS_MAX,
            installs_failed_max: Some(0.05),
            silent_after_s: SILENT_AFTER_S,
            errors: Some(Rate { margin: 0.01, stop: 0.01, device_max: Some(0.5) }),
            crashes: Some(Rate { margin: 0.02, stop: 0.02, device_max: None }),
            deferrals: Some(Rate { margin: 0.05, stop: 0.05, device_max: None }),
            agreement: Some(Rate { margin: 0.01, stop: 0.0, device_max: Some(0.5) }),
            audit_share_per_mille: AUDIT_SHARE_PER_MILLE,
            latency: Some(Ratio { quantile: 0.95, factor: 1.5 }),
            memory: Some(Ratio { quantile: 1.0, factor: 1.5 }),
            sample_min: 1,
            exposure_max: 1.0,
            wait_s: WAIT_S,
            undecided: Undecided::Pass,
        }
    }
}

impl Gate {
    /// Returns the limits of a metric that is a rate; `None` for other metrics, and for those that are not measured.
    #[must_use]
    pub fn rate(&self, metric: Metric) -> Option<Rate> {
        match metric {
            Metric::Errors => self.errors,
            Metric::Crashes => self.crashes,
            Metric::Deferrals => self.deferrals,
            Metric::Agreement => self.agreement,
            Metric::Installs | Metric::Latency | Metric::Memory => None,
        }
    }

    /// Returns whether the gate measures a metric.
    #[must_use]
    pub fn measures(&self, metric: Metric) -> bool {
        match metric {
            Metric::Installs => self.installs_failed_max.is_some(),
            Metric::Latency => self.latency.is_some(),
            Metric::Memory => self.memory.is_some(),
            Metric::Errors | Metric::Crashes | Metric::Deferrals | Metric::Agreement => self.rate(metric).is_some(),
        }
    }

    /// Returns the share of a metric in an error probability: its weight among those that are measured.
    #[must_use]
    pub fn share(&self, metric: Metric) -> f64 {
        let measured = SHARES.iter().filter(|(other, _weight)| self.measures(*other));
        let sum: f64 = measured.clone().map(|(_metric, weight)| weight).sum();
        measured.filter(|(other, _weight)| *other == metric).map(|(_metric, weight)| weight / sum).sum()
    }
}

/// Decision of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The next wave may begin.
    Passes,
    /// Neither harm nor harmlessness is shown, and time is left.
    Holds,
    /// Harm is shown.
    Breaks,
}

impl Verdict {
    /// Returns the word for logs and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passes => "passes",
            Self::Holds => "holds",
            Self::Breaks => "breaks",
        }
    }
}

/// Decision of a gate with its reasons.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The decision.
    pub verdict: Verdict,
    /// Findings: one for each measured metric, and one for a time-out or a limit of exposure that decided.
    pub reasons: Vec<Reason>,
    /// Slice in which a breaking metric is worst, with that metric, if one stands out. A hint, not a finding.
    pub slice: Option<(Metric, Excess)>,
}

/// Finding with its figures; its words are in [`std::fmt::Display`].
#[derive(Debug, Clone, PartialEq)]
pub struct Reason {
    /// Metric of the finding; `None` for one about the wave.
    pub metric: Option<Metric>,
    /// Verdict of this finding alone.
    pub finding: Verdict,
    /// Figures of the finding.
    pub figures: Figures,
}

/// Figures of a finding.
#[derive(Debug, Clone, PartialEq)]
pub enum Figures {
    /// Nothing was measured yet.
    None,
    /// Installations: counts, the confidence sequence of the share that fails, and its limit.
    Installs {
        /// Devices by state.
        installs: Installs,
        /// Share that fails.
        share: Interval,
        /// Accepted share.
        limit: f64,
    },
    /// Rates of canary and control devices.
    Rates {
        /// Mean of the canary devices.
        canary: f64,
        /// Mean of their control devices.
        control: f64,
        /// Confidence sequence for the difference, at the confidence of the display (95 %).
        difference: Interval,
        /// Accepted difference.
        margin: f64,
        /// Canary devices that were compared.
        devices: u64,
        /// Answers of canary devices that the metric counts, in total.
        answers: u64,
        /// Length of the window after the start of the version that was compared, in seconds.
        window_s: u64,
    },
    /// Devices that got the version first, and the probability that their draw alone makes such a difference.
    Draw {
        /// Mean of the canary devices.
        canary: f64,
        /// Mean of their control devices.
        control: f64,
        /// Canary devices that were compared.
        devices: u64,
        /// Control devices that were compared.
        controls: u64,
        /// Length of the window after the start of the version, in seconds.
        window_s: u64,
        /// Probability of such a difference if the version changed nothing.
        chance: f64,
    },
    /// One device above the limit of single devices.
    Device {
        /// Name of the device.
        device: types::DeviceId,
        /// Answers of the device that count against it.
        bad: u64,
        /// Answers of the device.
        of: u64,
        /// Limit of single devices.
        limit: f64,
    },
    /// Medians over devices of a size.
    Sizes {
        /// Median of the canary devices: microseconds or bytes.
        canary: f64,
        /// Median of the control devices.
        control: f64,
        /// Accepted ratio.
        factor: f64,
        /// Canary devices that were compared.
        devices: u64,
    },
    /// The wave is undecided after the time that the gate waits.
    Undecided {
        /// Seconds since the wave began.
        after_s: u64,
    },
    /// The next wave would admit too many devices for undecided evidence.
    Exposure {
        /// Devices that would be admitted.
        devices: u64,
        /// Devices in the cohort.
        cohort: u64,
        /// Largest share.
        max: f64,
    },
    /// Too few devices serve the version.
    Sample {
        /// Devices that serve it.
        devices: u64,
        /// Devices that must serve it.
        needed: u64,
    },
}
