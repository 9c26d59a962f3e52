//! `edge-agent infer --batch`: asks the running agent for each item of a folder or a file, several at a time.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use console::{CliError, ExitKind, OrExit};
use serde::Serialize;
use serving::codec::client::{RequestOptions, decode_response, encode_request};
use types::{Digest, NamedTensor, TensorSpec};

use super::super::Context;
use super::super::client::Client;
use super::answers::{Answers, Known};
use super::as_json;
use super::items::Items;

/// Maximum number of failed items that are shown; JSON has all of them.
const FAILED_SHOWN: usize = 20;

/// Maximum number of attempts for an item while the agent says that it is busy.
const ATTEMPTS: u32 = 6;

/// Maximum pause that the agent can ask for before the next attempt.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Batch and the request that each of its items becomes.
pub(super) struct Batch<'a> {
    pub(super) client: &'a Client,
    /// Path of the model at the server.
    pub(super) path: &'a str,
    pub(super) specs: &'a [TensorSpec],
    pub(super) options: &'a RequestOptions,
    pub(super) jobs: usize,
}

/// Result of a batch.
#[derive(Debug, Serialize)]
struct Summary {
    /// Items of the batch.
    items: usize,
    /// Items that were answered by this run.
    answered: usize,
    /// Items whose answer an earlier run has stored.
    skipped: usize,
    /// Items without an answer, with the reason.
    failed: Vec<Failed>,
    /// Folder or file of the answers.
    out: String,
}

/// Item without an answer.
#[derive(Debug, Serialize)]
struct Failed {
    item: String,
    error: String,
}

/// End of one item.
enum Done {
    Skipped,
    Answered(String, Digest, Box<serde_json::Value>),
    Failed(Failed),
    /// The agent cannot be reached: no further item would be answered.
    Away(CliError),
}

impl Batch<'_> {
    /// Answers every item of `from` that has no answer in `out` yet.
    pub(super) fn run(&self, from: &Path, out: &Path, context: &Context) -> Result<(), CliError> {
        let (items, others) = Items::open(from, self.specs)?;
        if others > 0 {
            console::warn(&format!("{others} entries of {} are no .png, .npy, .npz or .json file", from.display()));
        }
        let (mut answers, known) = Answers::open(out)?;
        let mut summary =
            Summary { items: items.len(), answered: 0, skipped: 0, failed: Vec::new(), out: out.display().to_string() };
        let total = u64::try_from(items.len()).unwrap_or(u64::MAX);
        let progress = console::progress_count("asking the agent", total);
        let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (send, receive) = mpsc::sync_channel(self.jobs);
        let mut ended = Ok(());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                let (send, items, known, next, is_over) = (send.clone(), &items, &known, &next, &is_over);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= items.len() || send.send(self.item(items, index, known)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(send);
            for done in &receive {
                progress.add(1);
                let stored = match done {
                    Done::Skipped => {
                        summary.skipped += 1;
                        Ok(())
                    }
                    Done::Answered(item, key, answer) => {
                        summary.answered += 1;
                        answers.store(&item, key, &answer)
                    }
                    Done::Failed(failed) => {
                        summary.failed.push(failed);
                        Ok(())
                    }
                    Done::Away(error) => Err(error),
                };
                if let Err(error) = stored {
                    is_over.store(true, Ordering::Relaxed);
                    if ended.is_ok() {
                        ended = Err(error);
                    }
                }
            }
        });
        drop(progress);
        ended.map_err(|error: CliError| {
            let answered = summary.answered.saturating_add(summary.skipped);
            error.hint(format!(
                "{answered} of {} items are answered: run the same command again for the others",
                items.len()
            ))
        })?;
        summary.failed.sort_by(|one, other| one.item.cmp(&other.item));
        context.output.print(&summary, text).or_exit(ExitKind::Storage)?;
        match summary.failed.len() {
            0 => Ok(()),
            failed => {
                Err(CliError::new(ExitKind::Failed, format!("{failed} of {} items have no answer", summary.items))
                    .hint("run the same command again for these alone"))
            }
        }
    }

    /// Asks for one item, unless its answer is known.
    fn item(&self, items: &Items, index: usize, known: &Known) -> Done {
        let item = items.name(index);
        let inputs = match items.inputs(index, self.specs) {
            Ok(inputs) => inputs,
            Err(error) => return Done::Failed(Failed { item, error }),
        };
        let key = self.key(&inputs);
        if known.get(&item) == Some(&key) {
            return Done::Skipped;
        }
        match self.ask(&inputs) {
            Ok(answer) => Done::Answered(item, key, Box::new(answer)),
            Err(error) if error.is_away => Done::Away(error.error),
            Err(error) => Done::Failed(Failed { item, error: telemetry::chain(error.error.source.as_ref()) }),
        }
    }

    fn ask(&self, inputs: &[NamedTensor]) -> Result<serde_json::Value, AskError> {
        let request = encode_request(inputs, self.options)?;
        let path = format!("{}/infer", self.path);
        let mut attempt = 1;
        loop {
            let posted = self.client.post(&path, Some(request.header_length), &request.body);
            let answer = posted.map_err(|error| AskError { error, is_away: true })?;
            if let Some(pause) = answer.retry_after.filter(|_| attempt < ATTEMPTS) {
                attempt += 1;
                std::thread::sleep(pause.min(PAUSE_MAX));
                continue;
            }
            let answer = answer.good()?;
            return Ok(as_json(&decode_response(answer.header_length.as_deref(), &answer.body)?));
        }
    }

    /// Returns the digest of everything that the answer depends on, but for the versions and the policies that the agent has.
    fn key(&self, inputs: &[NamedTensor]) -> Digest {
        let mut text = format!("sanderling batch 1\n{}\n{:?}\n", self.path, self.options).into_bytes();
        for NamedTensor { name, tensor } in inputs {
            let (dtype, shape, bytes) = (tensor.dtype(), tensor.shape(), Digest::of(tensor.data()));
            text.extend_from_slice(format!("{name:?} {dtype} {shape:?} {bytes}\n").as_bytes());
        }
        Digest::of(&text)
    }
}

/// Item without an answer.
struct AskError {
    error: CliError,
    is_away: bool,
}

impl<E: Into<CliError>> From<E> for AskError {
    fn from(error: E) -> Self {
        Self { error: error.into(), is_away: false }
    }
}

fn text(summary: &Summary) -> String {
    let Summary { items, answered, skipped, failed, out } = summary;
    let mut lines = vec![format!(
        "{items} items: {answered} answered, {skipped} were answered before, {} failed; answers in {out}",
        failed.len()
    )];
    let shown = failed.iter().take(FAILED_SHOWN);
    lines.extend(shown.map(|failed| format!("  {}: {}", failed.item, telemetry::escape_control(&failed.error))));
    if failed.len() > FAILED_SHOWN {
        lines.push(format!("  and {} more, with --json", failed.len() - FAILED_SHOWN));
    }
    lines.join("\n")
}
