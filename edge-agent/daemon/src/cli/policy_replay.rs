//! `edge-agent policy replay`: predicts the effect of another policy on the requests in the log of receipts.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bundle::{MANIFEST_BYTES_MAX, Manifest, Variant};
use clap::Args;
use console::{CliError, ExitKind, OrExit};
use replay::{Entry, Event, NewPolicy, Outcome, ReadError, Replaces, Replay, Samples};
use service::clock;
use service::policy_verb::{self, Kind};
use store::files;
use types::ModelName;

use super::{Context, folder_of, log, read_config};
use crate::receipts::frame::Frame;
use crate::receipts::reader::{self, Summary};
use crate::state::{Folder, MANIFEST_FILE};

pub(super) const HELP: &str = "\
Examples:
  edge-agent policy replay new.toml --model digits --since 7d
  edge-agent policy replay /etc/sanderling/agent.toml.new
  edge-agent policy replay new.toml --folder /media/usb/receipts --json

The file has the fields of one policy (it replaces the owner's layer), is a model.toml (its [policy]
replaces the author's layer), or is an agent.toml (each model's own policy). Nothing is sent and nothing
is changed: the router of the agent decides each recorded request once more, with the times, scores,
link and battery of then. docs/policy.md says what the figures mean.";

/// Replay of the log under another policy.
#[derive(Debug, Args)]
pub struct Replaying {
    /// File with the new policy: the fields of one policy, a model.toml, or an agent.toml
    file: PathBuf,
    /// Only requests of this model
    #[arg(long)]
    model: Option<ModelName>,
    /// Only requests of this time, like 7d or 90m
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    since: Option<Duration>,
    /// Folder of the log, like a copy from another device; without it the one of the configured state folder
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

impl Replaying {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        // First of all, so that a mistake in the policy is told before anything is read.
        let policies = Policies::read(&self.file)?;
        let config = context.configuration()?;
        let folder = self.folder.clone().unwrap_or_else(|| folder_of(&config).receipts());
        let (mut samples, mut unreadable) = (Samples::default(), 0);
        let mut sampled = |entry: Result<Entry, ReadError>| match entry {
            Ok(entry) => samples.add(&entry),
            Err(_unreadable) => unreadable += 1_u64,
        };
        if let Some(problem) = self.visit(&folder, &mut sampled)?.problem {
            console::warn(&format!("the log of receipts is not whole: {}", log::safe(&problem)));
        }
        let origin = Instant::now();
        let mut replays = Vec::new();
        for model in self.models(&samples, &policies)? {
            let policy = policies.of(&model, &self.file)?;
            replays.push(Replay::new(model, policy, &mut samples, origin));
        }
        let curves = Curves::read(&folder_of(&config), replays.iter().map(Replay::model));
        let mut replayed = |entry: Result<Entry, ReadError>| {
            let Ok(mut entry) = entry else { return };
            if let Event::Request(request) = &mut entry.event {
                request.fill_chance(&|digest, score| curves.chance(digest, score));
            }
            replays.iter_mut().for_each(|replay| replay.add(&entry));
        };
        self.visit(&folder, &mut replayed)?;
        let models = replays.into_iter().map(Replay::finish).collect();
        let text = |outcome: &Outcome| {
            let text = outcome.text(&clock::utc);
            text.lines().map(log::safe).collect::<Vec<_>>().join("\n")
        };
        context.output.print(&Outcome { models, unreadable }, text).or_exit(ExitKind::Storage)
    }

