//! `edge-agent policy`: checks policies, explains the place of one request from the log of receipts, and replays the log.

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Subcommand;
use console::{CliError, ExitKind, OrExit};
use serde::Serialize;
use service::clock;
use types::RequestId;

use super::{Context, log, policy_check, policy_replay};
use crate::receipts::explain::{Explanation, explain};
use crate::receipts::frame::Frame;
use crate::receipts::reader::{self, Summary};
use crate::records::v1::{AmendmentRecord, AuditRecord, LogEvent, RequestRecord};

/// Verbs on the policy of requests.
#[derive(Debug, Subcommand)]
pub enum PolicyVerb {
    /// Reads a policy and reports every mistake in it, or what it says
    #[command(after_help = "Examples:\n  edge-agent policy check policy.toml\n  \
                            edge-agent policy check /etc/sanderling/agent.toml")]
    Check {
        /// File with the fields of a policy, with a table [policy] (model.toml), or an agent.toml
        file: PathBuf,
    },
    /// Explains why a request was served where it was, and what would have had to differ
    #[command(after_help = "\
Examples:
  edge-agent policy explain 3f2c8f0e-8a51-4c0e-9a41-6d1f0c8f7a55
  edge-agent policy explain r-1 --folder /media/usb/receipts

The id of a request is in its answer: `id` over HTTP and gRPC. It reads the log of receipts.")]
    Explain {
        /// Id of the request, as its answer states it
        request: RequestId,
        /// Folder of the log, like a copy from another device; without it the one of the configured state folder
        #[arg(long, value_name = "FOLDER")]
        folder: Option<PathBuf>,
    },
    /// Predicts the effect of another policy on the recorded requests
    #[command(after_help = policy_replay::HELP)]
    Replay(policy_replay::Replaying),
}

impl PolicyVerb {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::Check { file } => policy_check::check(&file, context),
            Self::Explain { request, folder } => explain_request(&request, folder, context),
            Self::Replay(verb) => verb.run(context),
        }
    }
}

/// Result of `policy explain`.
#[derive(Debug, Serialize)]
struct Explained {
    /// Number of the record.
    number: u64,
    /// Time in milliseconds since 1970.
    at_unix_ms: u64,
    explanation: Explanation,
    /// Figures of the decision.
    request: RequestRecord,
    /// Audits of the answer.
    audits: Vec<AuditRecord>,
    /// Sendings from the outbox.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    amendments: Vec<AmendmentRecord>,
    /// Number of earlier requests with the same id.
    earlier: u64,
}

/// Records of one request id.
#[derive(Default)]
struct Found {
    newest: Option<(u64, u64, RequestRecord)>,
    audits: Vec<AuditRecord>,
    /// Of all requests with the id: a sending may be recorded before its request.
    amendments: Vec<AmendmentRecord>,
    earlier: u64,
    /// Time of the first record in the log.
    oldest_unix_ms: Option<u64>,
}

impl Found {
    fn take(&mut self, frame: &Frame, id: &RequestId) {
        let Some(record) = log::parse(frame) else { return };
        self.oldest_unix_ms.get_or_insert(record.at_unix_ms);
        match record.event {
            LogEvent::Request(request) if request.request == *id => {
                self.earlier = self.earlier.saturating_add(u64::from(self.newest.is_some()));
                self.audits.clear();
                self.newest = Some((frame.stated.number, record.at_unix_ms, *request));
            }
            LogEvent::Audit(audit) if audit.request == *id => self.audits.push(audit),
            LogEvent::Amendment(later) if later.request == *id => self.amendments.push(*later),
            LogEvent::Request(_)
            | LogEvent::Audit(_)
            | LogEvent::Amendment(_)
            | LogEvent::Started(_)
            | LogEvent::Stopped => {}
        }
    }
}

fn explain_request(id: &RequestId, folder: Option<PathBuf>, context: &Context) -> Result<(), CliError> {
    let folder = log::folder(folder, context)?;
    let mut found = Found::default();
    let mut visit = |frame: &Frame| {
        found.take(frame, id);
        ControlFlow::Continue(())
    };
    let summary = reader::read(&folder, &mut visit).map_err(log::unreadable)?;
    if let Some(problem) = &summary.problem {
        console::warn(&format!("the log of receipts is not whole: {}", log::safe(problem)));
    }
    let Found { newest, audits, amendments, earlier, oldest_unix_ms } = found;
    let Some((number, at_unix_ms, request)) = newest else {
        return Err(not_found(id, &summary, oldest_unix_ms));
    };
    let explanation = explain(&request, &audits, &amendments);
    let explained = Explained { number, at_unix_ms, explanation, request, audits, amendments, earlier };
    context.output.print(&explained, text).or_exit(ExitKind::Storage)
}

fn not_found(id: &RequestId, summary: &Summary, oldest_unix_ms: Option<u64>) -> CliError {
    let held = match oldest_unix_ms {
        Some(oldest) if summary.records > 0 => {
            format!("the log has records {} to {}, since {}", summary.first, summary.last, clock::utc(oldest))
        }
        Some(_) | None => "the log has no records".to_owned(),
    };
    let hint = if summary.removed > 0 {
        format!(
            "records 1 to {} were removed by rotation, and the request may be among them: receipts.bytes_max and \
             receipts.keep in agent.toml set how much is kept",
            summary.removed
        )
    } else {
        "compare the id with `id` in the answer; only requests that this agent routed are recorded, and not while \
         receipts.enabled is false"
            .to_owned()
    };
    CliError::new(ExitKind::Refused, format!("no record of request {id}: {held}")).hint(hint)
}

fn text(explained: &Explained) -> String {
    let Explanation { outcome, because, otherwise, left, guarantee, times } = &explained.explanation;
    let mut lines = vec![
        format!("request {}, model {}", explained.request.request, explained.request.model),
        format!("record {}, {}", explained.number, clock::utc(explained.at_unix_ms)),
        outcome.clone(),
    ];
    let mut part = |title: &str, sentences: &[String]| {
        if !sentences.is_empty() {
            lines.push(format!("{title}:"));
            lines.extend(sentences.iter().map(|sentence| format!("  {sentence}")));
        }
    };
    part("why", because);
    part("what would have had to differ", otherwise);
    part("what left the device", left);
    part("guarantee", std::slice::from_ref(guarantee));
    part("times", times);
    if explained.earlier > 0 {
        lines.push(format!("{} earlier requests in the log have the same id", explained.earlier));
    }
    lines.iter().map(|line| log::safe(line)).collect::<Vec<_>>().join("\n")
}
