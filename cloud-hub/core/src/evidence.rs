//! Evidence about a version under rollout: installations, and counts of canary and control devices over the same time.
//!
//! [`gather`] makes it from the state of the rollout ([`Assignment`]) and the counters that the hub has stored
//! ([`Cell`]); [`crate::gate::Gate::judge`] decides by it. The unit of every comparison is the device: answers of one
//! device depend on each other, devices do not, because chance assigns them to canary and control.
//!
//! A canary device gets up to [`crate::stats::arms::CONTROLS_MAX`] control devices of its own, which no other canary
//! device has. Windows begin with the first full hour in which it serves the version, and each (*age*) is about
//! twice as long as the one before: 1, 3, 7, 15, 31 and 63 hours. Each window gives one number for each metric: the rate
//! of the canary device over the whole window, beside the rates of its control devices in the same time. Numbers of one
//! age are independent of each other, because each comes from other devices; numbers of different ages are never put into
//! one test.

mod gather;
mod slices;
mod tally;

use std::collections::BTreeMap;
use std::fmt;

use types::{DeviceId, Version};

use crate::stats::arms::Arms;
use crate::stats::permutation::Counted as Audited;

pub(crate) use gather::window_end_s;
pub use gather::{LATE_S, controls_of, gather, involved};
pub use slices::{Attribute, Excess, Slices};
pub use tally::{Cell, Counted, bucket_ratio, cell_of, latency_bucket, memory_bound, memory_bucket};
pub use types::counters::Tally;

/// Number of ages: with windows of an hour, the last one ends after 63 hours.
pub const AGES: usize = 6;

/// Length of a stored period of counters in seconds.
pub const CELL_S: u64 = 3600;

/// Measured property of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// Share of devices that could not install or keep the version, or fell silent over it.
    Installs,
    /// Share of runs that failed.
    Errors,
    /// Share of devices on which the process of the model ended on its own.
    Crashes,
    /// Share of answers that were left to the hub.
    Deferrals,
    /// Share of audited answers that the full model gave differently.
    Agreement,
    /// Quantile of the duration of a run.
    Latency,
    /// Memory of the session.
    Memory,
}

impl Metric {
    /// All metrics, in the order in which they are shown.
    pub const ALL: [Self; 7] =
        [Self::Installs, Self::Errors, Self::Crashes, Self::Deferrals, Self::Agreement, Self::Latency, Self::Memory];

    /// Metrics that are rates of each device, compared between canary and control.
    pub const RATES: [Self; 4] = [Self::Errors, Self::Crashes, Self::Deferrals, Self::Agreement];

    /// Returns the name, as in the gate's file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Installs => "installs",
            Self::Errors => "errors",
            Self::Crashes => "crashes",
            Self::Deferrals => "deferrals",
            Self::Agreement => "agreement",
            Self::Latency => "latency",
            Self::Memory => "memory",
        }
    }

    /// Returns the metric of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.as_str() == name)
    }

    /// Returns the rate of a device, if this metric is a rate and the device has data for it.
    #[must_use]
    pub fn rate(self, tally: &Tally) -> Option<f64> {
        match self {
            Self::Errors => tally.error_rate(),
            Self::Crashes => tally.has_crashed(),
            Self::Deferrals => tally.deferral_rate(),
            Self::Agreement => tally.disagreement(),
            Self::Installs | Self::Latency | Self::Memory => None,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// State of a version on a device that the rollout has admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Install {
    /// The device could not be told yet, because it is not connected. Not a failure.
    Pending,
    /// The device was told, is connected, and has not reported an end.
    Told {
        /// Time at which it was told, connected or reported last, in seconds of the hub's Unix clock.
        at_unix_s: u64,
    },
    /// The version serves since this time.
    Active {
        /// Time in seconds of the hub's Unix clock.
        since_unix_s: u64,
        /// Start of the first cell whose answers count for the limits of single devices, in seconds of the hub's Unix clock. After a
        /// resume or a retry it is the next whole hour: the hour under way holds answers of before.
        counts_from_unix_s: u64,
    },
    /// The device has refused the version for good, or served it and returned to an earlier one by itself.
    Failed,
}

/// Device that the rollout has admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// Name of the device.
    pub device: DeviceId,
    /// State of the version on it.
    pub install: Install,
}

/// State of a rollout as far as its evidence depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Version under rollout.
    pub version: Version,
    /// Admitted devices, in the order of their admission; the order never changes.
    pub canaries: Vec<Canary>,
    /// Devices of the cohort that were drawn as control, in an order that never changes: those that are admitted last come
    /// first. Devices that are admitted meanwhile stay in the list.
    pub controls: Vec<DeviceId>,
    /// Number of devices in the cohort.
    pub cohort: u64,
    /// Number of devices that would be admitted after the next wave.
    pub admitted_next: u64,
    /// Start of the current wave in seconds of the hub's Unix clock.
    pub wave_since_unix_s: u64,
}

/// Number of admitted devices by the state of the version on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Installs {
    /// It serves.
    pub active: u64,
    /// It was refused for good or given up.
    pub failed: u64,
    /// It was told, and nothing was heard within the time limit.
    pub silent: u64,
    /// The device is offline, or is still at it.
    pub pending: u64,
}

/// Counts of a device since it serves the version, for limits that hold for each device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceTally {
    /// Name of the device.
    pub device: DeviceId,
    /// Counts of the version under rollout.
    pub with: Tally,
    /// Counts of other versions before, as far as they are stored.
    pub before: Tally,
}

/// Counts of devices by bucket, for canary and control.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histograms {
    /// Number of canary devices by bucket.
    pub canary: Vec<u64>,
    /// Number of control devices by bucket.
    pub control: Vec<u64>,
}

/// Numbers of the devices on which the version served first, all from the same hour on, and of their control devices.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Draw {
    /// Length of the window in seconds.
    pub window_s: u64,
    /// Audits of each canary device.
    pub canary: Vec<Audited>,
    /// Audits of each control device.
    pub control: Vec<Audited>,
}

/// Everything that a gate decides by.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evidence {
    /// Admitted devices by the state of the version on them.
    pub installs: Installs,
    /// Sum of all counts of the version on admitted devices.
    pub canary: Tally,
    /// Sum of all counts of other versions on the control devices of the windows that were compared.
    pub control: Tally,
    /// Rates of devices by metric and age.
    pub rates: BTreeMap<(Metric, usize), Arms>,
    /// Devices by bucket, by metric and age.
    pub buckets: BTreeMap<(Metric, usize), Histograms>,
    /// Disagreement on the devices that got the version first and on their control devices, by window.
    pub draws: Vec<Draw>,
    /// Devices that serve the version, in the order of their admission.
    pub devices: Vec<DeviceTally>,
    /// Figures of canary and control by label, hardware and engine.
    pub slices: Slices,
    /// Number of devices in the cohort.
    pub cohort: u64,
    /// Number of devices that would be admitted after the next wave.
    pub admitted_next: u64,
    /// Seconds since the current wave began.
    pub wave_age_s: u64,
    /// Length of the first window in seconds.
    pub window_s: u64,
}
