//! `edge-agent log`: checks, shows and exports the log of receipts, of a running agent or a copy.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use console::{CliError, ExitKind, OrExit};
use serde::Serialize;
use serde_json::value::RawValue;
use service::clock;
use types::{Digest, ModelName};

use super::{Context, folder_of};
use crate::receipts::frame::Frame;
use crate::receipts::reader::{self, ReadError, Summary};
use crate::records::v1::{EndRecord, LogEvent, LogRecord, RequestRecord};

/// Checks, shows or exports the log of receipts
#[derive(Debug, Args)]
pub struct LogVerb {
    /// Folder of the log, like a copy from another device; without it the one of the configured state folder
    #[arg(long, global = true, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

/// Uses of the log.
#[derive(Debug, Subcommand)]
enum Action {
    /// Checks that no record was changed or removed since it was written
    #[command(after_help = "\
Examples:
  edge-agent log verify
  edge-agent log verify --folder /media/usb/receipts

Each record has the hash of the one before, so that a changed or missing record is found: the first
such place is named, with exit code 5. Anyone who can rewrite the whole folder can make another
consistent log: compare the newest hash, which this prints, with one kept elsewhere.")]
    Verify,
    /// Shows what left the device, by privacy class, and the newest records
    #[command(
        after_help = "Examples:\n  edge-agent log show --since 7d\n  edge-agent log show --model digits --limit 100"
    )]
    Show {
        #[command(flatten)]
        which: Which,
        /// Maximum number of records, newest last
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=100_000))]
        limit: u32,
    },
    /// Writes all records as JSON, one a line, with number and hash
    #[command(
        after_help = "Example: edge-agent log export --since 30d | jq 'select(.record.event.request.hub_bytes > 0)'"
    )]
    Export {
        #[command(flatten)]
        which: Which,
    },
}

/// Selection of records by time and model.
#[derive(Debug, Args)]
struct Which {
    /// Only records of this time, like 7d or 90m
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    since: Option<Duration>,
    /// Only requests and audits of this model
    #[arg(long)]
    model: Option<ModelName>,
}

impl Which {
    fn has(&self, record: &LogRecord, now_ms: u64) -> bool {
        let since =
            self.since.map_or(0, |since| now_ms.saturating_sub(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)));
        let model = match &record.event {
            LogEvent::Request(request) => Some(&request.model),
            LogEvent::Audit(audit) => Some(&audit.model),
            LogEvent::Amendment(amendment) => Some(&amendment.model),
            LogEvent::Started(_) | LogEvent::Stopped => None,
        };
        record.at_unix_ms >= since && self.model.as_ref().is_none_or(|wanted| model == Some(wanted))
    }
}

impl LogVerb {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        let folder = folder(self.folder, context)?;
        match self.action {
            Action::Verify => verify(&folder, context),
            Action::Show { which, limit } => show(&folder, &which, limit, context),
            Action::Export { which } => export(&folder, &which),
        }
    }
}

/// Returns the named folder of a log, or that of the configured state folder.
pub(super) fn folder(named: Option<PathBuf>, context: &Context) -> Result<PathBuf, CliError> {
    match named {
        Some(folder) => Ok(folder),
        None => Ok(folder_of(&context.configuration()?).receipts()),
    }
}

/// Explains an error of reading a log.
pub(super) fn unreadable(error: ReadError) -> CliError {
    match &error {
        ReadError::NoLog(_) => CliError::new(ExitKind::Unavailable, error).hint(
            "name the folder with --folder, or that of the agent with --state-dir; the agent records receipts where \
             receipts.enabled is true",
        ),
        ReadError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            CliError::new(ExitKind::Refused, error).hint("run this as the user of the agent, or with sudo")
        }
        ReadError::Io { .. } => CliError::new(ExitKind::Storage, error),
    }
}

/// Parses the record of a frame; `None` for one that only a later version can read.
pub(super) fn parse(frame: &Frame) -> Option<LogRecord> {
    serde_json::from_slice(&frame.payload).ok()
}

/// Escapes text of a log that another hand may have written.
pub(super) fn safe(text: &str) -> String {
    telemetry::escape_control(text).into_owned()
}

/// Returns the error for a log that is not whole.
fn broken(summary: &Summary) -> Result<(), CliError> {
    match &summary.problem {
        None => Ok(()),
        Some(problem) => {
            Err(CliError::new(ExitKind::Refused, format!("the log of receipts is not whole: {}", safe(problem)))
                .hint("find out who could write to the folder of the log; compare the log with a copy"))
        }
    }
}

/// Result of `log verify`.
#[derive(Debug, Serialize)]
struct Verification {
    summary: Summary,
    /// Number of records that were lost because the disk was full or slow, as later records count them.
    lost: u64,
    /// Number of starts of the agent that no stop came before.
    kills: u64,
    /// Damage that the agent found at its starts.
    damage: Vec<String>,
}

