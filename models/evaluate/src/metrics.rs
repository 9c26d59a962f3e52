//! Metrics of classes on labelled examples, and agreement with another model, with intervals.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Interval, binomial, bootstrap, real, share};

/// Confidence of all intervals.
pub const CONFIDENCE: f64 = 0.95;

/// Seed of the draws: the same examples give the same interval.
const SEED: u64 = 1;

/// A figure with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Value on the examples.
    pub value: f64,
    /// Interval at [`CONFIDENCE`].
    pub interval: Interval,
    /// Examples that it is of.
    pub examples: usize,
}

/// Returns a share of examples with its Clopper-Pearson interval.
#[must_use]
pub fn proportion(part: usize, total: usize) -> Figure {
    Figure { value: share(part, total), interval: binomial::interval(part, total, CONFIDENCE), examples: total }
}

/// Returns the share of pairs that are equal: accuracy against labels, or agreement with another model.
#[must_use]
pub fn agreement(ours: &[usize], theirs: &[usize]) -> Figure {
    let equal = ours.iter().zip(theirs).filter(|(a, b)| a == b).count();
    proportion(equal, ours.len().min(theirs.len()))
}

/// Returns the share of labels that are among the `k` largest classes; `ranked` has the classes of each example, largest first.
#[must_use]
pub fn top_k(ranked: &[Vec<usize>], labels: &[usize], k: usize) -> Figure {
    let within = ranked.iter().zip(labels).filter(|(ranked, label)| ranked.iter().take(k).any(|class| class == *label));
    proportion(within.count(), ranked.len().min(labels.len()))
}

/// Returns the mean F1 score over the classes that occur, with a bootstrap interval. `None` without examples.
#[must_use]
pub fn macro_f1(classes: &[usize], labels: &[usize]) -> Option<Figure> {
    let n = classes.len().min(labels.len());
    let pair = |at: usize| Some((*classes.get(at)?, *labels.get(at)?));
    let f1 = |chosen: &mut dyn Iterator<Item = usize>| {
        let mut counts: BTreeMap<usize, (usize, usize, usize)> = BTreeMap::new();
        for (class, label) in chosen.filter_map(pair) {
            counts.entry(class).or_default().1 += 1;
            counts.entry(label).or_default().2 += 1;
            if class == label {
                counts.entry(class).or_default().0 += 1;
            }
        }
        // 2 TP / (2 TP + FP + FN): predicted and labelled counts add up to the denominator.
        let sum: f64 = counts.values().map(|&(right, said, is)| 2.0 * real(right) / real(said + is)).sum();
        (!counts.is_empty()).then(|| sum / real(counts.len()))
    };
    let value = f1(&mut (0..n))?;
    let interval = bootstrap::interval(n, CONFIDENCE, SEED, |drawn| f1(&mut drawn.iter().copied()))?;
    Some(Figure { value, interval, examples: n })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_small_table_are_those_of_scikit_learn() {
        let labels = [0, 0, 0, 1, 1, 2];
        let classes = [0, 0, 1, 1, 2, 2];
        assert!((agreement(&classes, &labels).value - 4.0 / 6.0).abs() < 1e-12);
        // f1_score(labels, classes, average="macro") = (0.8 + 0.5 + 0.6667) / 3
        let f1 = macro_f1(&classes, &labels).unwrap();
        assert!((f1.value - 0.655_555_56).abs() < 1e-7 && f1.interval.low <= f1.value && f1.value <= f1.interval.high);
        let ranked: Vec<Vec<usize>> = classes.iter().map(|&class| vec![class, (class + 2) % 3]).collect();
        assert!((top_k(&ranked, &labels, 2).value - 1.0).abs() < 1e-12);
        assert_eq!(macro_f1(&[], &[]), None);
    }
}
