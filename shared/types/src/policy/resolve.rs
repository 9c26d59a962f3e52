//! One policy out of its three layers.

use std::time::Duration;

use super::{Budget, BudgetLimits, Conditions, Offline, Policy, PolicyLayer, PolicyMode, Privacy, PrivacyClass};
use crate::Reason;
use crate::amend::{Amend, QueuePriority};
use crate::share::Share;

/// Layer of the application: the rules of one request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestRules {
    /// Time after which the request also goes to the hub where its mode is `hedge`.
    pub hedge_after: Option<Duration>,
    /// Privacy class of the input; the stricter one of this and the other layers holds.
    pub privacy: Option<PrivacyClass>,
    /// Whether the person whom the input is about consents to its use by the hub; `None` leaves it to the owner.
    pub consent: Option<bool>,
    /// Tags of the request, for conditions of the other layers.
    pub tags: Vec<String>,
    /// Behaviour while the hub cannot be reached.
    pub offline: Option<Offline>,
    /// Delivery of the hub's later answer, where the application wants the device's own at once.
    pub amend: Option<Amend>,
    /// Priority of the request if it waits for the hub.
    pub queue_priority: QueuePriority,
}

impl Policy {
    /// Returns the policy of one request. `mode` is the request's own; `has_consent` is the owner's standing consent.
    ///
    /// Mode, times and offline behaviour are those of the last layer that sets them. Privacy, conditions, budgets and the
    /// audit share are the strictest of all layers.
    #[must_use]
    pub fn resolve(
        author: Option<&PolicyLayer>,
        owner: &PolicyLayer,
        has_consent: bool,
        mode: Option<PolicyMode>,
        rules: &RequestRules,
    ) -> Self {
        let layers = || [Some(owner), author].into_iter().flatten();
        let mode = mode.or_else(|| layers().find_map(|layer| layer.mode)).unwrap_or_default();
        let preset = Self::from(mode);
        let class = layers().filter_map(|layer| layer.privacy).chain(rules.privacy).max().unwrap_or_default();
        let deadline = layers().find_map(|layer| layer.deadline_ms).map(Duration::from_millis);
        let hedge_after = layers().find_map(|layer| layer.hedge_after_ms).map(Duration::from_millis);
        let hedge_after = rules.hedge_after.or(hedge_after);
        let needs_consent = class == PrivacyClass::Personal || layers().any(|layer| layer.hub_when.consent);
        let withheld = if class == PrivacyClass::NeverLeaves {
            Some(Reason::NeverLeaves)
        } else if needs_consent && !rules.consent.unwrap_or(has_consent) {
            Some(Reason::NoConsent)
        } else if layers().any(|layer| !has_a_tag(&layer.hub_when.tags, &rules.tags)) {
            Some(Reason::NoTag)
        } else {
            None
        };
        let is_private = preset.privacy == Privacy::DeviceOnly || class == PrivacyClass::NeverLeaves;
        Self {
            mode,
            deadline,
            hedge: preset.hedge.map(|default| hedge_after.unwrap_or(default)),
            is_hedge_fixed: hedge_after.is_some(),
            budget: budget(author.map(|layer| &layer.budget), &owner.budget),
            privacy: if is_private { Privacy::DeviceOnly } else { Privacy::Shared },
            class,
            withheld,
            conditions: Conditions {
                is_unmetered: layers().any(|layer| layer.hub_when.unmetered),
                battery_min_percent: layers().filter_map(|layer| layer.hub_when.battery_min_percent).max(),
                hours: [author.and_then(|layer| layer.hub_when.hours), owner.hub_when.hours],
            },
            offline: rules.offline.or_else(|| layers().find_map(|layer| layer.offline)).unwrap_or_default(),
            amends: rules.amend.is_some(),
            audit_share_max: least(author.and_then(|layer| layer.audit_share_max), owner.audit_share_max),
        }
    }

    /// Returns the maximum share of the kept answers that are audited, where `common` is that of all models.
    #[must_use]
    pub fn audit_share(&self, common: Share) -> Share {
        self.audit_share_max.unwrap_or(common)
    }
}

fn has_a_tag(wanted: &[String], tags: &[String]) -> bool {
    wanted.is_empty() || wanted.iter().any(|tag| tags.contains(tag))
}

fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    [one, other].into_iter().flatten().min()
}

