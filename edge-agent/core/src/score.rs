//! Computes how sure the device's own answer is.
//!
//! Fed by the daemon with the output tensor that the manifest names; its result goes to [`crate::route`] and into the
//! receipt. A score is a number from 0 to 1 or there is none: an answer that cannot be scored is never confident.

use types::{Tensor, TensorError};

/// The figure that is computed from an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScoreKind {
    /// The largest class probability along one dimension.
    Top1 {
        /// Number of that dimension, from 0; a negative number counts from the end.
        axis: i64,
    },
    /// The certainty of independent yes/no answers, `max(p, 1 - p)`: a sure "no" is as sure as a sure "yes". The least
    /// certain answer counts.
    Sigmoid,
    /// The largest probability among all boxes of one image. The first dimension, where there are two or more, is the
    /// batch. An image without a likely object has a low score, so that it is deferred: nothing in an output tells a
    /// sure "nothing here" from an object that was missed.
    BoxMaximum,
}

/// Content of the scored output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScoreFrom {
    /// Unnormalised log-probabilities: softmax (`Top1`) or sigmoid (the others) is taken here.
    Logits,
    /// Probabilities of the classes.
    Probabilities,
}

/// Reason for an output without a score.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScoreError {
    /// Integers or strings, which have no order by confidence.
    #[error("read the scored output as floating point")]
    NotFloat(#[source] TensorError),
    /// No dimension, or one of size zero.
    #[error("the scored output of shape {0:?} holds nothing to score")]
    Empty(Vec<usize>),
    /// The class dimension does not exist.
    #[error("the scored output of shape {shape:?} has no dimension {axis}")]
    NoAxis {
        /// Shape of the output.
        shape: Vec<usize>,
        /// The class dimension of the rule.
        axis: i64,
    },
    /// One class: its softmax is 1 whatever the model computes.
    #[error("dimension {axis} of the scored output of shape {shape:?} has one class: a score needs two or more")]
    OneClass {
        /// Shape of the output.
        shape: Vec<usize>,
        /// Number of the class dimension, from 0.
        axis: usize,
    },
    /// A NaN, an infinity that is no mask, or a probability outside 0 to 1.
    #[error("the scored output holds {0}, which is no {1}")]
    NotANumber(String, &'static str),
}

/// Largest amount by which a probability may exceed 1 or fall below 0 through rounding in half precision.
const PROBABILITY_SLACK: f32 = 1e-2;

/// Returns the score of an output, 0 to 1.
///
/// A batch is as sure as its least sure row, because a request is deferred as a whole.
///
/// # Errors
/// When the tensor is not floating point, holds nothing to score, or any value of it is not lawful.
pub fn score(output: &Tensor, kind: ScoreKind, from: ScoreFrom) -> Result<f32, ScoreError> {
    let values = output.to_f32().map_err(ScoreError::NotFloat)?;
    match kind {
        ScoreKind::Top1 { axis } => top1(output.shape(), &values, axis, from),
        ScoreKind::Sigmoid => {
            let certainty = |value: &f32| probability(*value, from).map(|p| p.max(1.0 - p));
            least(output.shape(), values.iter().map(certainty))
        }
        ScoreKind::BoxMaximum => {
            let images = if output.shape().len() > 1 { output.shape().first().copied().unwrap_or(0) } else { 1 };
            let of_one = values.len().checked_div(images).filter(|&of_one| of_one > 0);
            let of_one = of_one.ok_or_else(|| ScoreError::Empty(output.shape().to_vec()))?;
            let largest = |image: &[f32]| {
                image.iter().try_fold(0.0_f32, |largest, &value| Ok(largest.max(probability(value, from)?)))
            };
            least(output.shape(), values.chunks_exact(of_one).map(largest))
        }
    }
}

/// Smallest of the scores of the rows.
fn least(shape: &[usize], rows: impl Iterator<Item = Result<f32, ScoreError>>) -> Result<f32, ScoreError> {
    let mut least: Option<f32> = None;
    for score in rows {
        let score = score?;
        least = Some(least.map_or(score, |least| least.min(score)));
    }
    least.ok_or_else(|| ScoreError::Empty(shape.to_vec()))
}

fn top1(shape: &[usize], values: &[f32], axis: i64, from: ScoreFrom) -> Result<f32, ScoreError> {
    if shape.is_empty() || shape.contains(&0) {
        return Err(ScoreError::Empty(shape.to_vec()));
    }
    let none = || ScoreError::NoAxis { shape: shape.to_vec(), axis };
    let rank = i64::try_from(shape.len()).map_err(|_over| none())?;
    let at = if axis < 0 { axis.saturating_add(rank) } else { axis };
    let at = usize::try_from(at).ok().filter(|&at| at < shape.len()).ok_or_else(none)?;
    let classes = shape.get(at).copied().unwrap_or(0);
    if classes == 1 {
        return Err(ScoreError::OneClass { shape: shape.to_vec(), axis: at });
    }
    let inner: usize = shape.iter().skip(at + 1).product();
    let mut row = Vec::with_capacity(classes);
    let mut score_of = |block: &[f32], column: usize| {
        row.clear();
        row.extend(block.iter().skip(column).step_by(inner).copied());
        match from {
            ScoreFrom::Logits => softmax_top1(&row),
            ScoreFrom::Probabilities => probability_top1(&row),
        }
    };
    let mut scores = Vec::new();
    for block in values.chunks_exact(classes.saturating_mul(inner)) {
        for column in 0..inner {
            scores.push(score_of(block, column));
        }
    }
    least(shape, scores.into_iter())
}

/// The largest softmax probability: `1 / Σ exp(x - max)`, which cannot overflow.
fn softmax_top1(logits: &[f32]) -> Result<f32, ScoreError> {
    // Minus infinity is how exporters mask a class; it has probability zero.
    if let Some(bad) = logits.iter().find(|x| x.is_nan() || **x == f32::INFINITY) {
        return Err(ScoreError::NotANumber(bad.to_string(), "logit"));
    }
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return Err(ScoreError::NotANumber(max.to_string(), "largest logit"));
    }
    // Summed in f64: a vocabulary of a million small terms would lose them in f32.
    let sum: f64 = logits.iter().map(|x| (f64::from(*x) - f64::from(max)).exp()).sum();
    Ok(narrow(1.0 / sum))
}

fn probability_top1(probabilities: &[f32]) -> Result<f32, ScoreError> {
    probabilities
        .iter()
        .try_fold(0.0_f32, |largest, &value| Ok(largest.max(probability(value, ScoreFrom::Probabilities)?)))
}

/// The probability that one value stands for by itself.
fn probability(value: f32, from: ScoreFrom) -> Result<f32, ScoreError> {
    match from {
        // A masked yes/no answer is a sure "no"; the opposite is no value that a model computes.
        ScoreFrom::Logits if value.is_nan() || value == f32::INFINITY => {
            Err(ScoreError::NotANumber(value.to_string(), "logit"))
        }
        ScoreFrom::Logits => Ok(narrow(1.0 / (1.0 + (-f64::from(value)).exp()))),
        ScoreFrom::Probabilities if (-PROBABILITY_SLACK..=1.0 + PROBABILITY_SLACK).contains(&value) => {
            Ok(value.clamp(0.0, 1.0))
        }
        ScoreFrom::Probabilities => Err(ScoreError::NotANumber(value.to_string(), "probability")),
    }
}

fn narrow(value: f64) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "rounding a number from 0 to 1 to f32 is meant")]
    let narrowed = value as f32;
    narrowed.clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests;
