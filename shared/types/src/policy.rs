//! The routing rules of a model, as its users name them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a request may be answered, and what makes it move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyMode {
    /// On the device or not at all: the input never leaves it.
    OnlyDevice,
    /// On the device; by the hub when the device cannot (no model, full queue, engine failure).
    PreferDevice,
    /// On the device first; by the hub when the answer's score is under the threshold in the model's manifest.
    ///
    /// When the hub cannot be reached in time the device's own answer is given, with the reason.
    #[default]
    Cascade,
    /// By the hub; on the device when the hub is away or too late.
    PreferHub,
    /// By the hub or not at all.
    OnlyHub,
}

impl PolicyMode {
    /// Every mode, in order from the device to the hub.
    pub const ALL: [Self; 5] = [Self::OnlyDevice, Self::PreferDevice, Self::Cascade, Self::PreferHub, Self::OnlyHub];

    /// The name in config files, requests and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnlyDevice => "only-device",
            Self::PreferDevice => "prefer-device",
            Self::Cascade => "cascade",
            Self::PreferHub => "prefer-hub",
            Self::OnlyHub => "only-hub",
        }
    }

    /// Whether the input may be sent to the hub at all.
    #[must_use]
    pub const fn may_leave_device(self) -> bool {
        !matches!(self, Self::OnlyDevice)
    }
}

impl fmt::Display for PolicyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no policy is called {0:?}: use only-device, prefer-device, cascade, prefer-hub or only-hub")]
pub struct UnknownPolicy(String);

impl FromStr for PolicyMode {
    type Err = UnknownPolicy;
    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        let known = Self::ALL.into_iter().find(|mode| mode.as_str() == text);
        known.ok_or_else(|| UnknownPolicy(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_reads_back_under_the_name_it_prints() {
        for mode in PolicyMode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert!("cloud".parse::<PolicyMode>().is_err());
    }
}
