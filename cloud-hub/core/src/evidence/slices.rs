//! Search for the part of a fleet in which a version does worst: a label, the hardware or an engine.
//!
//! The search looks at many slices after the fact, so it explores and proves nothing: its result is a hint for the
//! operator, never a reason for a verdict.

use std::collections::BTreeMap;
use std::fmt;

use super::Metric;

/// Minimum number of canary devices inside and outside of a slice.
const DEVICES_MIN: u64 = 3;

/// Minimum standardized excess from which a slice stands out. Among some dozen slices without any difference, the largest one
/// is rarely above 3.
const EXCESS_MIN: f64 = 3.0;

/// Smallest variance of a figure: a few equal figures do not prove that all are equal.
const VARIANCE_MIN: f64 = 1e-3;

/// Maximum number of slices that are looked at; more come from labels with a value of their own for each device.
const SLICES_MAX: usize = 512;

/// Property of a device, like `engine=wgpu` or `label.site=berlin`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attribute {
    /// Field of the filter language: `engine`, `os`, `arch`, `agent`, `variant` or `label.KEY`.
    pub key: String,
    /// Value of the field.
    pub value: String,
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

/// Number, sum and sum of squares of the figures of some devices.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Moments {
    count: u64,
    sum: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, figure: f64) {
        self.count += 1;
        self.sum += figure;
        self.squares += figure * figure;
    }

    fn without(self, other: Self) -> Self {
        Self {
            count: self.count.saturating_sub(other.count),
            sum: self.sum - other.sum,
            squares: self.squares - other.squares,
        }
    }

    fn mean(self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }

    /// Returns the variance of the mean; 0 without figures.
    fn uncertainty(self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        let variance = self.squares / self.count as f64 - self.mean() * self.mean();
        variance.max(VARIANCE_MIN) / self.count as f64
    }
}

/// Figures of both arms.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Pair {
    canary: Moments,
    control: Moments,
}

impl Pair {
    fn excess(self) -> f64 {
        self.canary.mean() - self.control.mean()
    }

    fn uncertainty(self) -> f64 {
        self.canary.uncertainty() + self.control.uncertainty()
    }
}

/// Figures of canary and control, of all devices and of each slice.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Slices {
    all: BTreeMap<Metric, Pair>,
    by_attribute: BTreeMap<Attribute, BTreeMap<Metric, Pair>>,
}

/// Slice that stands out.
#[derive(Debug, Clone, PartialEq)]
pub struct Excess {
    /// Property that the devices of the slice share.
    pub attribute: Attribute,
    /// Number of canary devices in it.
    pub devices: u64,
    /// Difference of canary and control in the slice.
    pub inside: f64,
    /// Difference of canary and control outside of it.
    pub outside: f64,
}

impl Slices {
    /// Adds the figure of a device of the canary arm, or of the control arm.
    pub fn add(&mut self, metric: Metric, is_canary: bool, figure: f64, attributes: &[Attribute]) {
        let arm = |pair: &mut Pair| if is_canary { pair.canary.add(figure) } else { pair.control.add(figure) };
        arm(self.all.entry(metric).or_default());
        for attribute in attributes {
            if self.by_attribute.len() >= SLICES_MAX && !self.by_attribute.contains_key(attribute) {
                continue;
            }
            arm(self.by_attribute.entry(attribute.clone()).or_default().entry(metric).or_default());
        }
    }

    /// Returns the slice whose excess over the other devices is the largest in relation to its uncertainty, if one stands
    /// out. Where a slice has too few control devices, those of the whole cohort take their place.
    #[must_use]
    pub fn worst(&self, metric: Metric) -> Option<Excess> {
        let all = self.all.get(&metric).copied()?;
        let mut worst: Option<(f64, Excess)> = None;
        for (attribute, figures) in &self.by_attribute {
            let Some(inside) = figures.get(&metric).copied() else { continue };
            let outside =
                Pair { canary: all.canary.without(inside.canary), control: all.control.without(inside.control) };
            if inside.canary.count.min(outside.canary.count) < DEVICES_MIN {
                continue;
            }
            let has_controls = inside.control.count.min(outside.control.count) >= DEVICES_MIN;
            let baseline = |pair: Pair| if has_controls { pair } else { Pair { control: all.control, ..pair } };
            let (inside, outside) = (baseline(inside), baseline(outside));
            let score = (inside.excess() - outside.excess()) / (inside.uncertainty() + outside.uncertainty()).sqrt();
            if score >= EXCESS_MIN && worst.as_ref().is_none_or(|(best, _)| score > *best) {
                let (devices, inside, outside) = (inside.canary.count, inside.excess(), outside.excess());
                worst = Some((score, Excess { attribute: attribute.clone(), devices, inside, outside }));
            }
        }
        worst.map(|(_score, excess)| excess)
    }
}
