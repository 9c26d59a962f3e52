//! `edge-agent policy check`: every mistake of a policy file, of `model.toml` or of `agent.toml`.

use std::path::Path;

use console::{CliError, ExitKind, OrExit};
use service::policy_verb::{self, Kind};

use super::Context;
use crate::config::AgentConfig;

/// Checks a file with a policy and prints what it says.
pub(super) fn check(file: &Path, context: &Context) -> Result<(), CliError> {
    if policy_verb::kind(file) != Kind::Agent {
        return policy_verb::check(file, context.output);
    }
    let config = super::read_config(file)?;
    let policies: std::collections::BTreeMap<_, _> =
        config.models.iter().map(|(name, table)| (name, table.layer())).collect();
    let text = |_policies: &_| format!("{} is right{}", file.display(), words(&config));
    context.output.print(&policies, text).or_exit(ExitKind::Storage)
}

/// Returns what the owner's policy of each model says.
fn words(config: &AgentConfig) -> String {
    let of_model = |(name, table): (&types::ModelName, &crate::config::ModelTable)| {
        let mut said = policy_verb::words(&table.layer());
        if table.device_only {
            said.push("  inputs never go to the hub (device_only)".to_owned());
        }
        if table.consent {
            said.push("  there is consent, unless a request says otherwise".to_owned());
        }
        format!("\n{name}:\n{}", said.join("\n"))
    };
    config.models.iter().map(of_model).collect()
}
