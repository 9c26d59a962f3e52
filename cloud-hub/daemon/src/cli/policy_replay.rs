//! `cloud-hub policy replay`: predicts the effect of a policy on the requests that devices recorded and exported.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use console::{CliError, ExitKind, OrExit, Output};
use replay::{Entry, NewPolicy, Outcome, ReadError, Replaces, Replay, Samples};
use serde::de::IntoDeserializer as _;
use service::clock;
use service::policy_verb::{self, Kind};
use types::ModelName;

/// Maximum length of one line of an export in bytes; longer ones are counted as unreadable.
const LINE_BYTES_MAX: u64 = 256 * 1024;

pub(super) const HELP: &str = "\
Examples:
  edge-agent log export --since 7d > kitchen.jsonl      # on each device
  cloud-hub policy replay new.toml --model digits --since 7d --log kitchen.jsonl --log garden.jsonl

Devices do not send their log to the hub: the verb reads exported logs, one file for each device. The
policy file has the fields of one policy (it replaces the owner's layer), or is a model.toml (its
[policy] replaces the author's layer).";

#[derive(Debug, Args)]
pub(super) struct Replaying {
    /// File with the new policy: the fields of one policy, or a model.toml.
    file: PathBuf,
    /// Model whose requests are replayed.
    #[arg(long)]
    model: ModelName,
    /// Log of one device, as `edge-agent log export` wrote it; once for each device.
    #[arg(long, value_name = "FILE", required = true)]
    log: Vec<PathBuf>,
    /// Only requests of this time, like 7d or 90m.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    since: Option<Duration>,
    /// Print JSON for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(verb: &Replaying) -> Result<(), CliError> {
    let replaces = if policy_verb::kind(&verb.file) == Kind::Model { Replaces::Author } else { Replaces::Owner };
    let policy = NewPolicy { layer: policy_verb::read(&verb.file)?, replaces, consent: None, device_only: None };
    let since = verb
        .since
        .map_or(0, |since| clock::unix_ms().saturating_sub(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)));
    let (mut samples, mut unreadable, mut is_read) = (Samples::default(), 0_u64, false);
    for log in &verb.log {
        visit(log, &mut |entry| match entry {
            Ok(entry) => {
                is_read = true;
                if entry.at_unix_ms >= since {
                    samples.add(&entry);
                }
            }
            Err(_unreadable) => unreadable = unreadable.saturating_add(1),
        })?;
    }
    if unreadable > 0 && !is_read {
        let said = "the files have no record of a log of receipts";
        return Err(CliError::new(ExitKind::Config, said).hint("write them with: edge-agent log export > FILE"));
    }
    if !samples.models().contains(&verb.model) {
        let said = format!("the logs have no request of model {} in that time", verb.model);
        let names: Vec<String> = samples.models().iter().map(ToString::to_string).collect();
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(CliError::new(ExitKind::NotFound, said).hint(format!("models with requests: {known}")));
    }
    let mut replay = Replay::new(verb.model.clone(), policy, &mut samples, Instant::now());
    for log in &verb.log {
        replay.begin_log();
        visit(log, &mut |entry| {
            if let Ok(entry) = entry
                && entry.at_unix_ms >= since
            {
                replay.add(&entry);
            }
        })?;
    }
    let outcome = Outcome { models: vec![replay.finish()], unreadable };
    let text = |outcome: &Outcome| {
        let lines = outcome.text(&clock::utc);
        lines.lines().map(|line| telemetry::escape_control(line).into_owned()).collect::<Vec<_>>().join("\n")
    };
    Output::from_json_flag(verb.json).print(&outcome, text).or_exit(ExitKind::Storage)
}

/// Shows each record of an exported log to `visit`, and those that cannot be read.
fn visit(path: &Path, visit: &mut dyn FnMut(Result<Entry, ReadError>)) -> Result<(), CliError> {
    let failed = |error: std::io::Error| {
        let kind = if error.kind() == std::io::ErrorKind::NotFound { ExitKind::NotFound } else { ExitKind::Storage };
        CliError::new(kind, format!("read {}: {error}", path.display()))
    };
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(failed)?;
        if read == 0 {
            return Ok(());
        }
        let is_whole = line.ends_with(b"\n") || u64::try_from(read).unwrap_or(u64::MAX) < LINE_BYTES_MAX;
        if !is_whole {
            reader.skip_until(b'\n').map_err(failed)?;
        }
        if !line.trim_ascii().is_empty() {
            visit(replay::read_export(&line));
        }
    }
}

/// Parses a duration as config files write it, like `7d`.
fn duration(text: &str) -> Result<Duration, String> {
    let read: Result<Duration, serde::de::value::Error> = config::duration::deserialize(text.into_deserializer());
    read.map_err(|_unreadable| format!("{text:?} is not a time: write it like 90m, 24h or 7d"))
}