fn budget(author: Option<&BudgetLimits>, owner: &BudgetLimits) -> Budget {
    let of = |field: fn(&BudgetLimits) -> Option<u64>| least(author.and_then(field), field(owner));
    Budget {
        hub_bytes: of(|limits| limits.request_bytes),
        metered_bytes_per_day: of(|limits| limits.metered_bytes_per_day),
        unmetered_bytes_per_day: of(|limits| limits.unmetered_bytes_per_day),
        hub_calls_per_day: of(|limits| limits.hub_calls_per_day),
        escalations_per_minute: of(|limits| limits.escalations_per_minute),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::HubConditions;

    const MODES: [Option<PolicyMode>; 4] =
        [None, Some(PolicyMode::OnlyHub), Some(PolicyMode::Cascade), Some(PolicyMode::Hedge)];

    fn class(privacy: Option<PrivacyClass>) -> PolicyLayer {
        PolicyLayer { privacy, ..PolicyLayer::default() }
    }

    #[test]
    fn privacy_only_ever_tightens_whatever_layer_says_it() {
        let classes = || [None].into_iter().chain(PrivacyClass::ALL.map(Some));
        for (author, owner) in classes().flat_map(|author| classes().map(move |owner| (author, owner))) {
            for (request, consent) in classes().flat_map(|one| [None, Some(false), Some(true)].map(|two| (one, two))) {
                for (mode, standing) in MODES.into_iter().flat_map(|mode| [(mode, false), (mode, true)]) {
                    let rules = RequestRules { privacy: request, consent, ..RequestRules::default() };
                    let policy = Policy::resolve(Some(&class(author)), &class(owner), standing, mode, &rules);
                    let strictest = [author, owner, request].into_iter().flatten().max().unwrap_or_default();
                    let allowed = match strictest {
                        PrivacyClass::Public => true,
                        PrivacyClass::Personal => consent.unwrap_or(standing),
                        PrivacyClass::NeverLeaves => false,
                    };
                    assert_eq!(policy.may_send(1), allowed, "{author:?} {owner:?} {request:?} {consent:?} {mode:?}");
                }
            }
        }
    }

    #[test]
    fn the_later_layer_decides_the_way_and_the_stricter_one_the_cost() {
        let author = PolicyLayer {
            mode: Some(PolicyMode::PreferHub),
            deadline_ms: Some(100),
            budget: BudgetLimits { hub_calls_per_day: Some(5), request_bytes: Some(10), ..BudgetLimits::default() },
            hub_when: HubConditions { unmetered: true, battery_min_percent: Some(20), ..HubConditions::default() },
            audit_share_max: Share::of(0.01),
            ..PolicyLayer::default()
        };
        let owner = PolicyLayer {
            mode: Some(PolicyMode::Cascade),
            budget: BudgetLimits { hub_calls_per_day: Some(7), request_bytes: Some(3), ..BudgetLimits::default() },
            hub_when: HubConditions { battery_min_percent: Some(10), ..HubConditions::default() },
            offline: Some(Offline::Fail),
            ..PolicyLayer::default()
        };
        let policy = Policy::resolve(Some(&author), &owner, false, None, &RequestRules::default());
        assert_eq!((policy.mode, policy.deadline), (PolicyMode::Cascade, Some(Duration::from_millis(100))));
        assert_eq!((policy.budget.hub_calls_per_day, policy.budget.hub_bytes), (Some(5), Some(3)));
        assert!(policy.conditions.is_unmetered && policy.conditions.battery_min_percent == Some(20));
        assert_eq!((policy.offline, policy.audit_share_max), (Offline::Fail, Share::of(0.01)));
        let rules = RequestRules { offline: Some(Offline::Answer), ..RequestRules::default() };
        let asked = Policy::resolve(Some(&author), &owner, false, Some(PolicyMode::OnlyDevice), &rules);
        assert_eq!((asked.mode, asked.offline), (PolicyMode::OnlyDevice, Offline::Answer));
    }

    #[test]
    fn a_request_needs_a_tag_of_each_layer_that_wants_one() {
        let tagged = |tags: &[&str]| PolicyLayer {
            hub_when: HubConditions {
                tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
                ..HubConditions::default()
            },
            ..PolicyLayer::default()
        };
        let may_send = |tags: &[&str]| {
            let rules =
                RequestRules { tags: tags.iter().map(|tag| (*tag).to_owned()).collect(), ..RequestRules::default() };
            Policy::resolve(Some(&tagged(&["a", "b"])), &tagged(&["c"]), false, None, &rules).may_send(1)
        };
        assert!(may_send(&["b", "c"]) && !may_send(&["a", "b"]) && !may_send(&["c"]) && !may_send(&[]));
    }

    #[test]
    fn nothing_configured_is_the_preset_of_the_mode() {
        for mode in PolicyMode::ALL {
            let policy = Policy::resolve(None, &PolicyLayer::default(), false, Some(mode), &RequestRules::default());
            assert_eq!(policy, Policy::from(mode));
        }
    }
}
