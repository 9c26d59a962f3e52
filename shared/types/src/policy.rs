//! Routing policies of a model, as users name them.
//!
//! A policy has three layers: the author's default in the manifest, the owner's in `agent.toml`, and the application's in
//! a request. [`PolicyLayer`] is the form of the first two, [`RequestRules`] that of the third; [`Policy::resolve`] makes
//! one [`Policy`] of them. A later layer replaces the mode, the times and the offline behaviour of an earlier one. Privacy,
//! conditions, budgets and the audit share only tighten.

mod layer;
mod resolve;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Reason;
use crate::share::Share;
use crate::window::Window;
pub use layer::{BudgetLimits, HubConditions, LayerMistake, PolicyLayer, TAG_BYTES_MAX, TAGS_MAX, check_tags};
pub use resolve::RequestRules;

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
    /// Whether `hedge` was configured; if not, the device's measured 95th percentile is used in place of the default.
    pub is_hedge_fixed: bool,
    /// Limits of what a request may cost.
    pub budget: Budget,
    /// Whether the input may leave the device.
    pub privacy: Privacy,
    /// Privacy class of the input: the strictest one of all layers.
    pub class: PrivacyClass,
    /// Reason for which this request is kept from the hub whatever the surroundings are; `None` if there is none.
    pub withheld: Option<Reason>,
    /// Conditions of the surroundings under which the input may go to the hub.
    pub conditions: Conditions,
    /// Behaviour while the hub cannot be reached.
    pub offline: Offline,
    /// Whether the application takes the hub's answer later, and the device's own at once.
    pub amends: bool,
    /// Maximum share of the kept answers that are audited; `None` for the agent's common limit.
    pub audit_share_max: Option<Share>,
}

/// Conditions of the surroundings under which an input may go to the hub. All of them must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conditions {
    /// Whether the link to the hub must not be metered.
    pub is_unmetered: bool,
    /// Minimum charge of a discharging battery in percent; `None` for no limit.
    pub battery_min_percent: Option<u8>,
    /// Hours of the day, by the device's local time. The author's and the owner's; both must hold.
    pub hours: [Option<Window>; 2],
}

/// Behaviour while the hub cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Offline {
    /// The device's own answer is given, with the reason, also if it is not sure.
    #[default]
    Answer,
    /// The request fails if the policy wants the hub's answer.
    Fail,
    /// The request waits in the agent's outbox for the hub; meanwhile the device's own answer is given, if it has one.
    Queue,
}

impl Offline {
    /// Returns the name in policies and requests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Fail => "fail",
            Self::Queue => "queue",
        }
    }
}

/// Error: a text is not an offline behaviour of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown offline behaviour {0:?}: use answer, fail or queue")]
pub struct UnknownOffline(String);

impl FromStr for Offline {
    type Err = UnknownOffline;
    fn from_str(text: &str) -> Result<Self, UnknownOffline> {
        match text {
            "answer" => Ok(Self::Answer),
            "fail" => Ok(Self::Fail),
            "queue" => Ok(Self::Queue),
            other => Err(UnknownOffline(other.chars().take(NAME_SHOWN).collect())),
        }
    }
}

impl TryFrom<String> for Offline {
    type Error = UnknownOffline;
    fn try_from(text: String) -> Result<Self, UnknownOffline> {
        text.parse()
    }
}

impl From<Offline> for String {
    fn from(offline: Offline) -> Self {
        offline.as_str().to_owned()
    }
}

/// Privacy class of the inputs of a model, from open to strict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrivacyClass {
    /// Inputs may go to the hub.
    #[default]
    Public,
    /// Inputs go to the hub only with consent.
    Personal,
    /// Nothing of an input goes to the hub, neither for an answer nor for an audit.
    NeverLeaves,
}

impl PrivacyClass {
    /// Every class, from open to strict.
    pub const ALL: [Self; 3] = [Self::Public, Self::Personal, Self::NeverLeaves];

    /// Returns the name in policies and requests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Personal => "personal",
            Self::NeverLeaves => "never-leaves",
        }
    }
}

/// Error: a text is not the name of a privacy class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown privacy class {0:?}: use public, personal or never-leaves")]
pub struct UnknownClass(String);

impl FromStr for PrivacyClass {
    type Err = UnknownClass;
    fn from_str(text: &str) -> Result<Self, UnknownClass> {
        let known = Self::ALL.into_iter().find(|class| class.as_str() == text);
        known.ok_or_else(|| UnknownClass(text.chars().take(NAME_SHOWN).collect()))
    }
}

/// Maximum number of characters of an unknown name that an error shows.
const NAME_SHOWN: usize = 40;

/// Limits of what requests may cost. The days are those of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// Maximum bytes of input that are sent to the hub; a larger input stays on the device. `None` for no limit.
    pub hub_bytes: Option<u64>,
    /// Maximum bytes of inputs that are sent to the hub in a day over a metered link.
    pub metered_bytes_per_day: Option<u64>,
    /// Maximum bytes of inputs that are sent to the hub in a day over a link that is not metered.
    pub unmetered_bytes_per_day: Option<u64>,
    /// Maximum number of requests that are sent to the hub in a day, audits included.
    pub hub_calls_per_day: Option<u64>,
    /// Maximum number of requests in a minute that go to the hub because the device's answer is not sure.
    pub escalations_per_minute: Option<u64>,
}

impl Budget {
    /// Returns whether anything must be counted over several requests.
    #[must_use]
    pub const fn is_counted(&self) -> bool {
        self.metered_bytes_per_day.is_some()
            || self.unmetered_bytes_per_day.is_some()
            || self.hub_calls_per_day.is_some()
            || self.escalations_per_minute.is_some()
    }
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
        self.forbids(bytes).is_none()
    }

    /// Returns the reason for which an input of so many bytes stays on the device, whatever the surroundings are.
    #[must_use]
    pub fn forbids(&self, bytes: u64) -> Option<Reason> {
        let is_shared = self.privacy == Privacy::Shared && self.budget.hub_bytes.is_none_or(|most| bytes <= most);
        self.withheld.or((!is_shared).then_some(Reason::Policy))
    }
}

impl From<PolicyMode> for Policy {
    fn from(mode: PolicyMode) -> Self {
        let privacy = if mode.may_leave_device() { Privacy::Shared } else { Privacy::DeviceOnly };
        let hedge = (mode == PolicyMode::Hedge).then_some(HEDGE_AFTER);
        Self {
            mode,
            deadline: None,
            hedge,
            is_hedge_fixed: false,
            budget: Budget::default(),
            privacy,
            class: PrivacyClass::default(),
            withheld: None,
            conditions: Conditions::default(),
            offline: Offline::default(),
            amends: false,
            audit_share_max: None,
        }
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
        known.ok_or_else(|| UnknownPolicy(text.chars().take(NAME_SHOWN).collect()))
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
        let limited =
            Policy { budget: Budget { hub_bytes: Some(10), ..Budget::default() }, ..Policy::from(PolicyMode::Cascade) };
        assert!(limited.may_send(10) && !limited.may_send(11));
    }
}
