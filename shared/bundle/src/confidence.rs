//! Computes the score of an answer: how sure the model is of it, from 0 to 1.
//!
//! Fed by the agent with the output that the manifest names, and by the calibration with the same output, so that a threshold
//! means the same in both. An answer that cannot be scored has no score, and is never confident.

use types::{Tensor, TensorError};

use crate::manifest::score::position;
use crate::{ScoreFrom, ScoreKind, ScoreRule};

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

/// Smallest probability whose logarithm is taken: below it half precision has only zeros.
const PROBABILITY_MIN: f64 = 1e-12;

/// Largest absolute value of a feature, so that one extreme logit cannot decide a weighted sum.
const FEATURE_MAX: f64 = 64.0;

/// Number of features of an answer that a [`ScoreKind::Learned`] score weighs.
pub const FEATURES: usize = 4;

/// Figures of one row of classes, from which the scores of classes are computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassRow {
    /// Position of the largest class.
    pub top: usize,
    /// Probability of the largest class.
    pub first: f64,
    /// Probability of the second largest class.
    pub second: f64,
    /// Entropy of the probabilities over that of equal ones, 0 to 1.
    pub entropy: f64,
    /// Logarithm of the sum of the exponentials of the logits, times the temperature; 0 for probabilities.
    pub energy: f64,
}

/// Returns the score of an output, 0 to 1.
///
/// A batch is as sure as its least sure row, because a request is deferred as a whole.
///
/// # Errors
/// When the tensor is not floating point, holds nothing to score, or any value of it is not lawful.
pub fn score(output: &Tensor, rule: &ScoreRule) -> Result<f32, ScoreError> {
    let values = output.to_f32().map_err(ScoreError::NotFloat)?;
    match rule.kind {
        ScoreKind::Top1Probability
        | ScoreKind::Margin
        | ScoreKind::Entropy
        | ScoreKind::Energy
        | ScoreKind::Learned => {
            let rows = class_rows(output.shape(), &values, rule)?;
            let scores = rows.iter().map(|row| Ok(narrow(of_row(row, rule))));
            least(output.shape(), scores)
        }
        ScoreKind::Sigmoid => {
            let certainty = |value: &f32| probability(*value, rule).map(|p| p.max(1.0 - p));
            least(output.shape(), values.iter().map(certainty))
        }
        ScoreKind::BoxMaximum => {
            let images = if output.shape().len() > 1 { output.shape().first().copied().unwrap_or(0) } else { 1 };
            let of_one = values.len().checked_div(images).filter(|&of_one| of_one > 0);
            let of_one = of_one.ok_or_else(|| ScoreError::Empty(output.shape().to_vec()))?;
            let largest = |image: &[f32]| {
                image.iter().try_fold(0.0_f32, |largest, &value| Ok(largest.max(probability(value, rule)?)))
            };
            least(output.shape(), values.chunks_exact(of_one).map(largest))
        }
    }
}

/// Returns the figures of every row of classes of an output, by content, axis and temperature of a rule.
///
/// # Errors
/// As [`score`].
pub fn rows(output: &Tensor, rule: &ScoreRule) -> Result<Vec<ClassRow>, ScoreError> {
    let values = output.to_f32().map_err(ScoreError::NotFloat)?;
    class_rows(output.shape(), &values, rule)
}

/// Returns the score of one row of classes by the kind of a rule, 0 to 1.
#[must_use]
pub fn of_row(row: &ClassRow, rule: &ScoreRule) -> f64 {
    match rule.kind {
        ScoreKind::Margin => row.first - row.second,
        ScoreKind::Entropy => 1.0 - row.entropy,
        // Squashed without a limit of its range, in the order of the energy.
        ScoreKind::Energy => 0.5 + 0.5 * row.energy / (1.0 + row.energy.abs()),
        ScoreKind::Learned => {
            let [bias, weights @ ..] = rule.weights.unwrap_or_default();
            let sum: f64 = features(row).iter().zip(weights).map(|(feature, weight)| feature * f64::from(weight)).sum();
            logistic(f64::from(bias) + sum)
        }
        ScoreKind::Top1Probability | ScoreKind::Sigmoid | ScoreKind::BoxMaximum => row.first,
    }
}

/// Returns the features that a [`ScoreKind::Learned`] score weighs: log-odds of the first class, logarithm of the ratio of
/// the first two, normalised entropy, energy.
#[must_use]
pub fn features(row: &ClassRow) -> [f64; FEATURES] {
    let log = |p: f64| p.max(PROBABILITY_MIN).ln();
    let odds = log(row.first) - log(1.0 - row.first);
    let ratio = log(row.first) - log(row.second);
    [odds, ratio, row.entropy, row.energy.clamp(-FEATURE_MAX, FEATURE_MAX)]
}

