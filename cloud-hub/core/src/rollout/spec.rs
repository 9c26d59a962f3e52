//! The order of an operator for a rollout: version, cohort, waves, gate and limits.

use types::{ModelName, Version};

use super::cohort::Cohort;
use super::wave::{self, Wave, WaveError};

/// Waves of a rollout whose order names none: one device, then a few, then a quarter, then all.
pub const WAVES_DEFAULT: &str = "1,5%,25%,100%";

/// Default time in seconds after which a wave without enough evidence pauses the rollout: a day, in which most devices
/// are awake once.
pub const PATIENCE_S_DEFAULT: u64 = 86_400;

/// Minimum and maximum of [`Spec::patience_s`]: a minute and 90 days.
pub const PATIENCE_S: std::ops::RangeInclusive<u64> = 60..=90 * 86_400;

/// Default time in seconds after which a device that has begun an update and reports no more counts as silent: an hour, in
/// which 100 MB arrive at 30 kB/s.
pub const SILENT_S_DEFAULT: u64 = 3_600;

/// Minimum and maximum of [`Spec::silent_s`]: a minute and 90 days.
pub const SILENT_S: std::ops::RangeInclusive<u64> = 60..=90 * 86_400;

/// Maximum number of devices in [`SiteLimit`].
pub const SITE_DEVICES_MAX: u32 = 100_000;

/// Order for a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Name of the model.
    pub model: ModelName,
    /// Version that is rolled out.
    pub version: Version,
    /// Devices that it is about.
    pub cohort: Cohort,
    /// Waves of the rollout, smallest first.
    pub waves: Vec<Wave>,
    /// Gate between the waves in its TOML form, which was checked; `None` judges by installations alone.
    pub gate: Option<String>,
    /// Whether an operator must approve each wave but the first.
    pub approve: bool,
    /// Time of the start in seconds of the Unix clock; `None` starts at once.
    pub start_unix_s: Option<u64>,
    /// Limit of devices that are updated at the same time.
    pub max_per_site: Option<SiteLimit>,
    /// Reaction to a gate that breaks.
    pub on_breach: OnBreach,
    /// Time in seconds after which a wave without enough evidence pauses the rollout.
    pub patience_s: u64,
    /// Time in seconds after which a device that has begun an update and reports no more counts as silent.
    pub silent_s: u64,
}

/// Limit of devices with the same value of a label that are updated at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteLimit {
    /// Key of the label, like `site`. Devices without the label share one limit.
    pub label: String,
    /// Maximum number of devices.
    pub devices: u32,
}

/// Reaction of a rollout to a gate that breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBreach {
    /// No further device takes part until an operator decides.
    #[default]
    Pause,
    /// The devices return to their earlier version.
    RollBack,
}

/// Error for an order that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The waves cannot be used.
    #[error(transparent)]
    Waves(#[from] WaveError),
    /// A time is out of bounds.
    #[error("{name} is {value} s, and at least {min} s and at most {max} s are possible")]
    Time {
        /// Name of the setting.
        name: &'static str,
        /// Value of the setting in the order.
        value: u64,
        /// Smallest value that is possible.
        min: u64,
        /// Largest value that is possible.
        max: u64,
    },
    /// The limit per site is out of bounds.
    #[error("max-per-site is a label and 1 to {SITE_DEVICES_MAX} devices, like site=2")]
    SiteLimit,
}

impl OnBreach {
    /// All reactions, the default first.
    pub const ALL: [Self; 2] = [Self::Pause, Self::RollBack];

    /// Returns the name in requests, records and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::RollBack => "rollback",
        }
    }

    /// Returns the reaction of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reaction| reaction.as_str() == name)
    }
}

impl SiteLimit {
    /// Parses `site=2`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (label, devices) = text.split_once('=')?;
        let limit = Self { label: label.trim().to_owned(), devices: devices.trim().parse().ok()? };
        Some(limit).filter(Self::is_valid)
    }

    fn is_valid(&self) -> bool {
        !self.label.is_empty() && (1..=SITE_DEVICES_MAX).contains(&self.devices)
    }
}

impl Spec {
    /// Checks the order as a whole.
    ///
    /// # Errors
    /// Every mistake at once.
    pub fn check(&self) -> Result<(), Vec<SpecError>> {
        let mut mistakes: Vec<SpecError> = wave::check(&self.waves).err().map(SpecError::from).into_iter().collect();
        for (name, value, bounds) in
            [("patience", self.patience_s, PATIENCE_S), ("silent-after", self.silent_s, SILENT_S)]
        {
            if !bounds.contains(&value) {
                mistakes.push(SpecError::Time { name, value, min: *bounds.start(), max: *bounds.end() });
            }
        }
        if self.max_per_site.as_ref().is_some_and(|limit| !limit.is_valid()) {
            mistakes.push(SpecError::SiteLimit);
        }
        if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
    }
}
