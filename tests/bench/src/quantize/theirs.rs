//! The Python side: ONNX Runtime's quantizer, the judge of both, and the count of time and memory.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Form;
use super::corpus::{Corpus, Entry};

/// What `peer.py` says of its work.
#[derive(Debug, Clone, Deserialize)]
pub struct Work {
    /// Seconds without the start of Python and its imports.
    pub seconds: f64,
}

/// What the kernel counted of a process, the same way for both sides.
#[derive(Debug, Clone, Deserialize)]
pub struct Usage {
    /// Seconds from start to end.
    pub seconds: f64,
    /// The most memory that was resident, in KiB.
    pub rss_kib: f64,
    /// How it ended.
    code: i32,
}

/// A share with its 95 % interval.
pub type Share = [f64; 3];

/// What `judge.py` says of one model.
#[derive(Debug, Clone, Deserialize)]
pub struct Candidate {
    /// Size of the file.
    pub bytes: u64,
    /// What onnx.checker or ONNX Runtime said against it.
    pub refused: Option<String>,
    /// Cosine to the outputs of the f32 model, mean over the examples.
    pub cosine: Option<f64>,
    /// Share of the f32 model's answers.
    pub agreement: Option<Share>,
    /// Share of right answers, where they are known.
    pub accuracy: Option<Share>,
}

/// What `judge.py` says of one model, or of two.
#[derive(Debug, Clone, Deserialize)]
pub struct Judgement {
    /// How many examples judged.
    pub examples: u64,
    /// The models, in the order given.
    pub candidates: Vec<Candidate>,
    /// Of the f32 model, where right answers are known.
    pub fp32_accuracy: Option<Share>,
    /// Mean difference of accuracy (else agreement), first less second, with its paired interval.
    pub quality_gain: Option<Share>,
    /// Mean difference of cosines likewise.
    pub cosine_gain: Option<Share>,
}

impl Corpus {
    /// The command that lets ONNX Runtime's tool make a form.
    #[must_use]
    pub fn peer(&self, form: Form, entry: &Entry, out: &Path) -> Command {
        let mut command = Command::new(&self.python);
        let (verb, options) = form.peer_arguments().split_first().unwrap_or((&"", &[]));
        command.arg(self.script("peer.py")).arg(verb).arg(entry.folder()).arg(out).args(options);
        command
    }

    /// Judges one model or two made of an entry.
    ///
    /// # Errors
    /// When the script fails.
    pub fn judge(&self, entry: &Entry, candidates: &[&Path]) -> Result<Judgement> {
        let mut command = Command::new(&self.python);
        command.arg(self.script("judge.py")).arg(entry.folder()).args(candidates);
        said(&mut command).map(|(judgement, _err)| judgement)
    }

    /// Runs a command and counts; gives also what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn measure(&self, command: &Command) -> Result<(Usage, String)> {
        let mut measured = Command::new(&self.python);
        measured.arg(self.script("measure.py")).arg(command.get_program()).args(command.get_args());
        let (usage, printed): (Usage, String) = said(&mut measured)?;
        ensure!(usage.code == 0, "{command:?} failed: {}", printed.trim());
        Ok((usage, printed))
    }
}

/// Runs a script and reads the JSON that it prints last; with what it said on stderr.
fn said<T: DeserializeOwned>(command: &mut Command) -> Result<(T, String)> {
    let program = Path::new(command.get_args().next().unwrap_or(OsStr::new("python"))).to_owned();
    let output = command.stdin(Stdio::null()).output().context("run Python")?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!("{} failed: {}", program.display(), stderr.trim());
    }
    Ok((last_json(&String::from_utf8_lossy(&output.stdout))?, stderr))
}

/// Reads the last line as JSON.
///
/// # Errors
/// When it is none.
pub fn last_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    let line = text.lines().rev().find(|line| line.starts_with('{')).context("the script printed no JSON")?;
    serde_json::from_str(line).with_context(|| format!("read {line:?}"))
}