/// Returns the logistic function of a number.
#[must_use]
pub fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
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

fn class_rows(shape: &[usize], values: &[f32], rule: &ScoreRule) -> Result<Vec<ClassRow>, ScoreError> {
    if shape.is_empty() || shape.contains(&0) {
        return Err(ScoreError::Empty(shape.to_vec()));
    }
    let axis = rule.axis.unwrap_or(-1);
    let at = position(Some(axis), shape.len()).ok_or_else(|| ScoreError::NoAxis { shape: shape.to_vec(), axis })?;
    let classes = shape.get(at).copied().unwrap_or(0);
    if classes == 1 {
        return Err(ScoreError::OneClass { shape: shape.to_vec(), axis: at });
    }
    let inner: usize = shape.iter().skip(at + 1).product();
    let mut row = Vec::with_capacity(classes);
    let mut rows = Vec::with_capacity(values.len() / classes.max(1));
    for block in values.chunks_exact(classes.saturating_mul(inner)) {
        for column in 0..inner {
            row.clear();
            row.extend(block.iter().skip(column).step_by(inner).copied());
            rows.push(class_row(&row, rule)?);
        }
    }
    Ok(rows)
}

fn class_row(values: &[f32], rule: &ScoreRule) -> Result<ClassRow, ScoreError> {
    let temperature = rule.temperature.map(f64::from);
    match (rule.from, temperature) {
        (ScoreFrom::Logits, _) => {
            // Minus infinity is how exporters mask a class; it has probability zero.
            if let Some(bad) = values.iter().find(|x| x.is_nan() || **x == f32::INFINITY) {
                return Err(ScoreError::NotANumber(bad.to_string(), "logit"));
            }
            if values.iter().all(|x| *x == f32::NEG_INFINITY) {
                return Err(ScoreError::NotANumber(f32::NEG_INFINITY.to_string(), "largest logit"));
            }
            Ok(softmax(values.iter().map(|&x| f64::from(x)), temperature.unwrap_or(1.0)))
        }
        (ScoreFrom::Probabilities, None) => {
            for &value in values {
                probability(value, rule)?;
            }
            Ok(figures(values.iter().map(|&p| f64::from(p.clamp(0.0, 1.0))), 0.0))
        }
        (ScoreFrom::Probabilities, Some(temperature)) => {
            for &value in values {
                probability(value, rule)?;
            }
            let logits = values.iter().map(|&p| f64::from(p.clamp(0.0, 1.0)).max(PROBABILITY_MIN).ln());
            Ok(ClassRow { energy: 0.0, ..softmax(logits, temperature) })
        }
    }
}

/// Figures of logits over a temperature. The largest logit is subtracted first, so that nothing overflows.
fn softmax(logits: impl Iterator<Item = f64> + Clone, temperature: f64) -> ClassRow {
    let max = logits.clone().fold(f64::NEG_INFINITY, f64::max);
    // Summed in f64: a vocabulary of a million small terms would lose them in f32.
    let sum: f64 = logits.clone().map(|x| ((x - max) / temperature).exp()).sum();
    figures(logits.map(|x| ((x - max) / temperature).exp() / sum), max + temperature * sum.ln())
}

fn figures(probabilities: impl Iterator<Item = f64> + Clone, energy: f64) -> ClassRow {
    let (mut top, mut first, mut second, mut entropy, mut classes) = (0, f64::NEG_INFINITY, 0.0_f64, 0.0, 0.0_f64);
    for (at, p) in probabilities.enumerate() {
        classes += 1.0;
        if p > 0.0 {
            entropy -= p * p.ln();
        }
        if p > first {
            (top, second, first) = (at, first.max(0.0), p);
        } else {
            second = second.max(p);
        }
    }
    ClassRow { top, first, second, entropy: (entropy / classes.ln()).clamp(0.0, 1.0), energy }
}

/// The probability that one value stands for by itself.
fn probability(value: f32, rule: &ScoreRule) -> Result<f32, ScoreError> {
    match rule.from {
        // A masked yes/no answer is a sure "no"; the opposite is no value that a model computes.
        ScoreFrom::Logits if value.is_nan() || value == f32::INFINITY => {
            Err(ScoreError::NotANumber(value.to_string(), "logit"))
        }
        ScoreFrom::Logits => Ok(narrow(logistic(f64::from(value) / f64::from(rule.temperature.unwrap_or(1.0))))),
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
