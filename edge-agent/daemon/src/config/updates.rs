//! Section `[updates]` of `agent.toml`: versions from the hub, and the orders that the hub may give.

use std::ops::RangeInclusive;
use std::time::Duration;

use config::{Mistakes, Validate};
use edge_core::slots::KEEP_DEFAULT;
use edge_core::trust::REFRESH_PERIOD;
use edge_core::update::Settings;
use edge_core::update::measure::{LATENCY_FACTOR_MAX, Limits};
use edge_core::update::probation::{
    ERROR_SHARE_DEFAULT, LATENCY_FACTOR_DEFAULT, PROBATION_ANSWERS_DEFAULT, PROBATION_DEFAULT, ProbationLimits,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use types::window::Window;

pub use types::share::Share;

/// Shortest and longest time between two refreshes of the trust: the hub signs its timestamp for seven days.
const TRUST_REFRESH_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600);

/// Maximum number of earlier versions that stay on the disk: as many as the hub remembers of a device.
const KEEP_MAX: usize = 16;

/// Maximum length of a probation: a week shows every day of the week.
const PROBATION_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Default maximum share of audited answers: one in twenty, so that 300 audits take 6,000 answers of a whole fleet.
const AUDIT_SHARE_DEFAULT: f64 = 0.05;

/// Default share of the live requests that are drawn for the shadow.
const SHADOW_SHARE_DEFAULT: f64 = 0.1;

/// Default maximum time in the shadow: long enough for a device that infers ten times a minute to compare ten answers.
const SHADOW_TIME_DEFAULT: Duration = Duration::from_secs(600);

/// Default number of variants that are measured against each other: an integer form and a floating-point one, either of which
/// may be the slower one on a processor.
const MEASURE_VARIANTS_DEFAULT: usize = 2;

/// Number of variants that may be measured against each other; each is loaded at the same time, in a process of its own.
const MEASURE_VARIANTS_RANGE: RangeInclusive<usize> = 1..=4;

