//! Section `[models.<name>]` of `agent.toml`: a model that the device follows, and the owner's layer of its policy.

use std::time::Duration;

use config::Mistakes;
use serde::{Deserialize, Serialize};
use types::policy::{PolicyLayer, Privacy, PrivacyClass, RequestRules};
use types::{EngineName, Policy, PolicyMode, VariantName};

use super::{PolicySetting, Share, not_an_engine};
use crate::drift::OnDrift;
use crate::thresholds::OnRefit;

/// Section `[models.<name>]` of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelTable {
    /// Mode of requests that name none, or a table with the owner's layer of the policy. Default: that of the model's author,
    /// else `cascade`.
    #[serde(skip_serializing_if = "PolicySetting::is_unset")]
    pub policy: PolicySetting,
    /// Whether the persons whom the inputs are about consent to their use by the hub, where a request says nothing. Default
    /// false.
    pub consent: bool,
    /// Maximum wait for an answer where the request brings no deadline. Default none.
    #[serde(with = "config::option_duration", skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
    /// Time after which a request with the policy `hedge` also goes to the hub. Default `200ms`.
    #[serde(with = "config::option_duration", skip_serializing_if = "Option::is_none")]
    pub hedge_after: Option<Duration>,
    /// Maximum bytes of input that are sent to the hub; a larger input stays on the device. Default no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hub_bytes_max: Option<u64>,
    /// Whether inputs never leave the device, whatever policy a request names. Default false.
    pub device_only: bool,
    /// The variant of each version to take, by its name in the manifest. Default: as measured (`updates.measure_variants`), else
    /// the first one made for devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<VariantName>,
    /// Maximum share of the kept answers that are also sent to the hub, to be compared. Default `updates.audit_share_max`.
    ///
    /// Only where the policy lets the input leave the device, and only as much as the hub asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_share_max: Option<Share>,
    /// Whether the answer to an input is given again when the same input comes again, within the limits of `[cache]`. Default
    /// false. Never for inputs of the classes `personal` and `never-leaves`.
    pub cache: bool,
    /// Reaction of `cascade` when the scores leave the distribution of the calibration: `answer` or `defer`. Default `answer`.
    pub on_drift: OnDrift,
    /// Reaction to a threshold that the hub has refitted because audits broke the promise of the author's: `accept` or `ignore`.
    /// Default `accept`; the hub only makes it stricter than the author's.
    pub on_refit: OnRefit,
    /// The engine to prefer for this model; those of `engine.engines` stand by behind it. Default: their order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineName>,
}

impl ModelTable {
    /// Returns the owner's layer of the policy, with the short forms of this table in it.
    #[must_use]
    pub fn layer(&self) -> PolicyLayer {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let mut layer = self.policy.0.clone();
        // A deadline is more than zero, and one below a millisecond is no shorter.
        layer.deadline_ms = layer.deadline_ms.or(self.deadline.map(|time| ms(time).max(1)));
        layer.hedge_after_ms = layer.hedge_after_ms.or(self.hedge_after.map(ms));
        layer.budget.request_bytes = layer.budget.request_bytes.or(self.hub_bytes_max);
        layer.audit_share_max = layer.audit_share_max.or(self.audit_share_max);
        layer
    }

    /// Returns the policy of a request; `layer` is [`ModelTable::layer`] of this table.
    #[must_use]
    pub fn resolve(
        &self,
        author: Option<&PolicyLayer>,
        layer: &PolicyLayer,
        mode: Option<PolicyMode>,
        rules: &RequestRules,
    ) -> Policy {
        let policy = Policy::resolve(author, layer, self.consent, mode, rules);
        if self.device_only {
            return Policy { privacy: Privacy::DeviceOnly, class: PrivacyClass::NeverLeaves, ..policy };
        }
        policy
    }

    pub(super) fn validate(&self, path: &str, mistakes: &mut Mistakes) {
        let layer = &self.policy.0;
        for (field, problem) in layer.mistakes() {
            mistakes.add(format!("{path}.policy.{field}"), problem);
        }
        if self.deadline.is_some_and(|deadline| deadline.is_zero()) {
            mistakes.add(format!("{path}.deadline"), "use more than zero");
        }
        if self.device_only && layer.mode == Some(PolicyMode::OnlyHub) {
            mistakes.add(format!("{path}.device_only"), "no place may answer with policy \"only-hub\"");
        }
        for (short, is_twice, field) in [
            ("deadline", self.deadline.is_some() && layer.deadline_ms.is_some(), "deadline_ms"),
            ("hedge_after", self.hedge_after.is_some() && layer.hedge_after_ms.is_some(), "hedge_after_ms"),
            (
                "hub_bytes_max",
                self.hub_bytes_max.is_some() && layer.budget.request_bytes.is_some(),
                "budget.request_bytes",
            ),
            ("audit_share_max", self.audit_share_max.is_some() && layer.audit_share_max.is_some(), "audit_share_max"),
        ] {
            if is_twice {
                mistakes.add(format!("{path}.{short}"), format!("is set twice: remove it, or {path}.policy.{field}"));
            }
        }
        if let Some(problem) = self.engine.and_then(not_an_engine) {
            mistakes.add(format!("{path}.engine"), problem);
        }
    }
}
