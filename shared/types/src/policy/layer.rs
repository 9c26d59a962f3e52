//! One layer of a policy: the author's `[policy]` in `model.toml` and in the manifest, and the owner's in `agent.toml`.
//!
//! The text has the same fields in all of them. A field that is missing leaves the matter to the other layers.

use serde::{Deserialize, Serialize};

use super::{Offline, PolicyMode, PrivacyClass};
use crate::share::Share;
use crate::window::Window;

/// Longest deadline and hedge delay in milliseconds: a day, as for a request.
pub(super) const TIME_MS_MAX: u64 = 24 * 3600 * 1000;

/// Maximum number of tags of a policy or request.
pub const TAGS_MAX: usize = 16;

/// Maximum length of a tag in bytes.
pub const TAG_BYTES_MAX: usize = 64;

/// One layer of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyLayer {
    /// Mode of requests that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<PolicyMode>,
    /// Time for an answer in milliseconds, 1 to 86400000, where the request brings no deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Time in milliseconds, 0 to 86400000, after which a request with the mode `hedge` also goes to the hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge_after_ms: Option<u64>,
    /// Privacy class of the inputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy: Option<PrivacyClass>,
    /// Behaviour while the hub cannot be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offline: Option<Offline>,
    /// Maximum share, 0 to 1, of the kept answers that are audited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_share_max: Option<Share>,
    /// Conditions under which an input may go to the hub; all of them must hold.
    #[serde(skip_serializing_if = "HubConditions::is_empty")]
    pub hub_when: HubConditions,
    /// Limits of what the hub may cost.
    #[serde(skip_serializing_if = "BudgetLimits::is_empty")]
    pub budget: BudgetLimits,
}

/// Table `hub_when` of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HubConditions {
    /// Whether the request or the owner must have given consent.
    #[serde(skip_serializing_if = "is_false")]
    pub consent: bool,
    /// Whether the link to the hub must not be metered.
    #[serde(skip_serializing_if = "is_false")]
    pub unmetered: bool,
    /// Minimum charge of a discharging battery in percent, 1 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub battery_min_percent: Option<u8>,
    /// Hours of the day, by the device's local time, like `08:00-20:00`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hours: Option<Window>,
    /// Tags of which the request must have at least one; empty for no condition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// Table `budget` of a policy. Days are those of UTC.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetLimits {
    /// Maximum bytes of one input that is sent to the hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<u64>,
    /// Maximum bytes of inputs that are sent to the hub in a day over a metered link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metered_bytes_per_day: Option<u64>,
    /// Maximum bytes of inputs that are sent to the hub in a day over a link that is not metered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmetered_bytes_per_day: Option<u64>,
    /// Maximum number of requests that are sent to the hub in a day, audits included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hub_calls_per_day: Option<u64>,
    /// Maximum number of requests in a minute that go to the hub because the device's answer is not sure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub escalations_per_minute: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Mistake in a layer: the field relative to the layer, and the problem with a correct value.
pub type LayerMistake = (String, String);

impl HubConditions {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl BudgetLimits {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl PolicyLayer {
    /// Returns a layer that sets the mode alone.
    #[must_use]
    pub fn of_mode(mode: PolicyMode) -> Self {
        Self { mode: Some(mode), ..Self::default() }
    }

    /// Returns every mistake that the types do not express.
    #[must_use]
    pub fn mistakes(&self) -> Vec<LayerMistake> {
        let mut found = Vec::new();
        let mut require = |holds: bool, field: &str, problem: &str| {
            if !holds {
                found.push((field.to_owned(), problem.to_owned()));
            }
        };
        let deadline = self.deadline_ms.is_none_or(|ms| (1..=TIME_MS_MAX).contains(&ms));
        require(deadline, "deadline_ms", "use 1 to 86400000 (a day)");
        let hedge = self.hedge_after_ms.is_none_or(|ms| ms <= TIME_MS_MAX);
        require(hedge, "hedge_after_ms", "use 0 to 86400000 (a day)");
        let battery = self.hub_when.battery_min_percent.is_none_or(|percent| (1..=100).contains(&percent));
        require(battery, "hub_when.battery_min_percent", "use 1 to 100");
        let places = self.mode != Some(PolicyMode::OnlyHub) || self.privacy != Some(PrivacyClass::NeverLeaves);
        require(places, "privacy", "no place may answer: the mode is \"only-hub\" and the input \"never-leaves\"");
        if let Err(problem) = check_tags(&self.hub_when.tags) {
            require(false, "hub_when.tags", &problem);
        }
        found
    }
}

/// Checks the number and the form of tags.
///
/// # Errors
/// Returns the problem of the first wrong tag.
pub fn check_tags(tags: &[String]) -> Result<(), String> {
    if tags.len() > TAGS_MAX {
        return Err(format!("{} tags are over the limit of {TAGS_MAX}", tags.len()));
    }
    let is_good = |tag: &&String| {
        (1..=TAG_BYTES_MAX).contains(&tag.len())
            && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    match tags.iter().find(|tag| !is_good(tag)) {
        Some(tag) => {
            let shown: String = tag.chars().take(super::NAME_SHOWN).collect();
            Err(format!("{shown:?} is no tag: use 1 to {TAG_BYTES_MAX} of a-z, A-Z, 0-9, '-', '_' and '.'"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_of_a_layer_are_told_at_once() {
        let hub_when =
            HubConditions { battery_min_percent: Some(101), tags: vec!["a b".to_owned()], ..HubConditions::default() };
        let layer = PolicyLayer {
            mode: Some(PolicyMode::OnlyHub),
            deadline_ms: Some(0),
            hedge_after_ms: Some(TIME_MS_MAX + 1),
            privacy: Some(PrivacyClass::NeverLeaves),
            hub_when,
            ..PolicyLayer::default()
        };
        let fields: Vec<String> = layer.mistakes().into_iter().map(|(field, _problem)| field).collect();
        let wanted = ["deadline_ms", "hedge_after_ms", "hub_when.battery_min_percent", "privacy", "hub_when.tags"];
        assert_eq!(fields, wanted);
        assert!(PolicyLayer::default().mistakes().is_empty());
    }

    #[test]
    fn what_is_no_tag_is_refused() {
        let tags = |tags: &[&str]| check_tags(&tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>());
        assert!(tags(&["urgent", "A-1_b.c"]).is_ok());
        for wrong in ["", "a b", "ü", "a\n", &"x".repeat(65)] {
            assert!(tags(&[wrong]).is_err(), "{wrong:?}");
        }
        assert!(tags(&["a"; TAGS_MAX + 1]).is_err());
    }
}
