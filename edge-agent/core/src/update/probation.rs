//! Probation of a version that has just begun to serve: the way back is kept open until it has proven itself.
//!
//! Fed by the shell with what the version did since the last [`Sample`]; [`Probation::verdict`] says when it must be left.
//! A probation is stored, so that a version which ends the agent itself is found out too.

use std::time::{Duration, Instant};

use types::Version;

use super::{Failure, FailureKind, Step, Updater};

/// Default length of a probation.
///
/// Long enough for a device that infers once a minute to be seen ten times.
pub const PROBATION_DEFAULT: Duration = Duration::from_secs(600);

/// Default number of answers after which a probation ends early: enough to see an error rate of one in a hundred.
pub const PROBATION_ANSWERS_DEFAULT: u64 = 1000;

/// Default share of failed runs beyond which the version is left: every eighth run, which no application overlooks.
pub const ERROR_SHARE_DEFAULT: f64 = 0.125;

/// Default factor of the median latency beyond which the version is left. Generous, because another load on the device
/// slows both versions, and only the new one is measured then.
pub const LATENCY_FACTOR_DEFAULT: u32 = 5;

/// Runs that are needed to judge an error rate or a latency: a few failures at the start prove little.
pub const JUDGED_FROM: u64 = 50;

/// Difference of the median latency below which no factor counts: a slower version is hardly noticed.
pub const LATENCY_SLACK: Duration = Duration::from_millis(20);

/// Ends of the process that runs the model until the version is left.
pub const DEATHS_MAX: u64 = 3;

/// Ends of the agent while the machine went on, until the version is left. One may be an operator's `kill -9`.
pub const AGENT_ENDS_MAX: u32 = 3;

/// Ends of the machine until the version is left. Power is lost by itself; a driver takes the machine down every time.
pub const MACHINE_ENDS_MAX: u32 = 5;

/// Interval at which the state of a probation is stored: a restart forgets at most this much of it.
pub const STORED_EVERY: Duration = Duration::from_secs(60);

/// Limits of a probation.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbationLimits {
    /// Length of the probation.
    pub period: Duration,
    /// Number of answers after which it ends early.
    pub answers: u64,
    /// Share of failed runs, 0 to 1, beyond which the version is left.
    pub error_share: f64,
    /// Factor of the median latency of the version before, beyond which the version is left.
    pub latency_factor: f64,
}

impl Default for ProbationLimits {
    fn default() -> Self {
        Self {
            period: PROBATION_DEFAULT,
            answers: PROBATION_ANSWERS_DEFAULT,
            error_share: ERROR_SHARE_DEFAULT,
            latency_factor: f64::from(LATENCY_FACTOR_DEFAULT),
        }
    }
}

/// Behaviour of the version on probation since the last sample.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sample {
    /// Runs that gave an answer.
    pub answers: u64,
    /// Runs that ended in an error that was not the request's fault.
    pub failures: u64,
    /// Ends of the process that ran the model.
    pub deaths: u64,
    /// Reason for which the engine will not run the version again.
    pub condemned: Option<String>,
    /// Median duration of the runs since the switch; `None` without any.
    pub median: Option<Duration>,
}

/// Probation of one version. Stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probation {
    /// Version that serves on probation.
    pub version: Version,
    /// Time that is left of it.
    pub left: Duration,
    /// Runs that gave an answer.
    pub answers: u64,
    /// Runs that failed.
    pub failures: u64,
    /// Ends of the process that ran the model.
    pub deaths: u64,
    /// Ends of the agent while the machine went on.
    pub agent_ends: u32,
    /// Ends of the machine.
    pub machine_ends: u32,
    /// Median duration of a run of the version before; `None` if it was not measured.
    pub baseline: Option<Duration>,
}

impl Probation {
    /// Returns the probation of a version that is about to serve.
    #[must_use]
    pub fn new(version: Version, limits: &ProbationLimits, baseline: Option<Duration>) -> Self {
        Self {
            version,
            left: limits.period,
            answers: 0,
            failures: 0,
            deaths: 0,
            agent_ends: 0,
            machine_ends: 0,
            baseline,
        }
    }

    /// Returns the reason for which the version must be left; `None` while it behaves.
    #[must_use]
    pub fn verdict(&self, limits: &ProbationLimits, sample: &Sample) -> Option<Failure> {
        let crashed = |detail| Some(Failure { kind: FailureKind::EngineCrashed, detail });
        let unfit = |detail| Some(Failure { kind: FailureKind::Unfit, detail });
        if let Some(reason) = &sample.condemned {
            return crashed(format!("on probation: {reason}"));
        }
        if self.deaths >= DEATHS_MAX {
            return crashed(format!("on probation it ended its engine host {} times", self.deaths));
        }
        if self.agent_ends >= AGENT_ENDS_MAX {
            return crashed(format!("the agent ended {} times while it was on probation", self.agent_ends));
        }
        if self.machine_ends >= MACHINE_ENDS_MAX {
            return crashed(format!("the machine went down {} times while it was on probation", self.machine_ends));
        }
        let runs = self.answers.saturating_add(self.failures);
        if runs < JUDGED_FROM {
            return None;
        }
        if as_f64(self.failures) > limits.error_share * as_f64(runs) {
            let Self { failures, .. } = self;
            let most = limits.error_share * 100.0;
            return unfit(format!("on probation {failures} of {runs} runs failed, more than {most} % are not allowed"));
        }
        let (before, now) = self.baseline.zip(sample.median)?;
        let is_slow = now.as_secs_f64() > limits.latency_factor * before.as_secs_f64() && now > before + LATENCY_SLACK;
        let factor = limits.latency_factor;
        is_slow
            .then(|| {
                format!(
                    "on probation its median latency is {:.1} ms, more than {factor} times the {:.1} ms of the version \
                     before",
                    now.as_secs_f64() * 1e3,
                    before.as_secs_f64() * 1e3
                )
            })
            .and_then(unfit)
    }
}

