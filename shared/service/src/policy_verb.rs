//! The verb `policy check` of both programs: every mistake of a policy at once, or what the policy says.

use std::path::Path;

use config::{LoadError, Mistakes, Validate};
use console::{CliError, ExitKind, OrExit, Output};
use serde::{Deserialize, Deserializer, Serialize};
use types::policy::{Offline, PolicyLayer, PrivacyClass};

/// A file with the fields of one policy.
#[derive(Debug, Deserialize, Serialize)]
#[serde(transparent)]
struct PolicyFile(PolicyLayer);

/// `model.toml`, of which only the policy is read here.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ModelFile {
    policy: PolicyLayer,
    #[serde(rename = "schema")]
    _schema: Skipped,
    #[serde(rename = "model")]
    _model: Skipped,
    #[serde(rename = "version")]
    _version: Skipped,
    #[serde(rename = "task")]
    _task: Skipped,
    #[serde(rename = "description")]
    _description: Skipped,
    #[serde(rename = "licence")]
    _licence: Skipped,
    #[serde(rename = "labels")]
    _labels: Skipped,
    #[serde(rename = "input")]
    _inputs: Skipped,
    #[serde(rename = "output")]
    _outputs: Skipped,
    #[serde(rename = "score")]
    _score: Skipped,
    #[serde(rename = "variant")]
    _variants: Skipped,
}

/// Value of any kind that is not looked at.
#[derive(Debug, Default)]
struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        toml::Value::deserialize(deserializer).map(|_value| Self)
    }
}

impl Validate for PolicyFile {
    fn validate(&self, mistakes: &mut Mistakes) {
        add(&self.0, "", mistakes);
    }
}

impl Validate for ModelFile {
    fn validate(&self, mistakes: &mut Mistakes) {
        add(&self.policy, "policy.", mistakes);
    }
}

fn add(layer: &PolicyLayer, prefix: &str, mistakes: &mut Mistakes) {
    for (field, problem) in layer.mistakes() {
        mistakes.add(format!("{prefix}{field}"), problem);
    }
}

/// Kinds of files that hold policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The fields of one policy.
    Policy,
    /// `model.toml`, or any file with a table `[policy]`.
    Model,
    /// `agent.toml`, with a policy for each model.
    Agent,
}

/// Returns the kind of a file by its tables. A file that is not TOML counts as one of a policy, whose reader tells why.
#[must_use]
pub fn kind(file: &Path) -> Kind {
    let text = std::fs::metadata(file)
        .ok()
        .filter(|found| found.len() <= config::CONFIG_BYTES_MAX)
        .and_then(|_found| std::fs::read_to_string(file).ok())
        .unwrap_or_default();
    let table: toml::Table = text.parse().unwrap_or_default();
    let has = |names: &[&str]| names.iter().any(|name| table.contains_key(*name));
    if has(&["models", "agent", "hub"]) {
        Kind::Agent
    } else if has(&["policy", "model", "schema"]) {
        Kind::Model
    } else {
        Kind::Policy
    }
}

/// Checks the policy of a file of the kinds [`Kind::Policy`] and [`Kind::Model`], and prints what it says.
///
/// # Errors
/// Fails with every mistake of the policy, or when the file cannot be read.
pub fn check(file: &Path, output: Output) -> Result<(), CliError> {
    let layer = read(file)?;
    let text = |layer: &PolicyLayer| format!("{} is right\n{}", file.display(), words(layer).join("\n"));
    output.print(&layer, text).or_exit(ExitKind::Storage)
}

/// Reads the policy of a file of the kinds [`Kind::Policy`] and [`Kind::Model`].
///
/// # Errors
/// Fails with every mistake of the policy, or when the file cannot be read.
pub fn read(file: &Path) -> Result<PolicyLayer, CliError> {
    let layer = match kind(file) {
        Kind::Policy => config::load::<PolicyFile>(file).map(|read| read.0),
        Kind::Model => config::load::<ModelFile>(file).map(|read| read.policy),
        Kind::Agent => {
            let said = format!("{} is a config file of an agent", file.display());
            let hint = "check it on the device: edge-agent policy check FILE";
            return Err(CliError::new(ExitKind::Usage, said).hint(hint));
        }
    };
    layer.map_err(explain)
}

fn explain(error: LoadError) -> CliError {
    CliError::new(ExitKind::Config, error).hint("docs/policy.md has every field with its unit and range")
}

