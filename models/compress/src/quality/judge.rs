//! Holds variants against one reference over one set of examples.

use engine::{Engine, ModelBytes, Session};
use types::{NamedTensor, Signature, Tensor};

use super::custom::{Custom, Score};
use super::labelled::Rows;
use super::output::Comparison;
use super::task::{self, Choice};
use super::{Figure, Measure, Quality, Task, answer, load, named};
use crate::examples::{Example, not_finite};
use crate::labels::LabelFacts;
use crate::{CompressError, Examples, Label};
use evaluate::boxes::{self, Found};
use evaluate::labels::numbers;
use evaluate::symbols::{self, Blank, Edits};

/// Most bytes of the reference's answers that are kept for the next variant; beyond it the reference runs again.
const ANSWERS_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Answers of the reference by which the blank symbol of a text is found.
const BLANK_SAMPLE: usize = 32;

/// Task, labels and measure with which answers are judged.
#[derive(Debug, Default)]
pub struct JudgeOptions {
    /// Task that the operator or the manifest declares.
    pub task: Option<Task>,
    /// Judge of the user, asked beside the built-in measures.
    pub custom: Option<Box<dyn Custom>>,
    /// Whether labels may be left unused, where the measure asked for needs none.
    pub is_unlabelled: bool,
}

/// Holds variants against one reference over one set of examples, one example at a time.
#[derive(Debug)]
pub struct Judge {
    reference: Box<dyn Session>,
    examples: Examples,
    /// Answers to the first examples, as many as fit into [`ANSWERS_BYTES_MAX`].
    answers: Vec<Vec<NamedTensor>>,
    /// Output that the labels belong to; known after the first run.
    choice: Option<Choice>,
    whole: Option<Whole>,
    custom: Option<(Box<dyn Custom>, Score)>,
}

/// A task whose answers only make sense as a whole.
#[derive(Debug, Clone)]
enum Whole {
    /// Boxes.
    Boxes,
    /// Texts, in this output and with this blank.
    Symbols(String, Blank),
}

impl Judge {
    /// Loads the reference and runs it over the examples once.
    ///
    /// # Errors
    /// When it does not load or run, when its answers are not finite, or when the examples cannot be read.
    pub fn new(engine: &dyn Engine, reference: ModelBytes, examples: Examples) -> Result<Self, CompressError> {
        Self::with(engine, reference, examples, JudgeOptions::default())
    }

    /// Loads the reference and runs it over the examples once, with a declared task or a judge of the user.
    ///
    /// # Errors
    /// As [`Judge::new`]; when labels fit no output, or the answers do not fit the task; the user's judge's own.
    pub fn with(
        engine: &dyn Engine,
        reference: ModelBytes,
        examples: Examples,
        options: JudgeOptions,
    ) -> Result<Self, CompressError> {
        let reference = load(engine, reference, "load the reference")?;
        let mut judge = Self { reference, examples, answers: Vec::new(), choice: None, whole: None, custom: None };
        let JudgeOptions { task, mut custom, is_unlabelled } = options;
        let labels = judge.remember(custom.as_deref_mut())?;
        judge.custom = match custom {
            Some(mut custom) => {
                let score = custom.finish()?;
                Some((custom, score))
            }
            None => None,
        };
        judge.read_task(task, &labels, is_unlabelled)?;
        Ok(judge)
    }

    /// Signature of the reference.
    #[must_use]
    pub fn signature(&self) -> &Signature {
        self.reference.signature()
    }

    /// The examples it judges by.
    #[must_use]
    pub fn examples(&self) -> &Examples {
        &self.examples
    }

    /// Score of the reference by the user's command.
    #[must_use]
    pub fn command_score(&self) -> Option<Score> {
        self.custom.as_ref().map(|(_, score)| *score)
    }