/// Counts up to 2^53 exactly: more requests than any device answers.
#[expect(clippy::cast_precision_loss, reason = "a count of requests, far below 2^53")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

/// Probation under way, with the times of this process.
#[derive(Debug, Clone)]
pub(super) struct Serving {
    pub(super) probation: Probation,
    /// Time at which `left` was computed; `None` until the first event brings the time.
    seen: Option<Instant>,
    stored: Option<Instant>,
}

impl Serving {
    pub(super) const fn new(probation: Probation) -> Self {
        Self { probation, seen: None, stored: None }
    }
}

impl Updater {
    /// Returns the probation of the version that serves; `None` when it has proven itself.
    #[must_use]
    pub fn probation(&self) -> Option<&Probation> {
        self.probation.as_ref().map(|serving| &serving.probation)
    }

    /// Takes note of what the version on probation did; leaves it where that is too bad.
    pub(super) fn observed(&mut self, sample: &Sample, now: Instant) -> Vec<Step> {
        let Some(limits) = self.settings.probation.clone() else { return Vec::new() };
        let Some(serving) = &mut self.probation else { return Vec::new() };
        let probation = &mut serving.probation;
        let passed = now.saturating_duration_since(serving.seen.unwrap_or(now));
        probation.left = probation.left.saturating_sub(passed);
        probation.answers = probation.answers.saturating_add(sample.answers);
        probation.failures = probation.failures.saturating_add(sample.failures);
        probation.deaths = probation.deaths.saturating_add(sample.deaths);
        serving.seen = Some(now);
        if let Some(failure) = probation.verdict(&limits, sample) {
            let from = probation.version;
            return match self.slots.previous.first().map(|slot| slot.version) {
                Some(to) => self.leave(from, to, failure),
                // The versions before are gone meanwhile: it serves on, for want of another.
                None => self.end_probation(),
            };
        }
        if probation.left.is_zero() || probation.answers >= limits.answers {
            return self.end_probation();
        }
        let since = serving.stored.map(|stored| now.saturating_duration_since(stored));
        if sample.deaths > 0 || since.is_none_or(|since| since >= STORED_EVERY) {
            serving.stored = Some(now);
            return vec![Step::KeepProbation { probation: Some(serving.probation.clone()) }];
        }
        Vec::new()
    }

    /// Ends a probation, whatever its result.
    pub(super) fn end_probation(&mut self) -> Vec<Step> {
        let ended = self.probation.take();
        ended.map(|_ended| Step::KeepProbation { probation: None }).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_probation() -> Probation {
        let version = Version::new(2).unwrap();
        Probation::new(version, &ProbationLimits::default(), Some(Duration::from_millis(10)))
    }

    fn verdict(probation: &Probation, sample: &Sample) -> Option<FailureKind> {
        probation.verdict(&ProbationLimits::default(), sample).map(|failure| failure.kind)
    }

    #[test]
    fn a_version_is_left_for_crashes_errors_and_latency_and_for_nothing_less() {
        let quiet = Sample::default();
        let median = |ms| Sample { median: Some(Duration::from_millis(ms)), ..Sample::default() };
        let with = |change: fn(&mut Probation)| {
            let mut probation = on_probation();
            change(&mut probation);
            probation
        };
        let busy = with(|probation| probation.answers = 100);
        assert_eq!(verdict(&with(|p| p.deaths = DEATHS_MAX - 1), &quiet), None);
        assert_eq!(verdict(&with(|p| p.deaths = DEATHS_MAX), &quiet), Some(FailureKind::EngineCrashed));
        assert_eq!(verdict(&with(|p| p.agent_ends = AGENT_ENDS_MAX), &quiet), Some(FailureKind::EngineCrashed));
        assert_eq!(verdict(&with(|p| p.machine_ends = AGENT_ENDS_MAX), &quiet), None, "power is lost by itself");
        assert_eq!(verdict(&with(|p| p.machine_ends = MACHINE_ENDS_MAX), &quiet), Some(FailureKind::EngineCrashed));
        let condemned = Sample { condemned: Some("SIGSEGV".to_owned()), ..Sample::default() };
        assert_eq!(verdict(&on_probation(), &condemned), Some(FailureKind::EngineCrashed));
        assert_eq!(verdict(&with(|p| p.failures = JUDGED_FROM - 1), &quiet), None, "too few runs to judge");
        assert_eq!(verdict(&with(|p| (p.answers, p.failures) = (87, 13)), &quiet), Some(FailureKind::Unfit));
        assert_eq!(verdict(&with(|p| (p.answers, p.failures) = (88, 12)), &quiet), None);
        assert_eq!(verdict(&busy, &median(49)), None);
        assert_eq!(verdict(&busy, &median(51)), Some(FailureKind::Unfit));
        assert_eq!(verdict(&on_probation(), &median(51)), None, "too few runs to judge");
        let fast = Probation { baseline: Some(Duration::from_millis(1)), ..busy.clone() };
        assert_eq!(verdict(&fast, &median(20)), None, "a difference that nobody notices");
        let unknown = Probation { baseline: None, ..busy };
        assert_eq!(verdict(&unknown, &median(5000)), None, "nothing to compare with");
    }
}
