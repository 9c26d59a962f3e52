//! The file of a gate (TOML), read into a [`Gate`] with all mistakes at once.
//!
//! Fed by `cloud-hub rollout create --gate FILE`. Each metric has a table; a table that is left out has its defaults, and
//! `measure = false` in a table leaves the metric out of the gate. `gate.example.toml` has every field with its default, and
//! `docs/gates.md` explains them.

use std::path::Path;
use std::time::Duration;

use config::{ConfigErrors, Mistakes, Validate};
use hub_core::evidence::CELL_S;
use hub_core::gate::{Gate, Rate, Ratio, Undecided};
use hub_core::stats::arms::CONTROLS_MAX;
use serde::{Deserialize, Serialize};

/// Maximum length of a gate's file in bytes; the example with all its comments has a few thousand.
pub const GATE_BYTES_MAX: usize = 64 * 1024;

/// Maximum length of the first window. The last window that is compared then ends after 2.6 days.
const WINDOW_MAX: Duration = Duration::from_secs(24 * 3600);

/// Maximum of the times that a gate waits: a rollout that takes longer is one that nobody looks at.
const WAIT_MAX: Duration = Duration::from_secs(90 * 24 * 3600);

/// Largest error probability: with more, a gate guesses.
const DELTA_MAX: f64 = 0.5;