    /// Runs a variant over the examples and compares its answers. `progress` hears how many examples are done.
    ///
    /// # Errors
    /// When the variant does not run, the examples cannot be read, or the user's judge fails.
    pub fn judge(
        &mut self,
        variant: &mut dyn Session,
        mut progress: impl FnMut(usize),
    ) -> Result<Quality, CompressError> {
        let names: Vec<String> = self.signature().outputs.iter().map(|output| output.name.clone()).collect();
        let mut comparisons: Vec<Comparison> = names.iter().map(|name| Comparison::new(name)).collect();
        let mut rows = self.choice.clone().filter(|_| self.whole.is_none()).map(Rows::new);
        let mut whole = WholeSums::default();
        let mut done = 0;
        for (at, example) in self.examples.iter().enumerate() {
            let Example { inputs, label } = example?;
            let again;
            let wanted = match self.answers.get(at) {
                Some(kept) => kept,
                None => {
                    again = answer(&mut *self.reference, &inputs, "run the reference")?;
                    &again
                }
            };
            let found = answer(variant, &inputs, "run the variant")?;
            for (comparison, name) in comparisons.iter_mut().zip(&names) {
                if let (Some(wanted), Some(found)) = (named(wanted, name), named(&found, name)) {
                    comparison.add(wanted, found);
                }
            }
            if let (Some(rows), Some(label)) = (&mut rows, &label) {
                add_labelled(rows, at, label, wanted, &found);
            }
            if let Some(kind) = &self.whole {
                whole.add(kind, label.as_ref(), wanted, &found);
            }
            if let Some((custom, _)) = &mut self.custom {
                let row = self.examples.rows().get(at).copied().unwrap_or(at);
                custom.take(row, label.as_ref(), &found)?;
            }
            done += 1;
            progress(done);
        }
        let labelled = rows.and_then(Rows::finish);
        let output = self.choice.as_ref().map(|choice| choice.output.clone());
        let about = |name: &String| output.as_ref() == Some(name) && classifies(self.choice.as_ref());
        let outputs = comparisons.into_iter().zip(&names).map(|(sums, name)| sums.finish(about(name))).collect();
        let mut figures = Vec::new();
        if let Some((custom, reference)) = &mut self.custom {
            let score = custom.finish()?;
            figures.push(figure(Measure::Command, reference.value, score.value, score.lost_from(*reference)));
        }
        figures.extend(self.whole.as_ref().map(|kind| whole.figure(kind)));
        Ok(Quality {
            examples: u64::try_from(done).unwrap_or(u64::MAX),
            outputs,
            accuracy: labelled.as_ref().and_then(|labelled| labelled.accuracy),
            labelled,
            figures,
            labelled_output: output,
        })
    }

