//! Routing policies of a model, as users name them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

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
    /// On the device; when that has not answered after a while, by the hub at the same time: the first acceptable answer
    /// wins, and the other place is cancelled. An answer under the threshold in the manifest is not acceptable while the
    /// hub may still answer.
    Hedge,
}

impl PolicyMode {
    /// Every mode.
    pub const ALL: [Self; 6] =
        [Self::OnlyDevice, Self::PreferDevice, Self::Cascade, Self::PreferHub, Self::OnlyHub, Self::Hedge];

    /// Returns the name in config files, requests, receipts and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnlyDevice => "only-device",
            Self::PreferDevice => "prefer-device",
            Self::Cascade => "cascade",
            Self::PreferHub => "prefer-hub",
            Self::OnlyHub => "only-hub",
            Self::Hedge => "hedge",
        }
    }

    /// Whether the input may be sent to the hub.
    #[must_use]
    pub const fn may_leave_device(self) -> bool {
        !matches!(self, Self::OnlyDevice)
    }
}

/// Time after which a hedged request also goes to the hub, where the configuration sets none.
///
/// Twice what an int8 image classifier takes on a small single-board computer: most requests never reach it.
pub const HEDGE_AFTER: Duration = Duration::from_millis(200);

/// Routing rules of one request. The modes are presets: [`Policy::from`] makes one of a [`PolicyMode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Order of the places, and what sends a request from one to the other.
    pub mode: PolicyMode,
    /// Time for an answer where the request brings no deadline; `None` for no limit.
    pub deadline: Option<Duration>,
    /// Time after which a second place is asked while the first one still works; `None` for never.
    pub hedge: Option<Duration>,
    /// Limits of what a request may cost.
    pub budget: Budget,
    /// Whether the input may leave the device.
    pub privacy: Privacy,
}

/// Limits of what one request may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// Maximum bytes of input that are sent to the hub; a larger input stays on the device. `None` for no limit.
    pub hub_bytes: Option<u64>,
}

/// Confidentiality of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privacy {
    /// The input may be sent to the hub.
    Shared,
    /// The input never leaves the device, whatever the rest of the policy says.
    DeviceOnly,
}

impl Policy {
    /// Returns whether an input of so many bytes may be sent to the hub.
    #[must_use]
    pub fn may_send(&self, bytes: u64) -> bool {
        self.privacy == Privacy::Shared && self.budget.hub_bytes.is_none_or(|most| bytes <= most)
    }
}

impl From<PolicyMode> for Policy {
    fn from(mode: PolicyMode) -> Self {
        let privacy = if mode.may_leave_device() { Privacy::Shared } else { Privacy::DeviceOnly };
        let hedge = (mode == PolicyMode::Hedge).then_some(HEDGE_AFTER);
        Self { mode, deadline: None, hedge, budget: Budget::default(), privacy }
    }
}

impl fmt::Display for PolicyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Error: a text is not the name of a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown policy {0:?}: use only-device, prefer-device, cascade, prefer-hub, only-hub or hedge")]
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
        let unknown = "cloud".parse::<PolicyMode>().unwrap_err().to_string();
        assert!(PolicyMode::ALL.iter().all(|mode| unknown.contains(mode.as_str())), "{unknown}");
    }

    #[test]
    fn a_preset_sends_nothing_that_its_mode_forbids() {
        for mode in PolicyMode::ALL {
            assert_eq!(Policy::from(mode).may_send(0), mode.may_leave_device(), "{mode}");
        }
        let limited = Policy { budget: Budget { hub_bytes: Some(10) }, ..Policy::from(PolicyMode::Cascade) };
        assert!(limited.may_send(10) && !limited.may_send(11));
    }
}
