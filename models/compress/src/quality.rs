//! How close a variant answers to the model it was made of.
//!
//! Both run over the same examples, batch by batch; only sums are kept. With labels the accuracies of the two are held
//! against each other example by example, which shows much smaller losses than two separate accuracies could. Fed by
//! [`crate::auto`], [`crate::sensitivity`] and whoever searches.

mod output;
mod paired;

use engine::{Engine, LoadOptions, ModelBytes, RunControl, Session};
use serde::{Deserialize, Serialize};
use types::{NamedTensor, Signature, Tensor};

use crate::{CompressError, Examples};
use output::{Comparison, numbers, top1};

pub use output::{Kind, OutputQuality};
pub use paired::{Accuracy, CONFIDENCE, Paired};

/// Examples in one run, where inputs can be joined: enough to keep the engine busy, little enough for large images.
const BATCH: usize = 16;

/// Most bytes of the reference's answers that are kept for the next variant; beyond it the reference runs again.
const ANSWERS_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What a loss of quality is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Accuracy lost on labelled examples, as a share of the examples.
    Accuracy,
    /// Share of rows whose top class is another than the reference's; the worst output counts.
    Agreement,
    /// One minus the mean cosine to the reference's answers; the worst output counts.
    Cosine,
    /// Kullback-Leibler divergence from the reference's class probabilities, in nats; the worst output counts.
    Divergence,
    /// Mean squared error over the reference's mean square, the worst output counts.
    Error,
}

impl Measure {
    /// The name in reports and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::Agreement => "agreement",
            Self::Cosine => "cosine",
            Self::Divergence => "divergence",
            Self::Error => "error",
        }
    }
}

/// How close a variant came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Examples compared.
    pub examples: u64,
    /// Each output, in the model's order.
    pub outputs: Vec<OutputQuality>,
    /// Accuracies on labelled examples; `None` without labels, or without an output they could be about.
    pub accuracy: Option<Accuracy>,
    /// The output that the labels are about.
    pub labelled_output: Option<String>,
}

impl Quality {
    /// What is lost, in a measure; 0 is nothing, and for accuracy less than 0 is better than the reference. `None` when
    /// the answers cannot be measured so (no labels, no classes).
    #[must_use]
    pub fn loss(&self, measure: Measure) -> Option<f64> {
        // What is no number, or has another shape, is no small loss by any measure.
        if self.outputs.iter().any(|output| output.not_finite > 0 || output.other_shape > 0) {
            return Some(1.0);
        }
        let worst =
            |figure: &dyn Fn(&OutputQuality) -> Option<f64>| self.outputs.iter().filter_map(figure).reduce(f64::max);
        match measure {
            Measure::Accuracy => self.accuracy.map(|accuracy| accuracy.lost),
            Measure::Agreement => worst(&|output| {
                let agreement = output.top1_agreement.filter(|_| output.kind != Kind::Values)?;
                Some(1.0 - agreement)
            })
            .or_else(|| worst(&|output| output.top1_agreement.map(|agreement| 1.0 - agreement))),
            Measure::Cosine => worst(&|output| Some(1.0 - output.cosine)),
            Measure::Divergence => worst(&|output| output.divergence),
            Measure::Error => worst(&|output| Some(output.relative_error * output.relative_error)),
        }
    }

    /// The measure that says most about a model like this: accuracy with labels, agreement for classes, else cosine.
    #[must_use]
    pub fn natural_measure(&self) -> Measure {
        if self.accuracy.is_some() {
            Measure::Accuracy
        } else if self.outputs.iter().any(|output| output.kind != Kind::Values) {
            Measure::Agreement
        } else {
            Measure::Cosine
        }
    }
}

/// Holds variants against one reference over one set of examples.
#[derive(Debug)]
pub struct Judge {
    reference: Box<dyn Session>,
    examples: Examples,
    /// Answers of the first batches, as many as fit into [`ANSWERS_BYTES_MAX`].
    answers: Vec<Vec<NamedTensor>>,
    /// The output that labels are about; known after the first run.
    labelled_output: Option<String>,
    batch: usize,
}

