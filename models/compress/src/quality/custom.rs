//! Judging by a command of the user.
//!
//! The crate hands the answers of each form to a [`Custom`] judge, which the command line implements with files and a
//! process; what is lost is the difference of the numbers that come back.

use types::NamedTensor;

use crate::{CompressError, Label};

/// Number that a user's command gave to the answers of one form.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// The number; NaN counts as the worst.
    pub value: f64,
    /// Whether a higher number is better.
    pub higher_is_better: bool,
}

impl Score {
    /// Loss of a form with this score against the reference's.
    #[must_use]
    pub fn lost_from(self, reference: Self) -> f64 {
        let lost = if self.higher_is_better { reference.value - self.value } else { self.value - reference.value };
        if lost.is_nan() { f64::MAX } else { lost }
    }
}

/// Judges the answers of one form after the other.
pub trait Custom: std::fmt::Debug {
    /// Takes the answers to the next example: its row in the examples, its label, and every output.
    ///
    /// # Errors
    /// When they cannot be stored.
    fn take(&mut self, row: usize, label: Option<&Label>, answers: &[NamedTensor]) -> Result<(), CompressError>;

    /// Judges what was taken since the last call.
    ///
    /// # Errors
    /// When the command fails, takes too long or prints no number.
    fn finish(&mut self) -> Result<Score, CompressError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_follows_the_direction() {
        let score = |value, higher_is_better| Score { value, higher_is_better };
        assert_eq!(score(0.5, true).lost_from(score(0.75, true)), 0.25);
        assert_eq!(score(0.5, false).lost_from(score(0.75, false)), -0.25);
        assert_eq!(score(f64::NAN, true).lost_from(score(0.75, true)), f64::MAX);
    }
}