    /// Shows each record of the wanted time to `visit`, and those that cannot be read.
    fn visit(&self, folder: &Path, visit: &mut dyn FnMut(Result<Entry, ReadError>)) -> Result<Summary, CliError> {
        let now_ms = clock::unix_ms();
        let since =
            self.since.map_or(0, |since| now_ms.saturating_sub(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)));
        let mut each = |frame: &Frame| {
            let entry = replay::read(&frame.payload);
            if entry.as_ref().map_or(true, |entry| entry.at_unix_ms >= since) {
                visit(entry);
            }
            ControlFlow::Continue(())
        };
        reader::read(folder, &mut each).map_err(log::unreadable)
    }

    /// Returns the models to replay: the wanted one, else those that the policies and the log have.
    fn models(&self, samples: &Samples, policies: &Policies) -> Result<Vec<ModelName>, CliError> {
        let recorded = samples.models();
        match &self.model {
            Some(model) if recorded.contains(model) => return Ok(vec![model.clone()]),
            Some(model) => {
                let known: Vec<&str> = recorded.iter().map(ModelName::as_str).collect();
                let said = format!("the log has no request of model {model} in that time");
                let hint = format!(
                    "models with requests: {}",
                    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                );
                return Err(CliError::new(ExitKind::NotFound, said).hint(hint));
            }
            None => {}
        }
        match policies {
            Policies::Agent(policies) => {
                Ok(recorded.into_iter().filter(|model| policies.contains_key(model)).collect())
            }
            Policies::One(_) if recorded.len() > 1 => {
                let names: Vec<&str> = recorded.iter().map(ModelName::as_str).collect();
                let said = format!("the log has requests of {} models", recorded.len());
                Err(CliError::new(ExitKind::Usage, said).hint(format!("name one with --model: {}", names.join(", "))))
            }
            Policies::One(_) => Ok(recorded),
        }
    }
}

/// Policies of a file.
enum Policies {
    /// One policy for any model.
    One(NewPolicy),
    /// The policies of an `agent.toml`.
    Agent(BTreeMap<ModelName, NewPolicy>),
}

impl Policies {
    fn read(file: &Path) -> Result<Self, CliError> {
        let replaces = match policy_verb::kind(file) {
            Kind::Policy => Replaces::Owner,
            Kind::Model => Replaces::Author,
            Kind::Agent => {
                let config = read_config(file)?;
                let owner = |table: &crate::config::ModelTable| NewPolicy {
                    layer: table.layer(),
                    replaces: Replaces::Owner,
                    consent: Some(table.consent),
                    device_only: Some(table.device_only),
                };
                return Ok(Self::Agent(
                    config.models.iter().map(|(name, table)| (name.clone(), owner(table))).collect(),
                ));
            }
        };
        let layer = policy_verb::read(file)?;
        Ok(Self::One(NewPolicy { layer, replaces, consent: None, device_only: None }))
    }

    fn of(&self, model: &ModelName, file: &Path) -> Result<NewPolicy, CliError> {
        match self {
            Self::One(policy) => Ok(policy.clone()),
            Self::Agent(policies) => policies.get(model).cloned().ok_or_else(|| {
                let said = format!("{} has no [models.{model}]", file.display());
                CliError::new(ExitKind::NotFound, said).hint("add that table, or name another model with --model")
            }),
        }
    }
}

/// Calibration curves of the installed versions, for records of agents that did not record what they say.
struct Curves(BTreeMap<String, Variant>);

impl Curves {
    fn read<'a>(folder: &Folder, models: impl Iterator<Item = &'a ModelName>) -> Self {
        let manifest = |model: &ModelName, version| {
            let file = folder.version(model, version).join(MANIFEST_FILE);
            let most = u64::try_from(MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
            Manifest::parse(&files::read_bounded(&file, most).ok()?).ok()
        };
        let variants = models
            .flat_map(|model| {
                folder.versions(model).into_iter().filter_map(|version| manifest(model, version)).collect::<Vec<_>>()
            })
            .flat_map(|manifest| manifest.variants);
        Self(variants.map(|variant| (variant.file.digest.to_string(), variant)).collect())
    }

    fn chance(&self, digest: &str, score: f32) -> Option<f32> {
        self.0.get(digest)?.chance_of_difference(score)
    }
}
