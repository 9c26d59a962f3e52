//! `models.<name>.policy` of `agent.toml`: the name of a mode, or a table with the owner's layer of a policy.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use types::PolicyMode;
use types::policy::PolicyLayer;

/// Owner's layer of a policy, as it is written in `agent.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicySetting(pub PolicyLayer);

impl PolicySetting {
    /// Returns whether nothing is set.
    #[must_use]
    pub fn is_unset(&self) -> bool {
        self.0 == PolicyLayer::default()
    }
}

impl From<PolicyMode> for PolicySetting {
    fn from(mode: PolicyMode) -> Self {
        Self(PolicyLayer::of_mode(mode))
    }
}

impl Serialize for PolicySetting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.mode {
            Some(mode) if self.0 == PolicyLayer::of_mode(mode) => mode.serialize(serializer),
            Some(_) | None => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for PolicySetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ModeOrTable)
    }
}

struct ModeOrTable;

impl<'de> Visitor<'de> for ModeOrTable {
    type Value = PolicySetting;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a mode like \"cascade\", or a table of a policy")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<PolicySetting, E> {
        text.parse::<PolicyMode>().map(PolicySetting::from).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PolicySetting, A::Error> {
        PolicyLayer::deserialize(MapAccessDeserializer::new(map)).map(PolicySetting)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use types::policy::PrivacyClass;

    use crate::config::AgentConfig;

    fn parse(text: &str) -> Result<AgentConfig, String> {
        config::parse(text, Path::new("agent.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_mode_and_a_table_are_both_a_policy() {
        let config =
            parse("[models.a]\npolicy = \"hedge\"\n[models.b.policy]\nmode = \"hedge\"\nprivacy = \"personal\"");
        let config = config.unwrap();
        let [a, b] = [&config.models[&"a".parse().unwrap()], &config.models[&"b".parse().unwrap()]];
        assert_eq!(a.policy.0.mode, b.policy.0.mode);
        assert_eq!(b.policy.0.privacy, Some(PrivacyClass::Personal));
        let again = toml::to_string(&config).unwrap();
        assert_eq!(parse(&again).unwrap(), config, "{again}");
    }

    #[test]
    fn all_mistakes_of_a_policy_are_told_at_once() {
        let text = "[models.a.policy]
            mode = \"cloud\"
            privacy = \"secret\"
            offline = \"later\"
            deadline_ms = 0
            hedge_afer_ms = 5
            [models.a.policy.hub_when]
            battery_min_percent = 101
            hours = \"8-20\"
            tags = [\"a b\"]
            [models.a.policy.budget]
            hub_calls_per_day = -1
            [models.b]
            policy = \"cloud\"
            [models.c]
            deadline = \"2s\"
            hub_bytes_max = 5
            [models.c.policy]
            deadline_ms = 5
            budget.request_bytes = 6";
        let told = parse(text).unwrap_err();
        for mistake in [
            "models.a.policy.mode",
            "models.a.policy.privacy",
            "models.a.policy.offline",
            "models.a.policy.deadline_ms",
            "models.a.policy.hedge_afer_ms",
            "hedge_after_ms",
            "models.a.policy.hub_when.battery_min_percent",
            "models.a.policy.hub_when.hours",
            "models.a.policy.hub_when.tags",
            "models.a.policy.budget.hub_calls_per_day",
            "models.b.policy",
            "models.c.deadline",
            "models.c.hub_bytes_max",
        ] {
            assert!(told.contains(mistake), "{mistake} is not in {told}");
        }
    }
}
