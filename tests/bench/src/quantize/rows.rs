//! Rows of the benchmark: for each model and form the time, the memory, the size and the quality of both quantizers.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Form;
use super::corpus::{Corpus, Entry, MODELS};
use super::theirs::{Candidate, Judgement, Work, last_json};
use crate::race;
use crate::row::{Bar, Row};
use crate::sample::Sample;

/// Name of the other quantizer in rows.
const PEER: &str = "onnxruntime.quantization 1.32.0";

/// Maximum number of rounds: one of the largest model takes the other quantizer a minute.
const ROUNDS_MAX: u32 = 5;

/// Maximum of our time, as a share of the other quantizer's.
const TIME_SHARE: f64 = 0.3;

/// Maximum of our memory, as a share of the other quantizer's.
const MEMORY_SHARE: f64 = 0.7;

/// Measures every model and form whose name contains `only`; `program` is this benchmark's own binary.
///
/// # Errors
/// Fails if the corpus does not exist. A later failure becomes a row with the reason.
pub fn rows(program: &Path, rounds: u32, only: &str) -> Result<Vec<Row>> {
    let corpus = Corpus::from_env()?;
    let folder = tempfile::tempdir().context("make a folder for the models")?;
    let mut rows = Vec::new();
    for name in MODELS {
        for form in Form::ALL {
            let figure = format!("{name} {}", form.name());
            if !(figure.contains(only) && form.suits(name)) {
                continue;
            }
            eprintln!("measuring {figure}");
            let entry = corpus.model(name)?;
            let out = |side: &str| folder.path().join(format!("{name}.{}.{side}.onnx", form.name()));
            let pair = Pair { corpus: &corpus, entry, form, program, ours: out("ours"), theirs: out("theirs") };
            match pair.rows(&figure, rounds.min(ROUNDS_MAX)) {
                Ok(measured) => rows.extend(measured),
                Err(error) => {
                    rows.push(Row::empty(&figure, "s", Some(PEER), None).missing(format!("{error:#}")));
                }
            }
        }
    }
    Ok(rows)
}

/// One model in one form, by both quantizers.
struct Pair<'a> {
    corpus: &'a Corpus,
    entry: Entry,
    form: Form,
    program: &'a Path,
    ours: PathBuf,
    theirs: PathBuf,
}

impl Pair<'_> {
    fn rows(&self, figure: &str, rounds: u32) -> Result<Vec<Row>> {
        let (our_memory, their_memory) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let their_work = RefCell::new(Vec::new());
        let mut ours = || {
            let (usage, _) = self.corpus.measure(&self.ours())?;
            our_memory.borrow_mut().push(mib(usage.rss_kib));
            Ok(usage.seconds)
        };
        let mut theirs = || {
            let (usage, printed) = self.corpus.measure(&self.corpus.peer(self.form, &self.entry, &self.theirs))?;
            their_memory.borrow_mut().push(mib(usage.rss_kib));
            their_work.borrow_mut().push(last_json::<Work>(&printed)?.seconds);
            Ok(usage.seconds)
        };
        let [our_time, their_time] = race::race(rounds, [&mut ours, &mut theirs])?;
        let [our_memory, their_memory, their_work] =
            [our_memory, their_memory, their_work].map(|values| counted(values.into_inner()));
        let row = |what: &str, unit: &str, bar: Option<Bar>, ours: &Sample, theirs: &Sample| {
            Row::empty(&format!("{figure} {what}"), unit, Some(PEER), bar).measured(bar, ours, Some(theirs))
        };
        let (time, memory) = (Some(Bar::Share(TIME_SHARE)), Some(Bar::Share(MEMORY_SHARE)));
        let mut rows = vec![
            row("time", "s", time, &our_time, &their_time),
            row("time, theirs without imports", "s", time, &our_time, &their_work),
            row("memory", "MiB", memory, &our_memory, &their_memory),
        ];
        rows.extend(self.judged(figure)?);
        Ok(rows)
    }

    fn judged(&self, figure: &str) -> Result<Vec<Row>> {
        let judgement = self.corpus.judge(&self.entry, &[&self.ours, &self.theirs])?;
        let [ours, theirs] = judgement.candidates.as_slice() else { anyhow::bail!("the judge forgot a model") };
        let one = |what: &str, unit: &str, value: fn(&Candidate) -> Option<f64>| {
            let bar = Some(Bar::Share(1.0));
            let row = Row::empty(&format!("{figure} {what}"), unit, Some(PEER), bar);
            match (value(ours), value(theirs)) {
                (Some(ours), Some(theirs)) => row.measured(bar, &Sample::exact(ours), Some(&Sample::exact(theirs))),
                _ => row.missing("no answers: see the note on answers"),
            }
        };
        #[expect(clippy::cast_precision_loss, reason = "files are far below 2^53 bytes")]
        let size = one("size", "bytes", |candidate| Some(candidate.bytes as f64));
        let loss = one("loss of cosine", "1 - cosine", |candidate| candidate.cosine.map(|cosine| 1.0 - cosine));
        let answers =
            one("wrong answers", "share", |candidate| Some(1.0 - candidate.accuracy.or(candidate.agreement)?[0]));
        Ok(vec![size, loss, Row { note: Some(told(&judgement)), ..answers }])
    }

    fn ours(&self) -> Command {
        let mut command = Command::new(self.program);
        command.args(["make-form", self.form.name()]).arg(self.entry.folder()).arg(&self.ours);
        command
    }
}

fn mib(kib: f64) -> f64 {
    kib / 1024.0
}

/// Drops the first round, which [`race::race`] does not count either.
fn counted(values: Vec<f64>) -> Sample {
    Sample::new(values.into_iter().skip(1).collect())
}

/// Formats the results of the judge in one line.
fn told(judgement: &Judgement) -> String {
    let share = |found: Option<[f64; 3]>| {
        found.map_or("-".to_owned(), |[mean, low, high]| format!("{mean:.4} ({low:.4} to {high:.4})"))
    };
    let mut text = format!("{} examples", judgement.examples);
    if judgement.fp32_accuracy.is_some() {
        text.push_str(&format!("; fp32 accuracy {}", share(judgement.fp32_accuracy)));
    }
    for (side, candidate) in ["ours", "theirs"].iter().zip(&judgement.candidates) {
        match &candidate.refused {
            Some(why) => text.push_str(&format!("; {side} is refused: {why}")),
            None => text.push_str(&format!(
                "; {side}: cosine {:.6}, agreement {}, accuracy {}",
                candidate.cosine.unwrap_or(f64::NAN),
                share(candidate.agreement),
                share(candidate.accuracy)
            )),
        }
    }
    text.push_str(&format!(
        "; ours less theirs: quality {}, cosine {}",
        share(judgement.quality_gain),
        share(judgement.cosine_gain)
    ));
    text
}