    /// Runs the reference, keeps its answers, as many as may be kept, and checks that they are finite. Gives the labels.
    fn remember(&mut self, mut custom: Option<&mut (dyn Custom + 'static)>) -> Result<Vec<Label>, CompressError> {
        let mut bytes = 0_usize;
        let mut labels = Vec::new();
        let mut broken: Option<(String, usize)> = None;
        for (at, example) in self.examples.iter().enumerate() {
            let Example { inputs, label } = example?;
            let answers = answer(&mut *self.reference, &inputs, "run the reference")?;
            if let Some(what) = first_not_finite(&answers) {
                let place = self.examples.place(at);
                let told = broken.get_or_insert_with(|| (format!("{what} for {place}"), 0));
                told.1 += 1;
            }
            if let Some(custom) = &mut custom {
                let row = self.examples.rows().get(at).copied().unwrap_or(at);
                custom.take(row, label.as_ref(), &answers)?;
            }
            labels.extend(label);
            bytes = answers.iter().fold(bytes, |sum, output| sum.saturating_add(output.tensor.data().len()));
            if bytes <= ANSWERS_BYTES_MAX {
                self.answers.push(answers);
            }
        }
        match broken {
            None => Ok(labels),
            Some((first, examples)) => {
                let of = self.examples.len();
                let reason = format!("{first}; {examples} of {of} examples have such answers");
                Err(CompressError::Answers { reason })
            }
        }
    }

    /// Finds out what labels and answers are about.
    fn read_task(&mut self, task: Option<Task>, labels: &[Label], is_unlabelled: bool) -> Result<(), CompressError> {
        let Some(first) = self.answers.first() else { return Ok(()) };
        match task {
            Some(Task::Detection) if boxes::read(first).is_some() => self.whole = Some(Whole::Boxes),
            Some(Task::Ctc) => {
                let output = symbols::output(first).map(str::to_owned);
                self.whole = output.map(|output| {
                    let sample = self.answers.iter().take(BLANK_SAMPLE).filter_map(|answers| named(answers, &output));
                    let blank = Blank::of(&sample.cloned().collect::<Vec<Tensor>>());
                    Whole::Symbols(output, blank)
                });
            }
            Some(Task::Classification | Task::Binary | Task::Regression | Task::Detection) | None => {}
        }
        let Some(facts) = LabelFacts::of(labels.iter()) else { return Ok(()) };
        // The user's own command, boxes and texts read labels in their own way.
        if self.whole.is_some() {
            return Ok(());
        }
        let chosen = task::choose(task.filter(|task| !is_whole(*task)), &facts, first);
        match chosen {
            Ok(choice) => self.choice = Some(choice),
            Err(_unfit) if self.custom.is_some() || is_unlabelled => {}
            Err(reason) => return Err(CompressError::Examples { reason }),
        }
        Ok(())
    }
}

const fn is_whole(task: Task) -> bool {
    matches!(task, Task::Detection | Task::Ctc)
}

fn classifies(choice: Option<&Choice>) -> bool {
    choice.is_some_and(|choice| choice.task == Task::Classification)
}

fn add_labelled(rows: &mut Rows, at: usize, label: &Label, wanted: &[NamedTensor], found: &[NamedTensor]) {
    let output = rows.choice().output.clone();
    let (Some(wanted), Some(found)) = (named(wanted, &output), named(found, &output)) else { return };
    let read = |tensor: &Tensor| numbers(tensor.dtype(), tensor.data());
    if let (Some(wanted), Some(found)) = (read(wanted), read(found)) {
        rows.add(at, label, &wanted, &found);
    }
}

/// Description of the first output with numbers that are not finite.
fn first_not_finite(answers: &[NamedTensor]) -> Option<String> {
    answers.iter().find_map(|answer| {
        let count = not_finite(&answer.tensor);
        let (of, name) = (answer.tensor.elements(), &answer.name);
        (count > 0).then(|| format!("{count} of {of} numbers of output {name:?} are NaN or infinite"))
    })
}

fn figure(measure: Measure, reference: f64, variant: f64, lost: f64) -> Figure {
    Figure { measure, reference, variant, lost, interval: None }
}

/// Sums over answers that only make sense as a whole.
#[derive(Debug, Default)]
struct WholeSums {
    edits: Edits,
    /// True boxes and those of the variant, image by image; true are the labels', or the reference's.
    found: Vec<(Vec<Found>, Vec<Found>)>,
    /// Labelled boxes and those of the reference.
    known: Vec<(Vec<Found>, Vec<Found>)>,
}

impl WholeSums {
    fn add(&mut self, kind: &Whole, label: Option<&Label>, wanted: &[NamedTensor], found: &[NamedTensor]) {
        match kind {
            Whole::Boxes => {
                let read = |answers: &[NamedTensor]| boxes::read(answers).unwrap_or_default();
                let (wanted, found) = (read(wanted), read(found));
                match label.map(boxes::of_label) {
                    Some(truth) => {
                        self.found.push((truth.clone(), found));
                        self.known.push((truth, wanted));
                    }
                    None => self.found.push((boxes::certain(&wanted), found)),
                }
            }
            Whole::Symbols(output, blank) => {
                if let (Some(wanted), Some(found)) = (named(wanted, output), named(found, output)) {
                    self.edits.add(*blank, label, wanted, found);
                }
            }
        }
    }

    fn figure(&self, kind: &Whole) -> Figure {
        match kind {
            Whole::Boxes => {
                let reference = if self.known.is_empty() { 1.0 } else { boxes::mean_precision(&self.known) };
                let variant = boxes::mean_precision(&self.found);
                figure(Measure::MeanPrecision, reference, variant, reference - variant)
            }
            Whole::Symbols(..) => {
                let (reference, variant) = self.edits.rates();
                figure(Measure::EditDistance, reference, variant, variant - reference)
            }
        }
    }
}
