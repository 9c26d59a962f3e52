//! Accuracy of a cascade over the share of requests that it defers.
//!
//! Fed with the scores of one variant and whether each answer of the two models is right; feeds the plot of
//! `cloud-hub model evaluate --html`.

use serde::{Deserialize, Serialize};

use crate::metrics::{Figure, proportion};
use crate::share;

/// Largest number of points of a curve; a plot shows no more.
const POINTS_MAX: usize = 101;

/// One threshold of a cascade.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Share of the answers taken from the full model.
    pub deferred: f64,
    /// Share of the answers that are right.
    pub right: Figure,
}

/// An answer to one example.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Score of the variant; `None` where it has none, which defers first.
    pub score: Option<f32>,
    /// Whether the variant is right.
    pub is_right: bool,
    /// Whether the full model is right.
    pub is_full_right: bool,
}

/// Returns the accuracy at each share that a threshold can defer, from none to all; at most 101 points. Answers with equal scores are
/// deferred together.
#[must_use]
pub fn curve(answers: &[Scored]) -> Vec<Point> {
    let mut sorted = answers.to_vec();
    let rank = |one: &Scored| one.score.filter(|score| !score.is_nan()).unwrap_or(f32::NEG_INFINITY);
    sorted.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
    let total = sorted.len();
    let mut right = sorted.iter().filter(|one| one.is_right).count();
    let point =
        |deferred: usize, right: usize| Point { deferred: share(deferred, total), right: proportion(right, total) };
    let step = total.div_ceil(POINTS_MAX - 1).max(1);
    let mut points = vec![point(0, right)];
    let mut last = 0;
    for (at, one) in sorted.iter().enumerate() {
        right = right + usize::from(one.is_full_right) - usize::from(one.is_right);
        let is_tied = sorted.get(at + 1).is_some_and(|next| rank(next).total_cmp(&rank(one)).is_eq());
        if !is_tied && (at + 1 - last >= step || at + 1 == total) {
            points.push(point(at + 1, right));
            last = at + 1;
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_least_sure_answers_are_deferred_first_and_ties_together() {
        let one = |score, is_right| Scored { score, is_right, is_full_right: true };
        let answers = [one(Some(0.9), true), one(Some(0.5), false), one(None, false), one(Some(0.5), true)];
        let found: Vec<(f64, f64)> = curve(&answers).iter().map(|point| (point.deferred, point.right.value)).collect();
        assert_eq!(found, [(0.0, 0.5), (0.25, 0.75), (0.75, 1.0), (1.0, 1.0)]);
        assert_eq!(curve(&[]).len(), 1);
    }

    proptest! {
        #[test]
        fn a_curve_begins_with_the_variant_and_ends_with_the_full_model(
            answers in prop::collection::vec((prop::option::of(0.0_f32..1.0), any::<bool>(), any::<bool>()), 1..500),
        ) {
            let answers: Vec<Scored> = answers
                .into_iter()
                .map(|(score, is_right, is_full_right)| Scored { score, is_right, is_full_right })
                .collect();
            let points = curve(&answers);
            let of = |right: &dyn Fn(&Scored) -> bool| answers.iter().filter(|one| right(one)).count() as f64 / answers.len() as f64;
            prop_assert!(points.len() <= POINTS_MAX + 1);
            prop_assert!((points[0].right.value - of(&|one| one.is_right)).abs() < 1e-12);
            let last = points.last().unwrap();
            prop_assert!(last.deferred == 1.0 && (last.right.value - of(&|one| one.is_full_right)).abs() < 1e-12);
            prop_assert!(points.windows(2).all(|pair| pair[0].deferred < pair[1].deferred));
        }
    }
}
