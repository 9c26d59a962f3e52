//! Sentences for judgements, as `cloud-hub rollout explain` prints them.

use std::fmt;

use super::{Figures, Judgement, Reason, Verdict};
use crate::evidence::Metric;

/// Bytes of a mebibyte.
const MIB: f64 = 1024.0 * 1024.0;

/// Microseconds of a millisecond.
const MS: f64 = 1000.0;

impl Judgement {
    /// Returns the judgement in sentences: the verdict with what decided it first, then each metric, then the slice.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences = vec![self.summary()];
        sentences.extend(self.reasons.iter().map(ToString::to_string));
        if let Some((metric, excess)) = &self.slice {
            sentences.push(format!(
                "The fault may be limited to devices with {}: among its {} canary devices {} is {} against control, among \
                 the others {}. This is exploratory: many groups were searched after the fact, so check the group before \
                 you rely on it.",
                excess.attribute,
                excess.devices,
                noun(*metric),
                signed(*metric, excess.inside),
                signed(*metric, excess.outside),
            ));
        }
        sentences
    }

    fn summary(&self) -> String {
        let decided = |finding: Verdict| {
            let names: Vec<&str> = self
                .reasons
                .iter()
                .filter(|reason| reason.finding == finding)
                .filter_map(|reason| reason.metric.map(Metric::as_str))
                .collect();
            names.join(", ")
        };
        let by_rule = self.reasons.iter().any(|reason| reason.metric.is_none());
        match self.verdict {
            Verdict::Breaks => format!("The gate breaks: harm is shown in {}.", decided(Verdict::Breaks)),
            Verdict::Passes if by_rule => "The gate passes: no harm is shown, and its waiting time is over.".to_owned(),
            Verdict::Passes => "The gate passes: every metric is shown to be within its margin.".to_owned(),
            Verdict::Holds => match decided(Verdict::Holds) {
                names if names.is_empty() => "The gate holds.".to_owned(),
                names => format!("The gate holds: no harm is shown, and {names} need more data."),
            },
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(metric) = self.metric {
            write!(f, "{metric} ({}): ", self.finding.as_str())?;
        }
        match &self.figures {
            Figures::None => f.write_str("nothing was measured yet."),
            Figures::Installs { installs, share, limit } => write!(
                f,
                "devices that serve the version: {}; refused it or went back: {}; silent: {}; pending (offline or still \
                 installing, not counted as failures): {}. Share that fails: {} to {} (95 % confidence), accepted {}.",
                installs.active,
                installs.failed,
                installs.silent,
                installs.pending,
                percent(share.low),
                percent(share.high),
                percent(*limit)
            ),
            Figures::Rates { canary, control, difference, margin, devices, answers, window_s } => {
                let noun = self.metric.map_or("rate", noun);
                write!(
                    f,
                    "{noun} is {} on {devices} canary devices and {} on their control devices, in the first {} hours of \
                     the version. Difference: {} to {} points (95 % confidence), accepted {}. Canary devices counted {answers} \
                     answers in total.",
                    percent(*canary),
                    percent(*control),
                    window_s / 3600,
                    points(difference.low),
                    points(difference.high),
                    points(*margin)
                )
            }
            Figures::Draw { canary, control, devices, controls, window_s, chance } => write!(
                f,
                "{} is {} on the {devices} canary devices that got the version first and {} on their {controls} control \
                 devices, in the first {} hours of the version. If the version changed nothing, the draw of the devices would \
                 give such a difference with a probability of {}.",
                self.metric.map_or("rate", noun),
                percent(*canary),
                percent(*control),
                window_s / 3600,
                if *chance < 0.0001 { "less than 0.01 %".to_owned() } else { format!("{:.2} %", chance * 100.0) }
            ),
            Figures::Device { device, bad, of, limit } => write!(
                f,
                "{} of device {device} is {bad} of {of} answers, which is shown to be above the limit for a single device, \
                 {}.",
                self.metric.map_or("rate", noun),
                percent(*limit)
            ),
            Figures::Sizes { canary, control, factor, devices } => {
                let (unit, scale) = if self.metric == Some(Metric::Memory) { ("MiB", MIB) } else { ("ms", MS) };
                write!(
                    f,
                    "the median device has {:.1} {unit} among {devices} canary devices and {:.1} {unit} among their control \
                     devices: {:.2} times, accepted {factor:.2}.",
                    canary / scale,
                    control / scale,
                    canary / control
                )
            }
            Figures::Undecided { after_s } => {
                let verb = if self.finding == Verdict::Passes { "lets the wave pass" } else { "holds the wave" };
                write!(f, "The evidence is undecided after {} minutes, and the gate {verb} then.", after_s / 60)
            }
            Figures::Exposure { devices, cohort, max } => write!(
                f,
                "The next wave would bring the version to {devices} of {cohort} devices, and the gate allows {} while the \
                 evidence is undecided (exposure_max).",
                percent(*max)
            ),
            Figures::Sample { devices, needed } => write!(
                f,
                "{devices} devices serve the version, and the gate needs {needed} before it passes (sample_min)."
            ),
        }
    }
}

/// Returns the noun of the rate of a metric.
fn noun(metric: Metric) -> &'static str {
    match metric {
        Metric::Installs => "the share of failed installations",
        Metric::Errors => "the share of failed runs",
        Metric::Crashes => "the share of devices with a crash",
        Metric::Deferrals => "the share of deferred answers",
        Metric::Agreement => "disagreement with the full model",
        Metric::Latency => "latency",
        Metric::Memory => "memory",
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn points(share: f64) -> String {
    format!("{:+.1}", share * 100.0)
}

/// Returns a difference in the unit of its metric: points of a rate, or a ratio of sizes.
fn signed(metric: Metric, difference: f64) -> String {
    match metric {
        Metric::Latency | Metric::Memory => format!("{:.2} times", difference.exp2()),
        Metric::Installs | Metric::Errors | Metric::Crashes | Metric::Deferrals | Metric::Agreement => {
            format!("{} points", points(difference))
        }
    }
}