/// Section `[updates]` of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpdatesTable {
    /// Whether new versions are taken at all. Default true.
    pub enabled: bool,
    /// Free space in bytes that an update must leave on the disk of the state folder. Default 67108864 (64 MiB).
    pub disk_free_min_bytes: u64,
    /// Memory in bytes that must stay available while a new version is loaded beside the one that serves. Default 33554432
    /// (32 MiB).
    ///
    /// A version that would take more is put off, and refused where it takes more than the device has. The memory of the
    /// machine, of the control groups (`MemoryMax=`) and of a process (`LimitDATA=`) count.
    pub memory_free_min_bytes: u64,
    /// Time between two refreshes of the signed metadata without an update. Default `24h`; `1s` to `7d`.
    ///
    /// Each device draws its own moment. It is how a hub that is silent or kept from news is noticed: `trust` in status.
    #[serde(with = "config::duration")]
    pub trust_refresh: Duration,
    /// Number of earlier versions of each model that stay on the disk, for a return without the hub. Default 2; 0 to 16.
    pub keep: usize,
    /// Whether the hub may assign models to this device beside those of this file. Default true.
    pub assign: bool,
    /// Maximum share, 0 to 1, of the answers kept on the device that are also sent to the hub, to be compared with the full
    /// model's. Default 0.05. The hub asks for a share while it judges a version, and gets at most this one.
    ///
    /// Inputs that the policy keeps on the device are never sent.
    pub audit_share_max: Share,
    /// Whether a new version is measured on this device before it serves. Default true. It takes at most two seconds, in
    /// which applications are answered more slowly.
    pub measure: bool,
    /// Whether the quickest engine of `engine.engines` that fits serves a new version, in place of the first one. Default false.
    ///
    /// The choice is kept: the same engine serves after a restart, and later versions where it is clearly quicker.
    pub measure_engines: bool,
    /// Maximum number of variants of a new version that are fetched and measured against each other. Default 2; 1 to 4, and 1
    /// takes the first that runs here.
    ///
    /// Only variants of different precision are compared, and only once for each model: the device takes the same variant of
    /// later versions, as long as these have the same variants. Not over a metered link, and not where the model has a
    /// `variant`.
    pub measure_variants: usize,
    /// Maximum bytes that are fetched for the variants beside the first one. Default 67108864 (64 MiB).
    pub measure_variants_bytes_max: u64,
    /// Factor of the median latency of the version that serves, beyond which a new one is refused. Default 10. A difference
    /// of less than 20 ms never counts.
    pub measure_latency_factor_max: u32,
    /// Maximum memory in bytes of the process of a new version. Default no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measure_memory_max_bytes: Option<u64>,
    /// Minimum share, 0 to 1, of the golden inputs to which a new version gives the answers of the one that serves. Default 0:
    /// a new version is meant to answer otherwise.
    pub measure_agreement_min: Share,
    /// Number of live requests that a new version answers too before it serves, compared and never shown. Default 0: none.
    ///
    /// The version that serves answers them as usual. An update over a quiet model takes up to `shadow_time` longer.
    pub shadow_answers: u64,
    /// Share, 0 to 1, of the live requests that are drawn for it. Default 0.1. It takes at most a tenth of one processor.
    pub shadow_share: Share,
    /// Maximum time that a new version answers in the shadow. Default `10m`; at most `7d`.
    #[serde(with = "config::duration")]
    pub shadow_time: Duration,
    /// Minimum share, 0 to 1, of equal answers in the shadow. Default 0: a new version is meant to answer otherwise sometimes.
    pub shadow_agreement_min: Share,
    /// Time of the day in which updates may begin, like `02:00-05:00`, by the device's local time. Default any time.
    ///
    /// An update that has begun goes on. Orders of the owner, and returns that the hub asks for, do not wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<UpdateWindow>,
    /// Updates over a metered link: `allow` or `wait`. Default `allow`.
    pub metered: OnMetered,
    /// Link to the hub: `metered`, `unmetered`, or `auto` to ask NetworkManager. Default `auto`. Read where `metered` is `wait`.
    pub link: LinkCost,
    /// Length of the probation of a new version. Default `10m`; `0s` for none, at most `7d`.
    ///
    /// During it the version before stays loaded where the memory allows, and serves again by itself when the new one ends
    /// its process, fails too often or is too slow.
    #[serde(with = "config::duration")]
    pub probation: Duration,
    /// Number of answers after which a probation ends early. Default 1000.
    pub probation_answers: u64,
    /// Share of failed runs, 0 to 1, beyond which a version on probation is left. Default 0.125.
    pub probation_error_share_max: Share,
    /// Factor of the median latency of the version before, beyond which a version on probation is left. Default 5.
    pub probation_latency_factor_max: u32,
}

impl Default for UpdatesTable {
    fn default() -> Self {
        Self {
            enabled: true,
            disk_free_min_bytes: 64 * 1024 * 1024,
            memory_free_min_bytes: 32 * 1024 * 1024,
            trust_refresh: REFRESH_PERIOD,
            keep: KEEP_DEFAULT,
            assign: true,
            audit_share_max: Share::of(AUDIT_SHARE_DEFAULT).unwrap_or_default(),
            measure: true,
            measure_engines: false,
            measure_variants: MEASURE_VARIANTS_DEFAULT,
            measure_variants_bytes_max: 64 * 1024 * 1024,
            measure_latency_factor_max: LATENCY_FACTOR_MAX,
            measure_memory_max_bytes: None,
            measure_agreement_min: Share::default(),
            shadow_answers: 0,
            shadow_share: Share::of(SHADOW_SHARE_DEFAULT).unwrap_or_default(),
            shadow_time: SHADOW_TIME_DEFAULT,
            shadow_agreement_min: Share::default(),
            window: None,
            metered: OnMetered::default(),
            link: LinkCost::default(),
            probation: PROBATION_DEFAULT,
            probation_answers: PROBATION_ANSWERS_DEFAULT,
            probation_error_share_max: Share::of(ERROR_SHARE_DEFAULT).unwrap_or_default(),
            probation_latency_factor_max: LATENCY_FACTOR_DEFAULT,
        }
    }
}