impl Judge {
    /// Loads the reference and runs it over the examples once.
    ///
    /// # Errors
    /// When it does not load or run, or when the examples cannot be read.
    pub fn new(engine: &dyn Engine, reference: ModelBytes, examples: Examples) -> Result<Self, CompressError> {
        let reference = load(engine, reference, "load the reference")?;
        let mut judge = Self { reference, examples, answers: Vec::new(), labelled_output: None, batch: BATCH };
        judge.remember()?;
        Ok(judge)
    }

    /// What the reference takes and gives.
    #[must_use]
    pub fn signature(&self) -> &Signature {
        self.reference.signature()
    }

    /// The examples it judges by.
    #[must_use]
    pub fn examples(&self) -> &Examples {
        &self.examples
    }

    /// Runs a variant over the examples and says how close it came. `progress` hears how many examples are done.
    ///
    /// # Errors
    /// When the variant does not run, or the examples cannot be read.
    pub fn judge(
        &mut self,
        variant: &mut dyn Session,
        mut progress: impl FnMut(usize),
    ) -> Result<Quality, CompressError> {
        let names: Vec<String> = self.signature().outputs.iter().map(|output| output.name.clone()).collect();
        let mut comparisons: Vec<Comparison> = names.iter().map(|name| Comparison::new(name)).collect();
        let mut paired = Paired::default();
        let mut done = 0;
        for (at, batch) in self.examples.batches(self.batch).enumerate() {
            let batch = batch?;
            let count = batch.labels.len();
            let again;
            let wanted = match self.answers.get(at) {
                Some(kept) => kept,
                None => {
                    again = answer(&mut *self.reference, &batch.inputs, "run the reference")?;
                    &again
                }
            };
            let found = answer(variant, &batch.inputs, "run the variant")?;
            for (comparison, name) in comparisons.iter_mut().zip(&names) {
                if let (Some(wanted), Some(found)) = (named(wanted, name), named(&found, name)) {
                    comparison.add(wanted, found, count);
                }
            }
            if let Some(name) = &self.labelled_output
                && let (Some(wanted), Some(found)) = (named(wanted, name), named(&found, name))
            {
                count_right(&mut paired, wanted, found, &batch.labels);
            }
            done += count;
            progress(done);
        }
        let labelled = |name: &String| self.labelled_output.as_ref() == Some(name);
        let outputs = comparisons.into_iter().zip(&names).map(|(sums, name)| sums.finish(labelled(name))).collect();
        Ok(Quality {
            examples: u64::try_from(done).unwrap_or(u64::MAX),
            outputs,
            accuracy: paired.accuracy(),
            labelled_output: self.labelled_output.clone(),
        })
    }

    /// Keeps the reference's answers, as many as may be kept, and finds out what the labels are about.
    fn remember(&mut self) -> Result<(), CompressError> {
        let mut bytes = 0_usize;
        let (mut largest, mut smallest) = (None, None);
        for batch in self.examples.batches(self.batch) {
            let batch = batch?;
            for label in batch.labels.iter().flatten() {
                largest = largest.max(Some(*label));
                smallest = Some(smallest.map_or(*label, |least: i64| least.min(*label)));
            }
            if bytes > ANSWERS_BYTES_MAX {
                // Only the labels of the rest are looked at.
                continue;
            }
            let answers = answer(&mut *self.reference, &batch.inputs, "run the reference")?;
            bytes = answers.iter().fold(bytes, |sum, output| sum.saturating_add(output.tensor.data().len()));
            if self.answers.is_empty() && largest.is_some() {
                self.labelled_output = labelled_output(&answers, batch.labels.len());
            }
            if bytes <= ANSWERS_BYTES_MAX {
                self.answers.push(answers);
            }
        }
        self.check_labels(smallest, largest)
    }