fn verify(folder: &Path, context: &Context) -> Result<(), CliError> {
    let (mut lost, mut kills, mut damage) = (0_u64, 0_u64, Vec::new());
    let mut visit = |frame: &Frame| {
        if let Some(record) = parse(frame) {
            lost = lost.saturating_add(record.missing);
            if let LogEvent::Started(started) = record.event {
                kills = kills.saturating_add(u64::from(!started.clean));
                damage.extend(started.damage.map(|damage| format!("{}: {damage}", clock::utc(record.at_unix_ms))));
            }
        }
        ControlFlow::Continue(())
    };
    let summary = reader::read(folder, &mut visit).map_err(unreadable)?;
    let verification = Verification { summary, lost, kills, damage };
    context.output.print(&verification, verdict).or_exit(ExitKind::Storage)?;
    broken(&verification.summary)
}

fn verdict(found: &Verification) -> String {
    let summary = &found.summary;
    let mut lines = vec![match (&summary.problem, summary.records) {
        (Some(problem), _) => format!("broken: {problem}"),
        (None, 0) => "whole: no records".to_owned(),
        (None, _) => format!("whole: records {} to {} in {} files", summary.first, summary.last, summary.files),
    }];
    if summary.records > 0 {
        lines.push(format!("hash of record {}: {}", summary.last, summary.hash));
    }
    if summary.removed > 0 {
        lines.push(format!("records 1 to {} were removed by rotation", summary.removed));
    }
    if found.lost > 0 {
        lines.push(format!("{} records were lost because the disk was full or slow", found.lost));
    }
    if found.kills > 0 {
        lines.push(format!(
            "{} starts without a stop before: the agent was killed, and requests in flight then have no record",
            found.kills
        ));
    }
    if summary.incomplete_bytes > 0 {
        let bytes = summary.incomplete_bytes;
        lines.push(format!("an incomplete record of {bytes} bytes at the end: being written, or cut by a kill"));
    }
    lines.extend(found.damage.iter().map(|damage| format!("damage found at a start of the agent: {damage}")));
    lines.extend(summary.notes.iter().cloned());
    lines.iter().map(|line| safe(line)).collect::<Vec<_>>().join("\n")
}

/// Requests of one privacy class.
#[derive(Debug, Default, Serialize)]
struct ClassTotals {
    /// Requests answered on the device.
    device: u64,
    /// Requests answered at the hub.
    hub: u64,
    /// Requests without an answer.
    failed: u64,
    /// Requests and audits of which bytes were sent to the hub.
    sent: u64,
    /// Bytes of input that were sent to the hub.
    bytes: u64,
    /// Bytes of input of all requests.
    input_bytes: u64,
}