/// Returns what a layer says, a sentence for each field.
#[must_use]
pub fn words(layer: &PolicyLayer) -> Vec<String> {
    let when = &layer.hub_when;
    let budget = &layer.budget;
    let limit = |limit: Option<u64>, what: &str| limit.map(|limit| format!("at most {limit} {what}"));
    let said = [
        layer.mode.map(|mode| format!("mode of requests that name none: {mode}")),
        layer.deadline_ms.map(|ms| format!("an answer is expected within {ms} ms, unless a request says more")),
        layer.hedge_after_ms.map(|ms| format!("a hedged request also goes to the hub after {ms} ms")),
        layer.privacy.map(|class| match class {
            PrivacyClass::Public => "inputs may go to the hub".to_owned(),
            PrivacyClass::Personal => "inputs go to the hub only with consent".to_owned(),
            PrivacyClass::NeverLeaves => "inputs never go to the hub, neither for answers nor for audits".to_owned(),
        }),
        when.consent.then(|| "inputs go to the hub only with consent".to_owned()),
        when.unmetered.then(|| "inputs go to the hub only over a link that is not metered".to_owned()),
        when.battery_min_percent
            .map(|percent| format!("inputs go to the hub only on mains power or from {percent} % of the battery on")),
        when.hours.map(|hours| format!("inputs go to the hub only from {hours}, by the device's local time")),
        (!when.tags.is_empty())
            .then(|| format!("inputs go to the hub only with one of the tags {}", when.tags.join(", "))),
        limit(budget.request_bytes, "bytes of one input go to the hub"),
        limit(budget.metered_bytes_per_day, "bytes a day go to the hub over a metered link"),
        limit(budget.unmetered_bytes_per_day, "bytes a day go to the hub over a link that is not metered"),
        limit(budget.hub_calls_per_day, "requests a day go to the hub"),
        limit(budget.escalations_per_minute, "requests a minute go to the hub because the device is not sure"),
        layer
            .audit_share_max
            .map(|share| format!("at most {} % of the kept answers are audited", share.as_f64() * 100.0)),
        layer.offline.map(|offline| match offline {
            Offline::Answer => "without the hub, the device's answer is given, also if it is not sure".to_owned(),
            Offline::Queue => {
                "without the hub, a request waits for it, and the device's answer is given meanwhile".to_owned()
            }
            Offline::Fail => "without the hub, a request fails if the policy wants the hub's answer".to_owned(),
        }),
    ];
    let said: Vec<String> = said.into_iter().flatten().map(|sentence| format!("  {sentence}")).collect();
    if said.is_empty() { vec!["  no field is set: the other layers decide".to_owned()] } else { said }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Result<Vec<String>, String> {
        let path = Path::new("p.toml");
        let table: toml::Table = text.parse().unwrap();
        let layer = if table.contains_key("policy") {
            config::parse::<ModelFile>(text, path).map(|read| read.policy)
        } else {
            config::parse::<PolicyFile>(text, path).map(|read| read.0)
        };
        layer.map(|layer| words(&layer)).map_err(|error| error.to_string())
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_their_lines() {
        let text =
            "mode = \"cloud\"\ndeadline_ms = 0\nprivat = 1\n[hub_when]\nhours = \"8-9\"\nbattery_min_percent = 0";
        let said = told(text).unwrap_err();
        for mistake in
            ["mode (line 1)", "deadline_ms (line 2)", "privat (line 3)", "hub_when.hours (line 5)", "(line 6)"]
        {
            assert!(said.contains(mistake), "{mistake} is not in {said}");
        }
        let said = told("model = \"digits\"\nlables = []\n[policy]\noffline = \"later\"\n[[input]]\nname = \"x\"")
            .unwrap_err();
        for mistake in ["policy.offline (line 4)", "lables"] {
            assert!(said.contains(mistake), "{mistake} is not in {said}");
        }
    }

    #[test]
    fn each_field_is_said_in_words() {
        let text = "mode = \"hedge\"\ndeadline_ms = 5\nhedge_after_ms = 6\nprivacy = \"personal\"\noffline = \"fail\"
            audit_share_max = 0.01\n[hub_when]\nconsent = true\nunmetered = true\nbattery_min_percent = 20
            hours = \"08:00-20:00\"\ntags = [\"a\"]\n[budget]\nrequest_bytes = 1\nmetered_bytes_per_day = 2
            unmetered_bytes_per_day = 3\nhub_calls_per_day = 4\nescalations_per_minute = 5";
        assert_eq!(told(text).unwrap().len(), 16);
        assert_eq!(told("").unwrap(), ["  no field is set: the other layers decide"]);
    }
}
