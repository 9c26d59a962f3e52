//! How sure the device's own answer is: the top-1 probability of a classification.
//!
//! Fed by the door with the output tensor that the manifest names; its result goes to [`crate::route`] and into the
//! receipt. A score is a number from 0 to 1 or there is none: an answer that cannot be scored is never confident.

use types::{Tensor, TensorError};

/// What the scored output holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScoreFrom {
    /// Unnormalised log-probabilities: the softmax is taken here.
    Logits,
    /// Probabilities.
    Probabilities,
}

/// Why an output has no score.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScoreError {
    /// Integers or strings.
    #[error("read the scored output as floating point")]
    NotFloat(#[source] TensorError),
    /// No dimension, or one of size zero.
    #[error("the scored output of shape {0:?} holds no classes")]
    Empty(Vec<usize>),
    /// A NaN, an infinity that is no mask, or a probability outside 0 to 1.
    #[error("the scored output holds {0}, which is no {1}")]
    NotANumber(String, &'static str),
}

/// Largest amount by which a probability may lie over 1 through rounding in half precision.
const PROBABILITY_SLACK: f32 = 1e-2;

/// The top-1 probability of a tensor of shape `[.., classes]`.
///
/// A batch is as sure as its least sure row, because a request is deferred as a whole.
///
/// # Errors
/// When the tensor is not floating point, holds no classes, or any row has no lawful maximum.
pub fn top1(output: &Tensor, from: ScoreFrom) -> Result<f32, ScoreError> {
    let values = output.to_f32().map_err(ScoreError::NotFloat)?;
    let empty = || ScoreError::Empty(output.shape().to_vec());
    let classes = output.shape().last().copied().filter(|&classes| classes > 0).ok_or_else(empty)?;
    let mut least: Option<f32> = None;
    for row in values.chunks_exact(classes) {
        let score = match from {
            ScoreFrom::Logits => softmax_top1(row)?,
            ScoreFrom::Probabilities => probability_top1(row)?,
        };
        least = Some(least.map_or(score, |least| least.min(score)));
    }
    least.ok_or_else(empty)
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
    #[expect(clippy::cast_possible_truncation, reason = "rounding a number from 0 to 1 to f32 is meant")]
    let top = (1.0 / sum) as f32;
    Ok(top.clamp(0.0, 1.0))
}

fn probability_top1(probabilities: &[f32]) -> Result<f32, ScoreError> {
    let lawful = |p: f32| (-PROBABILITY_SLACK..=1.0 + PROBABILITY_SLACK).contains(&p);
    if let Some(bad) = probabilities.iter().find(|p| !lawful(**p)) {
        return Err(ScoreError::NotANumber(bad.to_string(), "probability"));
    }
    Ok(probabilities.iter().copied().fold(0.0, f32::max).min(1.0))
}

#[cfg(test)]
mod tests {
    use types::DType;

    use super::*;

    fn score(shape: &[usize], values: &[f32], from: ScoreFrom) -> Result<f32, ScoreError> {
        top1(&Tensor::from_f32(shape.to_vec(), values).unwrap(), from)
    }

    #[test]
    fn logits_and_their_probabilities_score_alike() {
        let from_logits = score(&[1, 3], &[1.0, 2.0, 3.0], ScoreFrom::Logits).unwrap();
        assert!((from_logits - 0.665_240_96).abs() < 1e-6, "{from_logits}");
        assert_eq!(score(&[3], &[0.1, 0.2, 0.7], ScoreFrom::Probabilities), Ok(0.7));
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        assert_eq!(score(&[2], &[3e38, -3e38], ScoreFrom::Logits), Ok(1.0));
        assert_eq!(score(&[2], &[-3e38, -3e38], ScoreFrom::Logits), Ok(0.5));
        assert_eq!(score(&[2], &[f32::NEG_INFINITY, 0.0], ScoreFrom::Logits), Ok(1.0), "a masked class");
    }

    #[test]
    fn a_batch_is_as_sure_as_its_least_sure_row() {
        assert_eq!(score(&[2, 2], &[0.9, 0.1, 0.4, 0.6], ScoreFrom::Probabilities), Ok(0.6));
    }

    #[test]
    fn what_is_no_number_has_no_score() {
        for values in [[f32::NAN, 0.0], [f32::INFINITY, 0.0], [f32::NEG_INFINITY; 2]] {
            assert!(score(&[2], &values, ScoreFrom::Logits).is_err(), "{values:?} as logits");
        }
        for values in [[f32::NAN, 0.5], [1.5, 0.0], [-1.0, 1.0]] {
            assert!(score(&[2], &values, ScoreFrom::Probabilities).is_err(), "{values:?} as probabilities");
        }
        // One bad row spoils a batch whose other rows are sure.
        assert!(score(&[2, 2], &[1.0, 0.0, f32::NAN, 0.0], ScoreFrom::Probabilities).is_err());
    }

    #[test]
    fn an_output_without_classes_has_no_score() {
        assert!(score(&[], &[1.0], ScoreFrom::Logits).is_err());
        assert!(score(&[0, 3], &[], ScoreFrom::Logits).is_err());
        assert!(score(&[3, 0], &[], ScoreFrom::Logits).is_err());
        let integers = Tensor::new(DType::U8, vec![2], vec![0, 1].into()).unwrap();
        assert!(matches!(top1(&integers, ScoreFrom::Logits), Err(ScoreError::NotFloat(_))));
    }
}
