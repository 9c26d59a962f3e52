//! Routing policies of a model, as users name them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Routing mode: decides whether the device or the hub serves a request, and when the other one takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyMode {
    /// Serves on the device only: the input never leaves it, and the request fails if the device cannot serve it.
    OnlyDevice,
    /// Serves on the device; on the hub when the device cannot (no model, full queue, engine failure).
    PreferDevice,
    /// Serves on the device first; on the hub when the score of the device's response is below the threshold in the
    /// model's manifest.
    ///
    /// If the hub does not respond in time, the device's own response is returned, with the reason.
    #[default]
    Cascade,
    /// Serves on the hub; on the device when the hub is unreachable or too late.
    PreferHub,
    /// Serves on the hub only: the request fails if the hub cannot serve it.
    OnlyHub,
}

impl PolicyMode {
    /// All modes, ordered from device to hub.
    pub const ALL: [Self; 5] = [Self::OnlyDevice, Self::PreferDevice, Self::Cascade, Self::PreferHub, Self::OnlyHub];

    /// Returns the name used in config files, requests and logs.
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

    /// Whether the input may be sent to the hub.
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

/// Error: a text is not the name of a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown policy {0:?}: use only-device, prefer-device, cascade, prefer-hub or only-hub")]
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
