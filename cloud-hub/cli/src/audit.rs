//! `cloud-hub audit`: the log of changes, and the check of its chain.

use clap::Args;
use console::{CliError, ExitKind};
use hub_api::PAGE_MAX;
use hub_api::audit::{AuditPage, AuditQuery, AuditVerification};
use hub_api::endpoint::NoBody;
use hub_api::endpoints::{ReadAudit, VerifyAudit};
use service::clock;

use crate::{Locate, Operate};

/// Arguments of `cloud-hub audit`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cloud-hub audit
  cloud-hub audit --limit 1000 --json | jq '.events[] | select(.action == \"device.revoke\")'
  cloud-hub audit --before 4711                       # the events before number 4711
  cloud-hub audit --verify

Every change by an operator, and every device that joins, is one event. Each event has the hash of
the one before, so that a changed or missing event is found: --verify names the first such place,
with exit code 5. Anyone who can rewrite the whole store can make another consistent log: compare
the newest hash, which --verify prints and the hub logs, with one kept elsewhere. The hub keeps the
newest 10,000 events, and the hash of the last one that it removed.")]
pub struct AuditArgs {
    /// Maximum number of events, newest first.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    /// Show events before this number.
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,
    /// Check the chain of the whole log instead of showing events.
    #[arg(long, conflicts_with_all = ["limit", "before"])]
    verify: bool,
    #[command(flatten)]
    operate: Operate,
}

/// Runs the verb and prints its result.
///
/// # Errors
/// When the hub does not answer, refuses, or the log is not whole.
pub fn run(args: &AuditArgs, locate: Locate) -> Result<(), CliError> {
    let client = args.operate.client(locate)?;
    if args.verify {
        let verification = client.get::<VerifyAudit>(&())?;
        args.operate.output().print(&verification, verdict)?;
        return match verification.problem {
            None => Ok(()),
            Some(problem) => Err(CliError::new(ExitKind::Refused, format!("the audit log is not whole: {problem}"))
                .hint("find out who could write to the hub's state folder; compare the log with a backup")),
        };
    }
    let mut log = AuditPage { events: Vec::new(), next: args.before };
    let limit = args.limit as usize;
    loop {
        let left = u32::try_from(limit.saturating_sub(log.events.len())).unwrap_or(PAGE_MAX);
        let query = AuditQuery { limit: Some(left.min(PAGE_MAX)), before: log.next.take() };
        let page = client.call::<ReadAudit>(&(), &query, &NoBody {})?;
        log.events.extend(page.events);
        log.next = page.next;
        if log.next.is_none() || log.events.len() >= limit {
            break;
        }
    }
    Ok(args.operate.output().print(&log, table)?)
}

fn table(log: &AuditPage) -> String {
    let rows = log.events.iter().map(|event| {
        let change = match (&event.before, &event.after) {
            (Some(before), Some(after)) => format!("{before} -> {after}"),
            (None, Some(after)) => after.clone(),
            (Some(before), None) => format!("{before} -> (gone)"),
            (None, None) => String::new(),
        };
        let at = clock::utc(event.at_unix_ms);
        [event.number.to_string(), at, event.actor.clone(), event.action.clone(), event.object.clone(), change]
    });
    let table = console::render_table(["event", "time", "by", "action", "of", "change"], rows);
    match log.next {
        Some(next) => format!("{table}\nolder events: cloud-hub audit --before {next}"),
        None => table,
    }
}

fn verdict(found: &AuditVerification) -> String {
    match (&found.problem, found.last) {
        (Some(problem), _) => format!("broken: {problem}"),
        (None, 0) => "whole: no events yet".to_owned(),
        (None, last) => {
            format!("whole: events {} to {last}\nhash of event {last}: {}", found.first, found.head)
        }
    }
}
