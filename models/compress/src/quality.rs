//! Distance between the answers of a variant and those of the model it was made of.
//!
//! Both answer the same examples one at a time, as devices ask: a form that quantizes while it runs answers differently
//! beside others. Only sums are kept. With labels the two are held against each other example by example, which shows
//! much smaller losses than two separate figures could. Fed by [`crate::auto`], [`crate::sensitivity`] and searches.

mod arithmetic;
mod custom;
mod judge;
mod labelled;
mod measure;
mod output;
mod paired;
mod task;

use engine::{Engine, LoadOptions, ModelBytes, RunControl, Session};
use serde::{Deserialize, Serialize};
use types::{NamedTensor, Tensor};

use crate::CompressError;
use output::Comparison;

pub use custom::{Custom, Score};
pub use judge::{Judge, JudgeOptions};
pub use labelled::{Figure, Labelled};
pub use measure::{Measure, Task};
pub use output::{Kind, OutputQuality};
pub use paired::{Accuracy, CONFIDENCE, Paired};

/// Largest share of the answers' spread by which two engines may differ; quantized kernels round to neighbouring steps.
const ENGINES_ERROR_MAX: f64 = 0.02;

/// Smallest cosine between two engines' answers to the same request, for the same reason.
const ENGINES_COSINE_LEAST: f64 = 0.99;

/// Smallest share of whole numbers on which two engines agree.
const ENGINES_EQUAL_LEAST: f64 = 0.98;

/// Distance of a variant from its reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Number of examples that were compared.
    pub examples: u64,
    /// Each output, in the model's order.
    pub outputs: Vec<OutputQuality>,
    /// Accuracies on labelled examples; `None` without labels of classes.
    pub accuracy: Option<Accuracy>,
    /// Both models against the labels; `None` without labels.
    pub labelled: Option<Labelled>,
    /// Figures of the whole answer: boxes, texts, the user's command.
    pub figures: Vec<Figure>,
    /// The output that the labels are about.
    pub labelled_output: Option<String>,
}

impl Quality {
    /// Loss in a measure; 0 is nothing, and with labels less than 0 is better than the reference. `None` when the answers
    /// cannot be measured so (no labels, no classes, one number per answer for cosine).
    #[must_use]
    pub fn loss(&self, measure: Measure) -> Option<f64> {
        // What is no number, or has another shape, is no small loss by any measure.
        if self.outputs.iter().any(|output| output.not_finite > 0 || output.other_shape > 0) {
            return Some(if matches!(measure, Measure::Mae | Measure::Command) { f64::MAX } else { 1.0 });
        }
        let worst =
            |figure: &dyn Fn(&OutputQuality) -> Option<f64>| self.outputs.iter().filter_map(figure).reduce(f64::max);
        match measure {
            Measure::Accuracy | Measure::Auc | Measure::F1 | Measure::R2 | Measure::Mae => {
                self.labelled.as_ref().and_then(|labelled| labelled.loss(measure))
            }
            Measure::MeanPrecision | Measure::EditDistance | Measure::Command => {
                self.figures.iter().find(|figure| figure.measure == measure).map(|figure| figure.lost)
            }
            // Asked for by name, the largest element of unnamed rows is a class too.
            Measure::Agreement => worst(&|output| output.loss(Measure::Agreement))
                .or_else(|| worst(&|output| output.top1_agreement.map(|agreement| 1.0 - agreement))),
            Measure::Cosine | Measure::Divergence | Measure::Error | Measure::Each => {
                worst(&|output| output.loss(measure))
            }
        }
    }

    /// Measure that says most about a model like this: the user's command, the declared task, the labels, and without any
    /// of them the kind of each output.
    #[must_use]
    pub fn natural_measure(&self) -> Measure {
        if let Some(figure) = self.figures.first() {
            return figure.measure;
        }
        if let Some(labelled) = &self.labelled {
            return labelled.natural;
        }
        let mut naturals = self.outputs.iter().map(|output| output.natural);
        let Some(first) = naturals.next() else { return Measure::Cosine };
        if naturals.all(|measure| measure == first) { first } else { Measure::Each }
    }

    /// Measures that these answers allow, for errors.
    #[must_use]
    pub fn possible(&self) -> Vec<&'static str> {
        let possible = |measure: &Measure| *measure != Measure::Divergence && self.loss(*measure).is_some();
        Measure::ALL.into_iter().filter(possible).map(Measure::as_str).collect()
    }
}

/// Checks that two engines give the same answers to the same requests.
///
/// # Errors
/// A clause that names the output and the distance.
pub(crate) fn engines_agree(wanted: &[Vec<NamedTensor>], found: &[Vec<NamedTensor>]) -> Result<(), String> {
    let Some(first) = wanted.first() else { return Ok(()) };
    for output in first {
        let name = &output.name;
        let mut comparison = Comparison::new(name);
        for (wanted, found) in wanted.iter().zip(found) {
            match (named(wanted, name), named(found, name)) {
                (Some(wanted), Some(found)) => comparison.add(wanted, found),
                (Some(_) | None, _) => return Err(format!("output {name:?} is missing")),
            }
        }
        let compared = comparison.finish(false);
        if compared.not_finite > 0 || compared.other_shape > 0 {
            return Err(format!("output {name:?} has another shape, or numbers that are not finite"));
        }
        match compared.kind {
            Kind::Integers | Kind::Text => {
                let equal = compared.equal.unwrap_or(1.0);
                if equal < ENGINES_EQUAL_LEAST {
                    return Err(format!("{:.1} % of output {name:?} differs", 100.0 * (1.0 - equal)));
                }
            }
            // Eight requests may all be answered alike: only the distance from the answers themselves is sure then.
            Kind::Number => {
                let error = compared.relative_error * compared.relative_error;
                if error > ENGINES_ERROR_MAX {
                    return Err(format!("output {name:?} is off by {:.1} %", 100.0 * compared.relative_error));
                }
            }
            Kind::Probabilities | Kind::Logits | Kind::Values => {
                if compared.cosine_least < ENGINES_COSINE_LEAST {
                    return Err(format!("output {name:?} has a cosine of {:.4}", compared.cosine_least));
                }
            }
        }
    }
    Ok(())
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
