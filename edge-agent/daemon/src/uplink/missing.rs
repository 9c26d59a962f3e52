//! Finds the models that this device follows and the hub does not have, and says so: a wrong name in `agent.toml` would
//! otherwise look like an update that is on its way.
//!
//! Fed by [`super::task`] after each greeting. The list of signed manifests names every model of the hub, so no question
//! of its own is needed, and an older hub is understood too.

use std::sync::Arc;

use types::ModelName;

use super::Link;
use crate::models::Models;
use crate::status::SharedStatus;
use crate::trust::DeviceTrust;

/// Parts that the search uses.
#[derive(Debug, Clone)]
pub(super) struct Search {
    pub(super) trust: Option<Arc<DeviceTrust>>,
    pub(super) link: Link,
    pub(super) models: Arc<Models>,
    pub(super) shared_status: Arc<SharedStatus>,
}

impl Search {
    /// Looks for each followed model that the greeting offered no version of.
    pub(super) async fn run(self, offered: Vec<ModelName>) {
        let followed = self.models.iter().map(|model| model.name.clone());
        let unsure: Vec<ModelName> = followed.filter(|name| !offered.contains(name)).collect();
        let Some(trust) = self.trust.as_ref().filter(|_| !unsure.is_empty()) else { return };
        let trusted = match trust.refresh(&self.link).await {
            Ok(trusted) => trusted,
            Err(error) => {
                tracing::debug!(error = telemetry::chain(&error), "the hub's list of models was not read");
                return;
            }
        };
        let known: Vec<&str> = trusted.models().map(ModelName::as_str).collect();
        for name in &unsure {
            let is_serving = self.models.iter().any(|model| model.name == *name && model.serving().is_some());
            let problem = problem(name, &known, is_serving);
            if let Some(problem) = &problem {
                tracing::warn!(model = %name, problem, "a followed model does not come");
            }
            self.shared_status.updater(name, |part| part.hub_problem = problem);
        }
    }
}

/// Returns the reason that no version of a model comes from the hub, and what to do; `None` when one serves or may come.
fn problem(name: &ModelName, known: &[&str], is_serving: bool) -> Option<String> {
    if known.contains(&name.as_str()) {
        return (!is_serving).then(|| {
            format!(
                "the hub has versions of {name} and offers none: offer one with `cloud-hub model offer {name} VERSION`"
            )
        });
    }
    let advice = match (config::nearest(name.as_str(), known.iter().copied()), known) {
        (Some(meant), _) => format!("did you mean {meant}? Correct the name in agent.toml"),
        (None, []) => "it has no models yet: publish one with `cloud-hub model push`".to_owned(),
        (None, known) => format!("it has {}", known.join(", ")),
    };
    Some(format!("the hub has no model {name}: {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_the_hub_does_not_have_is_named_with_the_one_that_was_meant() {
        let name: ModelName = "vowles".parse().unwrap();
        let said = |known: &[&str], is_serving| problem(&name, known, is_serving);
        let meant = said(&["digits", "vowels"], false).unwrap();
        assert!(meant.contains("no model vowles") && meant.contains("did you mean vowels?"), "{meant}");
        assert!(said(&["digits", "speech"], true).unwrap().contains("it has digits, speech"));
        assert!(said(&[], false).unwrap().contains("no models yet"));
        assert!(said(&["vowles"], false).unwrap().contains("cloud-hub model offer vowles"));
        assert_eq!(said(&["vowles"], true), None);
    }
}