/// Gate as its file has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct GateFile {
    delta: f64,
    pass_delta: f64,
    #[serde(with = "config::duration")]
    window: Duration,
    controls: u8,
    sample_min: u64,
    exposure_max: f64,
    #[serde(with = "config::duration")]
    wait: Duration,
    undecided: UndecidedFile,
    installs: InstallsFile,
    errors: ErrorsFile,
    crashes: CrashesFile,
    deferrals: DeferralsFile,
    agreement: AgreementFile,
    latency: LatencyFile,
    memory: MemoryFile,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum UndecidedFile {
    Pass,
    Hold,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct InstallsFile {
    measure: bool,
    failed_max: f64,
    #[serde(with = "config::duration")]
    silent_after: Duration,
}

/// Defines the table of a rate, with its defaults from a field of the default gate.
macro_rules! rate_table {
    ($name:ident, $field:ident) => {
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct $name {
            measure: bool,
            margin: f64,
            #[serde(skip_serializing_if = "Option::is_none")]
            stop: Option<f64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            device_max: Option<f64>,
        }

        impl Default for $name {
            fn default() -> Self {
                let rate = Gate::default().$field;
                let margin = rate.map_or(0.0, |rate| rate.margin);
                Self { measure: rate.is_some(), margin, stop: None, device_max: rate.and_then(|rate| rate.device_max) }
            }
        }

        impl $name {
            fn rate(&self) -> Option<Rate> {
                let (margin, device_max) = (self.margin, self.device_max.filter(|limit| *limit < 1.0));
                self.measure.then(|| Rate { margin, stop: self.stop.unwrap_or(margin), device_max })
            }
        }

        impl Validate for $name {
            fn validate(&self, mistakes: &mut Mistakes) {
                validate_rate(mistakes, self.margin, self.stop, self.device_max);
            }
        }
    };
}

rate_table!(ErrorsFile, errors);
rate_table!(CrashesFile, crashes);
rate_table!(DeferralsFile, deferrals);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AgreementFile {
    measure: bool,
    margin: f64,
    stop: f64,
    device_max: f64,
    audit_share: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LatencyFile {
    measure: bool,
    quantile: f64,
    factor: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MemoryFile {
    measure: bool,
    factor: f64,
}

/// Reads a gate from the text of its file; `origin` is the name of the file in messages.
///
/// # Errors
/// Every mistake of the text at once.
pub fn parse(text: &str, origin: &Path) -> Result<Gate, ConfigErrors> {
    if text.len() > GATE_BYTES_MAX {
        let problem = format!("the file has {} bytes, and a gate has at most {GATE_BYTES_MAX}", text.len());
        let mistake = config::Mistake { path: String::new(), line: None, problem };
        return Err(ConfigErrors { origin: origin.to_owned(), mistakes: vec![mistake] });
    }
    Ok(config::parse::<GateFile>(text, origin)?.gate())
}

impl GateFile {
    fn gate(&self) -> Gate {
        let AgreementFile { margin, stop, device_max, .. } = self.agreement;
        let device_max = (device_max < 1.0).then_some(device_max);
        let window_s = self.window.as_secs();
        Gate {
            delta: self.delta,
            pass_delta: self.pass_delta,
            window_s,
            controls: self.controls,
            installs_failed_max: self.installs.measure.then_some(self.installs.failed_max),
            silent_after_s: self.installs.silent_after.as_secs(),
            errors: self.errors.rate(),
            crashes: self.crashes.rate(),
            deferrals: self.deferrals.rate(),
            agreement: self.agreement.measure.then_some(Rate { margin, stop, device_max }),
            audit_share_per_mille: per_mille(self.agreement.audit_share),
            latency: self
                .latency
                .measure
                .then_some(Ratio { quantile: self.latency.quantile, factor: self.latency.factor }),
            memory: self.memory.measure.then_some(Ratio { quantile: 1.0, factor: self.memory.factor }),
            sample_min: self.sample_min,
            exposure_max: self.exposure_max,
            wait_s: self.wait.as_secs(),
            undecided: match self.undecided {
                UndecidedFile::Pass => Undecided::Pass,
                UndecidedFile::Hold => Undecided::Hold,
            },
        }
    }
}

/// Returns a share in thousandths.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the value is in 0..=1000")]
fn per_mille(share: f64) -> u16 {
    (share.clamp(0.0, 1.0) * 1000.0).round() as u16
}

fn validate_rate(mistakes: &mut Mistakes, margin: f64, stop: Option<f64>, device_max: Option<f64>) {
    mistakes.require(is_inside(margin), "margin", "use a share between 0 and 1, like 0.01 for one point");
    if let Some(stop) = stop {
        let holds = (0.0..=margin).contains(&stop);
        mistakes.require(holds, "stop", "use a share between 0 and the margin: harm below it never stops a rollout");
    }
    if let Some(limit) = device_max {
        let holds = limit > 0.0 && limit <= 1.0;
        mistakes.require(holds, "device_max", "use a share above 0, like 0.5; 1 sets no limit for single devices");
    }
}

fn is_inside(share: f64) -> bool {
    share > 0.0 && share < 1.0
}

fn validate_factor(mistakes: &mut Mistakes, factor: f64) {
    let holds = (1.0..=1000.0).contains(&factor);
    mistakes.require(holds, "factor", "use a ratio of canary to control between 1 and 1000, like 1.5");
}

impl Validate for GateFile {
    fn validate(&self, mistakes: &mut Mistakes) {
        for (name, delta) in [("delta", self.delta), ("pass_delta", self.pass_delta)] {
            let holds = delta > 0.0 && delta <= DELTA_MAX;
            mistakes.require(holds, name, "use an error probability above 0 and at most 0.5, like 0.01");
        }
        let window_s = self.window.as_secs();
        let whole_hours = window_s >= CELL_S && window_s.is_multiple_of(CELL_S) && self.window <= WINDOW_MAX;
        mistakes.require(
            whole_hours,
            "window",
            "use whole hours between 1h and 24h: the hub stores counters by the hour",
        );
        let controls = (1..=CONTROLS_MAX).contains(&self.controls);
        mistakes.require(
            controls,
            "controls",
            format!("use 1 to {CONTROLS_MAX} control devices for each canary device"),
        );
        let exposure = self.exposure_max > 0.0 && self.exposure_max <= 1.0;
        mistakes.require(exposure, "exposure_max", "use a share of the cohort above 0 and at most 1, like 0.05");
        mistakes.require(self.wait <= WAIT_MAX, "wait", "use at most 90d");
        mistakes.within("installs", &self.installs);
        mistakes.within("errors", &self.errors);
        mistakes.within("crashes", &self.crashes);
        mistakes.within("deferrals", &self.deferrals);
        mistakes.within("agreement", &self.agreement);
        mistakes.within("latency", &self.latency);
        mistakes.within("memory", &self.memory);
    }

    fn placeholders() -> &'static [&'static str] {
        &["\"pass\""]
    }
}

impl Validate for InstallsFile {
    fn validate(&self, mistakes: &mut Mistakes) {
        mistakes.require(is_inside(self.failed_max), "failed_max", "use a share between 0 and 1, like 0.05");
        let holds = self.silent_after >= Duration::from_secs(1) && self.silent_after <= WAIT_MAX;
        mistakes.require(holds, "silent_after", "use a time between 1s and 90d, like 24h");
    }
}

impl Validate for AgreementFile {
    fn validate(&self, mistakes: &mut Mistakes) {
        validate_rate(mistakes, self.margin, Some(self.stop), Some(self.device_max));
        let holds = (0.0..=1.0).contains(&self.audit_share);
        mistakes.require(holds, "audit_share", "use a share of the kept answers between 0 and 1, like 0.05");
    }
}

impl Validate for LatencyFile {
    fn validate(&self, mistakes: &mut Mistakes) {
        mistakes.require(is_inside(self.quantile), "quantile", "use a quantile between 0 and 1, like 0.95");
        validate_factor(mistakes, self.factor);
    }
}

impl Validate for MemoryFile {
    fn validate(&self, mistakes: &mut Mistakes) {
        validate_factor(mistakes, self.factor);
    }
}

impl Default for GateFile {
    fn default() -> Self {
        let gate = Gate::default();
        Self {
            delta: gate.delta,
            pass_delta: gate.pass_delta,
            window: Duration::from_secs(gate.window_s),
            controls: gate.controls,
            sample_min: gate.sample_min,
            exposure_max: gate.exposure_max,
            wait: Duration::from_secs(gate.wait_s),
            undecided: UndecidedFile::Pass,
            installs: InstallsFile::default(),
            errors: ErrorsFile::default(),
            crashes: CrashesFile::default(),
            deferrals: DeferralsFile::default(),
            agreement: AgreementFile::default(),
            latency: LatencyFile::default(),
            memory: MemoryFile::default(),
        }
    }
}

impl Default for InstallsFile {
    fn default() -> Self {
        let gate = Gate::default();
        let failed_max = gate.installs_failed_max.unwrap_or(1.0);
        Self { measure: true, failed_max, silent_after: Duration::from_secs(gate.silent_after_s) }
    }
}

impl Default for AgreementFile {
    fn default() -> Self {
        let gate = Gate::default();
        let rate = gate.agreement.unwrap_or(Rate { margin: 0.01, stop: 0.0, device_max: None });
        Self {
            measure: gate.agreement.is_some(),
            margin: rate.margin,
            stop: rate.stop,
            device_max: rate.device_max.unwrap_or(1.0),
            audit_share: f64::from(gate.audit_share_per_mille) / 1000.0,
        }
    }
}

impl Default for LatencyFile {
    fn default() -> Self {
        let ratio = Gate::default().latency;
        let (quantile, factor) = ratio.map_or((0.95, 1.5), |ratio| (ratio.quantile, ratio.factor));
        Self { measure: ratio.is_some(), quantile, factor }
    }
}

impl Default for MemoryFile {
    fn default() -> Self {
        let ratio = Gate::default().memory;
        Self { measure: ratio.is_some(), factor: ratio.map_or(1.5, |ratio| ratio.factor) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../gate.example.toml");

    fn read(text: &str) -> Result<Gate, String> {
        parse(text, Path::new("gate.toml")).map_err(|errors| errors.to_string())
    }

    #[test]
    fn an_empty_file_and_the_example_are_the_default_gate() {
        assert_eq!(read(""), Ok(Gate::default()));
        assert_eq!(read(EXAMPLE), Ok(Gate::default()));
    }

    #[test]
    fn every_mistake_is_reported_at_once_with_its_line() {
        let text = "delta = 0.9\nwindow = \"90m\"\nundecided = \"maybe\"\nwiat = \"1h\"\n[errors]\nmargin = 0.01\nstop = 0.02\n\
                    [agreement]\naudit_share = 2\n[latency]\nfactor = 0.5\n[installs]\nfailed_max = \"many\"\n";
        let mistakes = read(text).unwrap_err();
        for wanted in [
            "delta (line 1)",
            "window (line 2)",
            "undecided (line 3)",
            "wiat (line 4): unknown field, did you mean `wait`?",
            "errors.stop (line 7)",
            "agreement.audit_share (line 9)",
            "latency.factor (line 11)",
            "installs.failed_max (line 13)",
        ] {
            assert!(mistakes.contains(wanted), "{wanted} is missing in:\n{mistakes}");
        }
    }

    #[test]
    fn a_metric_that_is_not_measured_leaves_its_error_probability_to_the_others() {
        use hub_core::evidence::Metric;

        let gate = read("[agreement]\nmeasure = false\n[crashes]\nmeasure = false\n").unwrap();
        assert!(!gate.measures(Metric::Agreement) && gate.agreement.is_none() && gate.crashes.is_none());
        let sum: f64 = Metric::ALL.iter().map(|metric| gate.share(*metric)).sum();
        assert!((sum - 1.0).abs() < 1e-9 && gate.share(Metric::Errors) > Gate::default().share(Metric::Errors));
    }

    #[test]
    fn a_file_that_is_too_long_or_not_finite_is_refused() {
        assert!(read(&"#".repeat(GATE_BYTES_MAX + 1)).unwrap_err().contains("at most"));
        for text in
            ["delta = nan", "delta = inf", "[errors]\nmargin = nan", "[latency]\nfactor = nan", "exposure_max = -1"]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
