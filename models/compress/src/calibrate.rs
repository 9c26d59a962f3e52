//! What values a model really has inside, seen by running it on real inputs.
//!
//! Fed with a model, examples and an engine; feeds every pass that must know activations: their ranges ([`observe`]) or
//! the tensors themselves ([`each`]). Holds the values of one batch at a time, and histograms instead of values.

mod expose;
mod extremes;
mod histogram;
mod means;
mod run;
mod threshold;

use std::collections::{BTreeMap, BTreeSet};

use engine::Engine;
use onnx_graph::Model;
use serde::{Deserialize, Serialize};
use types::NamedTensor;

use crate::{CompressError, Examples};
pub(crate) use expose::is_float;
use extremes::Extremes;
use histogram::Histogram;
pub use means::{Means, means};

/// Method that makes a range of the values seen.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// From the least to the greatest value. Costs least: the engine finds both where the value is made.
    #[default]
    MinMax,
    /// The least and greatest value of each batch, averaged with exponentially falling weight: `average += momentum *
    /// (batch - average)`.
    MovingAverage {
        /// Weight of the newest batch, above 0 and at most 1.
        momentum: f32,
    },
    /// What holds this share of all values, the rest cut evenly on both sides.
    Percentile {
        /// In percent, above 50 and at most 100; ONNX Runtime's tools use 99.999.
        percent: f64,
    },
    /// The cut whose 8-bit form differs least from the distribution, by Kullback-Leibler divergence (Migacz, "8-bit
    /// inference with TensorRT", 2017).
    Entropy,
    /// The cut with the least mean squared error in 8 bits.
    Mse,
}

/// The values that a tensor takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// Lower end of the range.
    pub low: f32,
    /// Upper end of the range.
    pub high: f32,
}

/// Ranges of values, by name.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Ranges {
    /// The ranges. A value that was never seen, was empty or is of another type than f32 has none.
    pub found: BTreeMap<String, Range>,
    /// Values that were infinite or not a number at least once.
    pub unbounded: BTreeSet<String>,
}

/// Examples that run in one request where the model allows it: enough to keep two cores busy with a small model.
pub const BATCH: usize = 8;

/// Runs the model on every example and gives the range of each of the values.
///
/// # Errors
/// When an option makes no sense, examples cannot be read, or the engine does not run the model.
pub fn observe(
    engine: &dyn Engine,
    model: &Model,
    examples: &Examples,
    values: &[String],
    method: Method,
) -> Result<Ranges, CompressError> {
    check(method)?;
    if examples.is_empty() {
        return Err(CompressError::Examples { reason: "there is none to calibrate with".to_owned() });
    }
    match method {
        Method::MinMax => extremes::least_and_greatest(engine, model, examples, values, None),
        Method::MovingAverage { momentum } => {
            extremes::least_and_greatest(engine, model, examples, values, Some(momentum))
        }
        Method::Percentile { .. } | Method::Entropy | Method::Mse => {
            let seen = histograms(engine, model, examples, values)?;
            Ok(ranges(seen.into_iter().map(|(name, (extremes, histogram))| {
                let whole = extremes.range();
                let cut = match method {
                    Method::Percentile { percent } => threshold::percentile(&histogram, percent),
                    Method::Entropy => threshold::entropy(&histogram),
                    Method::Mse => threshold::least_squares(&histogram),
                    Method::MinMax | Method::MovingAverage { .. } => None,
                };
                (name, extremes.is_bounded(), whole.map(|whole| cut.map_or(whole, |cut| within(cut, whole))))
            })))
        }
    }
}

/// A cut falls on the border of a bin, which may lie outside of what was seen.
fn within(cut: Range, whole: Range) -> Range {
    Range { low: cut.low.max(whole.low), high: cut.high.min(whole.high) }
}

fn check(method: Method) -> Result<(), CompressError> {
    let wrong =
        |option, value: String, reason: &str| CompressError::Option { option, value, reason: reason.to_owned() };
    match method {
        Method::MovingAverage { momentum } if !(momentum > 0.0 && momentum <= 1.0) => {
            Err(wrong("momentum", momentum.to_string(), "use a number above 0 and at most 1, like 0.1"))
        }
        Method::Percentile { percent } if !(percent > 50.0 && percent <= 100.0) => {
            Err(wrong("percentile", percent.to_string(), "use a number above 50 and at most 100, like 99.99"))
        }
        Method::MinMax | Method::MovingAverage { .. } | Method::Percentile { .. } | Method::Entropy | Method::Mse => {
            Ok(())
        }
    }
}

/// Gathers what was found of each value: its name, whether it was always finite, its range.
fn ranges(seen: impl Iterator<Item = (String, bool, Option<Range>)>) -> Ranges {
    let mut ranges = Ranges::default();
    for (name, bounded, range) in seen {
        if !bounded {
            ranges.unbounded.insert(name);
        } else if let Some(range) = range {
            ranges.found.insert(name, range);
        }
    }
    ranges
}

/// Receiver of the values of a batch.
pub type See<'a> = dyn FnMut(&[NamedTensor]) -> Result<(), CompressError> + 'a;

/// Runs the model on every example and gives the values of each batch to `see`.
///
/// Values that do not fit into one answer of the engine are given in groups: one group through all batches, then
/// the next. A value that alone is larger than an answer is given in parts along one axis: along the third of an image, the
/// second of a stack of rows. Inputs of the model may be asked for too. Values of any type are given.
///
/// # Errors
/// When examples cannot be read, the engine does not run the model, or `see` gives an error.
pub fn each(
    engine: &dyn Engine,
    model: &Model,
    examples: &Examples,
    values: &[String],
    see: &mut See<'_>,
) -> Result<(), CompressError> {
    run::in_groups(engine, model, examples, values, see)
}

type Seen = BTreeMap<String, (Extremes, Histogram)>;

fn histograms(
    engine: &dyn Engine,
    model: &Model,
    examples: &Examples,
    values: &[String],
) -> Result<Seen, CompressError> {
    let mut seen = Seen::new();
    run::in_groups(engine, model, examples, values, &mut |tensors| {
        for tensor in tensors {
            if !seen.contains_key(&tensor.name) {
                seen.insert(tensor.name.clone(), Default::default());
            }
        }
        let mut work: Vec<_> = Vec::with_capacity(tensors.len());
        for (name, state) in &mut seen {
            if let Some(found) = tensors.iter().find(|tensor| tensor.name == *name) {
                work.push((&found.tensor, state));
            }
        }
        histogram::add_all(work);
        Ok(())
    })?;
    Ok(seen)
}
