//! Comparison of two models on the same examples: McNemar's exact test, and where they disagree.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::binomial;
use crate::metrics::{Figure, agreement};

/// Outcome of McNemar's exact test: only examples that one model reads right and the other wrong say which is better.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Examples that only the first model reads right.
    pub only_first: usize,
    /// Examples that only the second model reads right.
    pub only_second: usize,
    /// Two-sided probability of a difference as large as this between two equally good models.
    pub p: f64,
}

/// Compares the classes of two models by the labels.
#[must_use]
pub fn mcnemar(first: &[usize], second: &[usize], labels: &[usize]) -> McNemar {
    let (mut only_first, mut only_second) = (0, 0);
    for ((a, b), label) in first.iter().zip(second).zip(labels) {
        match (a == label, b == label) {
            (true, false) => only_first += 1,
            (false, true) => only_second += 1,
            (true, true) | (false, false) => {}
        }
    }
    McNemar { only_first, only_second, p: mcnemar_p(only_first, only_second) }
}

/// Returns the two-sided probability of McNemar's exact test: with equally good models, each example that only one of them reads right
/// falls to either side like a fair coin.
#[must_use]
pub fn mcnemar_p(only_first: usize, only_second: usize) -> f64 {
    let (fewer, total) = (only_first.min(only_second), only_first.saturating_add(only_second));
    (2.0 * binomial::at_most(fewer, total, 0.5)).min(1.0)
}

/// Agreement of two models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Share of examples with the same class.
    pub share: Figure,
    /// Examples by the class of the first and of the second model, where they differ; most frequent first.
    pub confusions: Vec<(usize, usize, usize)>,
}

/// Returns the agreement of the classes of two models.
#[must_use]
pub fn agree(first: &[usize], second: &[usize]) -> Agreement {
    let mut counts: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (&a, &b) in first.iter().zip(second).filter(|(a, b)| a != b) {
        *counts.entry((a, b)).or_default() += 1;
    }
    let mut confusions: Vec<_> = counts.into_iter().map(|((a, b), count)| (a, b, count)).collect();
    confusions.sort_by_key(|&(a, b, count)| (std::cmp::Reverse(count), a, b));
    Agreement { share: agreement(first, second), confusions }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_examples_that_one_model_reads_right_decide() {
        // 1 against 7 of 8: 2 * (1 + 8) / 256.
        let labels = [0; 20];
        let first: Vec<usize> = (0..20).map(|at| usize::from((1..8).contains(&at))).collect();
        let second: Vec<usize> = (0..20).map(|at| usize::from(at == 10)).collect();
        let test = mcnemar(&first, &second, &labels);
        assert_eq!((test.only_first, test.only_second), (1, 7));
        assert!((test.p - 18.0 / 256.0).abs() < 1e-12, "{test:?}");
        assert_eq!(mcnemar(&first, &first, &labels).p, 1.0);
    }

    #[test]
    fn confusions_come_by_frequency() {
        let found = agree(&[1, 1, 2, 3, 3], &[1, 2, 3, 2, 2]);
        assert_eq!(found.confusions, [(3, 2, 2), (1, 2, 1), (2, 3, 1)]);
        assert!((found.share.value - 0.2).abs() < 1e-12);
    }
}