impl UpdatesTable {
    /// Returns the settings of the update machine.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let probation = ProbationLimits {
            period: self.probation,
            answers: self.probation_answers,
            error_share: self.probation_error_share_max.as_f64(),
            latency_factor: f64::from(self.probation_latency_factor_max),
        };
        let measure = Limits {
            latency_factor: f64::from(self.measure_latency_factor_max),
            memory_bytes: self.measure_memory_max_bytes,
            agreement: self.measure_agreement_min.as_f64(),
        };
        Settings {
            keep: self.keep,
            measure: self.measure.then_some(measure),
            shadow: self.shadow_answers > 0 && !self.shadow_time.is_zero(),
            shadow_agreement: self.shadow_agreement_min.as_f64(),
            probation: (!self.probation.is_zero()).then_some(probation),
        }
    }
}

impl Validate for UpdatesTable {
    fn validate(&self, mistakes: &mut Mistakes) {
        if !TRUST_REFRESH_RANGE.contains(&self.trust_refresh) {
            mistakes.add("updates.trust_refresh", "use 1s to 7d");
        }
        if self.keep > KEEP_MAX {
            mistakes.add("updates.keep", format!("use 0 to {KEEP_MAX}"));
        }
        if self.probation > PROBATION_MAX {
            mistakes.add("updates.probation", "use 0s to 7d");
        }
        if self.probation_answers == 0 {
            mistakes.add("updates.probation_answers", "use at least 1, or probation = \"0s\" for no probation");
        }
        if self.shadow_time > PROBATION_MAX {
            mistakes.add("updates.shadow_time", "use 0s to 7d");
        }
        if !MEASURE_VARIANTS_RANGE.contains(&self.measure_variants) {
            mistakes.add("updates.measure_variants", "use 1 to 4");
        }
        if self.measure_latency_factor_max == 0 {
            mistakes.add("updates.measure_latency_factor_max", "use at least 1");
        }
        if self.probation_latency_factor_max == 0 {
            mistakes.add("updates.probation_latency_factor_max", "use at least 1");
        }
    }
}

/// Time of the day in which updates may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpdateWindow(pub Window);

impl Serialize for UpdateWindow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for UpdateWindow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// Updates over a metered link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnMetered {
    /// Updates begin over any link.
    #[default]
    Allow,
    /// Updates wait for a link that is not metered.
    Wait,
}

/// Cost of the link to the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkCost {
    /// NetworkManager knows; a link that it does not know counts as unmetered.
    #[default]
    Auto,
    /// Each byte costs.
    Metered,
    /// Bytes are free.
    Unmetered,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_from_0_to_1() {
        assert_eq!(Share::of(0.05).map(Share::per_mille), Some(50));
        assert_eq!(Share::of(0.125).map(Share::as_f64), Some(0.125));
        for wrong in [-0.001, 1.001, f64::NAN, f64::INFINITY] {
            assert_eq!(Share::of(wrong), None, "{wrong}");
        }
        let text = "[updates]\nmeasure_agreement_min = 2.0\nwindow = \"02:00\"\nlink = \"free\"";
        let told = ::config::parse::<crate::config::AgentConfig>(text, std::path::Path::new("agent.toml")).unwrap_err();
        for mistake in ["updates.measure_agreement_min", "updates.window", "updates.link"] {
            assert!(told.to_string().contains(mistake), "{mistake} is not in {told}");
        }
        let text = "[updates]\nkeep = 17\nprobation_answers = 0\nmeasure_variants = 5";
        let told = ::config::parse::<crate::config::AgentConfig>(text, std::path::Path::new("agent.toml")).unwrap_err();
        for mistake in ["updates.keep", "updates.probation_answers", "updates.measure_variants"] {
            assert!(told.to_string().contains(mistake), "{mistake} is not in {told}");
        }
    }
}
