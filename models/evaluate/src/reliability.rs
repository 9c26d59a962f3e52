//! Reliability of scores: how far the stated probability of being right is from the share that is right.

use serde::{Deserialize, Serialize};

use crate::real;

/// Bins of the calibration error, each with as many examples as the others.
pub const BINS: usize = 15;

/// One bin of a reliability diagram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Examples in the bin.
    pub examples: usize,
    /// Mean score.
    pub score: f64,
    /// Share that is right.
    pub right: f64,
}

impl Bin {
    /// Returns the number of examples in the bin that are right.
    #[must_use]
    pub fn right_examples(&self) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count of examples")]
        let right = (self.right * real(self.examples)).round() as usize;
        right.min(self.examples)
    }
}

/// Reliability of the scores of a set of examples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reliability {
    /// Bins by increasing score.
    pub bins: Vec<Bin>,
    /// Expected calibration error: mean distance of score and share over the bins, 0 to 1.
    pub ece: f64,
    /// Brier score: mean squared distance of score and outcome, 0 to 1.
    pub brier: f64,
}

/// Returns the reliability of scores, each with whether its answer is right. `None` without examples.
#[must_use]
pub fn reliability(scored: &[(f32, bool)]) -> Option<Reliability> {
    if scored.is_empty() {
        return None;
    }
    let mut sorted = scored.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let outcome = |right: bool| f64::from(u8::from(right));
    let bins: Vec<Bin> = sorted
        .chunks(sorted.len().div_ceil(BINS))
        .map(|bin| Bin {
            examples: bin.len(),
            score: bin.iter().map(|one| f64::from(one.0)).sum::<f64>() / real(bin.len()),
            right: bin.iter().map(|one| outcome(one.1)).sum::<f64>() / real(bin.len()),
        })
        .collect();
    let n = real(sorted.len());
    let ece = bins.iter().map(|bin| real(bin.examples) * (bin.score - bin.right).abs()).sum::<f64>() / n;
    let brier = sorted.iter().map(|one| (f64::from(one.0) - outcome(one.1)).powi(2)).sum::<f64>() / n;
    Some(Reliability { bins, ece, brier })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sure_and_right_is_reliable_and_sure_and_wrong_is_not() {
        let right = reliability(&[(1.0, true); 100]).unwrap();
        assert_eq!((right.ece, right.brier), (0.0, 0.0));
        let wrong = reliability(&[(1.0, false); 100]).unwrap();
        assert_eq!((wrong.ece, wrong.brier), (1.0, 1.0));
        let half: Vec<(f32, bool)> = (0..100).map(|at| (0.5, at % 2 == 0)).collect();
        let half = reliability(&half).unwrap();
        assert!(half.ece < 0.08 && (half.brier - 0.25).abs() < 1e-9, "{half:?}");
        assert_eq!(reliability(&[]), None);
    }
}