/// Result of `log show`.
#[derive(Debug, Serialize)]
struct Shown {
    /// Totals by privacy class.
    classes: BTreeMap<String, ClassTotals>,
    /// Number of records that were lost.
    lost: u64,
    /// Number of records that only a later version can read.
    unreadable: u64,
    /// The newest records, newest last.
    records: Vec<ShownRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// Record with its number.
#[derive(Debug, Serialize)]
struct ShownRecord {
    number: u64,
    record: LogRecord,
}

fn show(folder: &Path, which: &Which, limit: u32, context: &Context) -> Result<(), CliError> {
    let now_ms = clock::unix_ms();
    let mut shown = Shown { classes: BTreeMap::new(), lost: 0, unreadable: 0, records: Vec::new(), problem: None };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut newest = std::collections::VecDeque::new();
    let mut visit = |frame: &Frame| {
        let Some(record) = parse(frame) else {
            shown.unreadable = shown.unreadable.saturating_add(1);
            return ControlFlow::Continue(());
        };
        if !which.has(&record, now_ms) {
            return ControlFlow::Continue(());
        }
        shown.lost = shown.lost.saturating_add(record.missing);
        count(&mut shown.classes, &record.event);
        newest.push_back(ShownRecord { number: frame.stated.number, record });
        if newest.len() > limit {
            newest.pop_front();
        }
        ControlFlow::Continue(())
    };
    let summary = reader::read(folder, &mut visit).map_err(unreadable)?;
    shown.records = newest.into();
    shown.problem.clone_from(&summary.problem);
    context.output.print(&shown, table).or_exit(ExitKind::Storage)?;
    broken(&summary)
}

fn count(classes: &mut BTreeMap<String, ClassTotals>, event: &LogEvent) {
    let add = |to: &mut u64, more: u64| *to = to.saturating_add(more);
    match event {
        LogEvent::Request(request) => {
            let totals = classes.entry(request.policy.class.clone().into_owned()).or_default();
            match &request.end {
                EndRecord::Answered { place, .. } if place == "hub" => add(&mut totals.hub, 1),
                EndRecord::Answered { .. } => add(&mut totals.device, 1),
                EndRecord::Failed { .. } | EndRecord::Cancelled => add(&mut totals.failed, 1),
            }
            add(&mut totals.sent, u64::from(request.hub_bytes > 0));
            add(&mut totals.bytes, request.hub_bytes);
            add(&mut totals.input_bytes, request.input.bytes);
        }
        LogEvent::Audit(audit) => {
            let totals = classes.entry(audit.class.clone().into_owned()).or_default();
            add(&mut totals.sent, u64::from(audit.hub_bytes > 0));
            add(&mut totals.bytes, audit.hub_bytes);
        }
        LogEvent::Amendment(amendment) => {
            let totals = classes.entry(amendment.class.clone().into_owned()).or_default();
            add(&mut totals.sent, u64::from(amendment.hub_bytes > 0));
            add(&mut totals.bytes, amendment.hub_bytes);
        }
        LogEvent::Started(_) | LogEvent::Stopped => {}
    }
}

fn table(shown: &Shown) -> String {
    let rows = shown.classes.iter().map(|(class, of)| {
        let numbers =
            [of.device, of.hub, of.failed, of.sent, of.bytes, of.input_bytes].map(|number| number.to_string());
        let [device, hub, failed, sent, bytes, input] = numbers;
        [safe(class), device, hub, failed, sent, bytes, input]
    });
    let header = ["class", "on device", "at hub", "no answer", "times sent", "bytes sent", "input bytes"];
    let mut text = console::render_table(header, rows);
    if shown.lost > 0 {
        text.push_str(&format!("\n{} more records were lost because the disk was full or slow", shown.lost));
    }
    if shown.unreadable > 0 {
        text.push_str(&format!("\n{} records are of a later version of the agent", shown.unreadable));
    }
    if shown.records.is_empty() {
        return text;
    }
    let rows = shown.records.iter().map(|ShownRecord { number, record }| {
        let [what, model, place, reason, bytes, took] = row(&record.event).map(|text| safe(&text));
        [number.to_string(), clock::utc(record.at_unix_ms), what, model, place, reason, bytes, took]
    });
    let header = ["record", "time", "request", "model", "place", "reason", "bytes sent", "ms"];
    format!("{text}\n{}", console::render_table(header, rows))
}

fn row(event: &LogEvent) -> [String; 6] {
    let none = String::new;
    match event {
        LogEvent::Request(request) => {
            let (place, reason) = end(request);
            let took = format!("{:.1}", std::time::Duration::from_micros(request.total_us).as_secs_f64() * 1000.0);
            let (id, model) = (request.request.to_string(), request.model.to_string());
            [id, model, place, reason, request.hub_bytes.to_string(), took]
        }
        LogEvent::Audit(audit) => {
            let agrees = match audit.agrees {
                Some(true) => "agrees",
                Some(false) => "differs",
                None => "not compared",
            };
            let (id, model) = (audit.request.to_string(), audit.model.to_string());
            [id, model, "(audit)".to_owned(), agrees.to_owned(), audit.hub_bytes.to_string(), none()]
        }
        LogEvent::Amendment(amendment) => {
            let (id, model) = (amendment.request.to_string(), amendment.model.to_string());
            let (place, reason) = (format!("(later: {})", amendment.outcome), amendment.reason.to_string());
            [id, model, place, reason, amendment.hub_bytes.to_string(), none()]
        }
        LogEvent::Started(started) => {
            let after = if started.clean { "" } else { " after a kill" };
            [format!("(start of agent {}{after})", started.agent), none(), none(), none(), none(), none()]
        }
        LogEvent::Stopped => ["(stop)".to_owned(), none(), none(), none(), none(), none()],
    }
}

fn end(request: &RequestRecord) -> (String, String) {
    match &request.end {
        EndRecord::Answered { place, reason, .. } => (place.to_string(), reason.to_string()),
        EndRecord::Failed { code, .. } => ("(error)".to_owned(), code.to_string()),
        EndRecord::Cancelled => ("(cancelled)".to_owned(), String::new()),
    }
}

/// Line of the export: the record is written as it is stored.
#[derive(Serialize)]
struct Line<'a> {
    number: u64,
    hash: Digest,
    record: &'a RawValue,
}

fn export(folder: &Path, which: &Which) -> Result<(), CliError> {
    let now_ms = clock::unix_ms();
    let mut out = BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    let mut visit = |frame: &Frame| {
        if parse(frame).is_some_and(|record| !which.has(&record, now_ms)) {
            return ControlFlow::Continue(());
        }
        // Damaged records are named by the check.
        let Ok(record) = serde_json::from_slice::<&RawValue>(&frame.payload) else { return ControlFlow::Continue(()) };
        let line = Line { number: frame.stated.number, hash: frame.stated.hash, record };
        written = serde_json::to_writer(&mut out, &line).map_err(io::Error::from).and_then(|()| out.write_all(b"\n"));
        if written.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let summary = reader::read(folder, &mut visit).map_err(unreadable)?;
    match written.and_then(|()| out.flush()) {
        // Like `head`: whoever reads has enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        result => result.or_exit(ExitKind::Storage)?,
    }
    broken(&summary)
}