    /// Labels that no class can have would only ever be counted as wrong, for both.
    fn check_labels(&self, smallest: Option<i64>, largest: Option<i64>) -> Result<(), CompressError> {
        let (Some(name), Some(smallest), Some(largest)) = (&self.labelled_output, smallest, largest) else {
            return Ok(());
        };
        let Some(output) = self.answers.first().and_then(|answers| named(answers, name)) else { return Ok(()) };
        let classes = output.shape().get(1..).and_then(|rest| rest.last()).copied();
        let beyond = classes.is_some_and(|classes| usize::try_from(largest).is_ok_and(|label| label >= classes));
        if smallest >= 0 && !beyond {
            return Ok(());
        }
        let classes = classes.map_or_else(|| "some".to_owned(), |classes| classes.to_string());
        let why = format!(
            "labels go from {smallest} to {largest}, and output {name:?} has {classes} classes, counted from 0: correct \
             the array `labels`, or leave it out"
        );
        Err(CompressError::Examples { why })
    }
}

/// The least cosine between two engines' answers to one request, over its outputs; 0 where shapes differ.
pub(crate) fn cosine_least(wanted: &[NamedTensor], found: &[NamedTensor]) -> f64 {
    let cosine = |output: &NamedTensor| {
        let Some(found) = named(found, &output.name) else { return 0.0 };
        let mut comparison = Comparison::new(&output.name);
        comparison.add(&output.tensor, found, 1);
        let compared = comparison.finish(false);
        if compared.not_finite > 0 { 0.0 } else { compared.cosine_least }
    };
    wanted.iter().map(cosine).fold(1.0, f64::min)
}

/// Loads a model for judging: one thread, as a device runs it.
pub(crate) fn load(
    engine: &dyn Engine,
    model: ModelBytes,
    what: &'static str,
) -> Result<Box<dyn Session>, CompressError> {
    engine.load(model, &LoadOptions::default()).map_err(|error| CompressError::Run { what, source: error.into() })
}

fn answer(
    session: &mut dyn Session,
    inputs: &[NamedTensor],
    what: &'static str,
) -> Result<Vec<NamedTensor>, CompressError> {
    session.run(inputs, &[], &RunControl::default()).map_err(|error| CompressError::Run { what, source: error.into() })
}

fn named<'a>(answers: &'a [NamedTensor], name: &str) -> Option<&'a Tensor> {
    answers.iter().find(|answer| answer.name == name).map(|answer| &answer.tensor)
}

/// The output that a list of class numbers can be about: one row of classes, or one class number, for each example.
fn labelled_output(answers: &[NamedTensor], examples: usize) -> Option<String> {
    let first_axis = |shape: &[usize]| shape.first() == Some(&examples);
    let classes = |answer: &&NamedTensor| {
        let shape = answer.tensor.shape();
        first_axis(shape) && shape.len() == 2 && shape.get(1).is_some_and(|&width| width >= 2)
    };
    let number = |answer: &&NamedTensor| {
        let shape = answer.tensor.shape();
        let is_float = answer.tensor.to_f32().is_ok();
        first_axis(shape) && !is_float && shape.get(1..).is_some_and(|rest| rest.iter().all(|&size| size == 1))
    };
    answers.iter().find(classes).or_else(|| answers.iter().find(number)).map(|answer| answer.name.clone())
}

/// Counts which of the two got each labelled example right.
fn count_right(paired: &mut Paired, wanted: &Tensor, found: &Tensor, labels: &[Option<i64>]) {
    let (reference, variant) = (classes(wanted, labels.len()), classes(found, labels.len()));
    for (at, label) in labels.iter().enumerate() {
        let Some(label) = label else { continue };
        let is_right = |classes: &[Option<i64>]| classes.get(at).copied().flatten() == Some(*label);
        paired.add(is_right(&reference), is_right(&variant));
    }
}

/// The class that each example was given; `None` where the answer names none.
fn classes(answer: &Tensor, examples: usize) -> Vec<Option<i64>> {
    let Some(values) = numbers(answer).filter(|values| examples > 0 && values.len() % examples == 0) else {
        return Vec::new();
    };
    let width = (values.len() / examples).max(1);
    #[expect(clippy::cast_possible_truncation, reason = "a class number given as a number is whole")]
    let class = |row: &[f32]| match row {
        [number] => Some(*number as i64),
        row => top1(row).and_then(|at| i64::try_from(at).ok()),
    };
    values.chunks(width).map(class).collect()
}
