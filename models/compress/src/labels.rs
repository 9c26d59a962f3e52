//! Summary of the labels of a set of examples.
//!
//! Fed by [`crate::examples`] with the array `labels`; read by [`crate::quality`], which chooses the task by them.

use std::collections::BTreeSet;

use evaluate::labels::Label;

/// Number of different labels of a yes-or-no question.
///
/// Ratings, ages and counts have more.
const TWO_CLASSES: usize = 2;

/// Largest number of different values that [`LabelFacts`] remembers.
const VALUES_MAX: usize = 64;

/// Summary of all labels of a set, by which the task is chosen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LabelFacts {
    /// Examples with a label.
    pub(crate) labelled: usize,
    /// Numbers per label; `None` when it varies.
    pub(crate) width: Option<usize>,
    /// Whether every number is whole.
    pub(crate) is_whole: bool,
    /// Smallest number among the labels.
    pub(crate) least: f64,
    /// Largest number among the labels.
    pub(crate) greatest: f64,
    /// Different numbers, by their bits; at most [`VALUES_MAX`].
    values: BTreeSet<i64>,
}

impl LabelFacts {
    /// Summarises labels; `None` when there are none.
    pub(crate) fn of<'a>(labels: impl Iterator<Item = &'a Label>) -> Option<Self> {
        let mut facts: Option<Self> = None;
        for label in labels {
            let facts = facts.get_or_insert_with(|| Self {
                labelled: 0,
                width: Some(label.0.len()),
                is_whole: true,
                least: f64::INFINITY,
                greatest: f64::NEG_INFINITY,
                values: BTreeSet::new(),
            });
            facts.labelled += 1;
            facts.width = facts.width.filter(|&width| width == label.0.len());
            for &number in &label.0 {
                facts.is_whole &= number.fract() == 0.0;
                facts.least = facts.least.min(number);
                facts.greatest = facts.greatest.max(number);
                if facts.values.len() < VALUES_MAX {
                    facts.values.insert(number.to_bits().cast_signed());
                }
            }
        }
        facts
    }

    /// Returns whether the labels say yes or no: two whole numbers, of which the smaller is 0 or -1.
    pub(crate) fn is_binary(&self) -> bool {
        let is_pair = self.values.len() <= TWO_CLASSES && self.greatest <= 1.0;
        self.is_whole && is_pair && (self.least == 0.0 || self.least == -1.0 || self.least == 1.0)
    }

    /// Description for errors: `whole numbers from 0 to 9`.
    pub(crate) fn told(&self) -> String {
        let kind = if self.is_whole { "whole numbers" } else { "numbers" };
        let width = match self.width {
            Some(1) => String::new(),
            Some(width) => format!(", {width} per example"),
            None => ", a varying count per example".to_owned(),
        };
        format!("{kind} from {} to {}{width}", self.least, self.greatest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(labels: &[&[f64]]) -> LabelFacts {
        let labels: Vec<Label> = labels.iter().map(|label| Label(label.to_vec())).collect();
        LabelFacts::of(labels.iter()).unwrap()
    }

    #[test]
    fn yes_and_no_are_told_from_classes_and_quantities() {
        assert!(facts(&[&[0.0], &[1.0]]).is_binary());
        assert!(facts(&[&[-1.0], &[1.0]]).is_binary());
        assert!(facts(&[&[0.0, 1.0], &[1.0, 1.0]]).is_binary());
        assert!(!facts(&[&[0.0], &[2.0]]).is_binary());
        assert!(!facts(&[&[0.0], &[0.5]]).is_binary());
        assert_eq!(facts(&[&[1.0], &[2.0, 3.0]]).width, None);
    }
}
