//! The Python scripts: ONNX Runtime's quantizer, the judge of both, and the measurement of time and memory.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Form;
use super::corpus::{Corpus, Entry};

/// Output of `peer.py`.
#[derive(Debug, Clone, Deserialize)]
pub struct Work {
    /// Seconds without the start of Python and its imports.
    pub seconds: f64,
}

/// Kernel statistics of a process, obtained in the same way for both quantizers.
#[derive(Debug, Clone, Deserialize)]
pub struct Usage {
    /// Seconds from start to end.
    pub seconds: f64,
    /// Maximum resident memory, in KiB.
    pub rss_kib: f64,
    /// Exit code of the process.
    code: i32,
}

/// A share with its 95 % interval.
pub type Share = [f64; 3];

/// Output of `judge.py` for one model.
#[derive(Debug, Clone, Deserialize)]
pub struct Candidate {
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Error of onnx.checker or ONNX Runtime; `None` for a valid model.
    pub refused: Option<String>,
    /// Mean cosine similarity to the outputs of the f32 model over the examples.
    pub cosine: Option<f64>,
    /// Share of outputs that equal those of the f32 model.
    pub agreement: Option<Share>,
    /// Share of right outputs, where the right ones are known.
    pub accuracy: Option<Share>,
}

/// Output of `judge.py` for one model, or for two.
#[derive(Debug, Clone, Deserialize)]
pub struct Judgement {
    /// Number of examples for the judgement.
    pub examples: u64,
    /// Results of the models, in the order given.
    pub candidates: Vec<Candidate>,
    /// Accuracy of the f32 model, where the right outputs are known.
    pub fp32_accuracy: Option<Share>,
    /// Mean difference of accuracy (else agreement), first less second, with its paired interval.
    pub quality_gain: Option<Share>,
    /// Mean difference of cosine similarities, with its paired interval.
    pub cosine_gain: Option<Share>,
}

impl Corpus {
    /// Returns the command in which ONNX Runtime's tool creates a form.
    #[must_use]
    pub fn peer(&self, form: Form, entry: &Entry, out: &Path) -> Command {
        let mut command = Command::new(&self.python);
        let (verb, options) = form.peer_arguments().split_first().unwrap_or((&"", &[]));
        command.arg(self.script("peer.py")).arg(verb).arg(entry.folder()).arg(out).args(options);
        command
    }

    /// Judges one or two models that were created from an entry.
    ///
    /// # Errors
    /// Fails when the script fails.
    pub fn judge(&self, entry: &Entry, candidates: &[&Path]) -> Result<Judgement> {
        let mut command = Command::new(&self.python);
        command.arg(self.script("judge.py")).arg(entry.folder()).args(candidates);
        said(&mut command).map(|(judgement, _err)| judgement)
    }

    /// Runs a command; returns its statistics and its output.
    ///
    /// # Errors
    /// Fails if the command fails.
    pub fn measure(&self, command: &Command) -> Result<(Usage, String)> {
        let mut measured = Command::new(&self.python);
        measured.arg(self.script("measure.py")).arg(command.get_program()).args(command.get_args());
        let (usage, printed): (Usage, String) = said(&mut measured)?;
        ensure!(usage.code == 0, "{command:?} failed: {}", printed.trim());
        Ok((usage, printed))
    }
}

/// Runs a script; returns the JSON in its last line and its text on stderr.
fn said<T: DeserializeOwned>(command: &mut Command) -> Result<(T, String)> {
    let program = Path::new(command.get_args().next().unwrap_or(OsStr::new("python"))).to_owned();
    let output = command.stdin(Stdio::null()).output().context("run Python")?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!("{} failed: {}", program.display(), stderr.trim());
    }
    Ok((last_json(&String::from_utf8_lossy(&output.stdout))?, stderr))
}

/// Parses the last line as JSON.
///
/// # Errors
/// Fails when it is none.
pub fn last_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    let line = text.lines().rev().find(|line| line.starts_with('{')).context("the script printed no JSON")?;
    serde_json::from_str(line).with_context(|| format!("read {line:?}"))
}
