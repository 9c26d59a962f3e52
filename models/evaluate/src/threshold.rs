//! Threshold of a deferral: the loosest one at which few answers are kept that differ from the full model's.
//!
//! With confidence `1 - delta`, at most the share `alpha` of all requests is kept on the device and answered otherwise than by the
//! full model, over requests like the examples. The grid of thresholds is fixed before the examples are seen; it is walked from the
//! strictest threshold to the loosest, and left before the first one that the exact binomial test does not reject
//! (fixed-sequence testing, a case of Learn then Test, Angelopoulos and others, arXiv 2110.01052).

use serde::{Deserialize, Serialize};

use crate::{Interval, binomial, narrow, real, share};

/// Maximum number of thresholds of a grid: more than a plot can show.
pub const GRID_MAX: usize = 200;

/// Promise about a deferral.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Promise {
    /// Largest share of all requests that may be kept and differ, above 0 and below 1.
    pub alpha: f64,
    /// Largest probability with which the promise may be broken by the draw of the examples, above 0 and below 1.
    pub delta: f64,
}

/// One example: the score of the device's answer, and whether it differs from the full model's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Score of the answer, 0 to 1; `None` for an answer that cannot be scored, which is never kept.
    pub score: Option<f32>,
    /// Whether the answer differs from the full model's.
    pub differs: bool,
}

/// One threshold of a grid, with its effect on the examples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Least score at which an answer is kept.
    pub threshold: f32,
    /// Answers that are kept.
    pub kept: usize,
    /// Answers that are kept and differ.
    pub differing: usize,
    /// Upper bound of the share that is kept and differs, at confidence `1 - delta`.
    pub bound: f64,
}

/// Result of a walk over a grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Walk {
    /// Examples that were used.
    pub examples: usize,
    /// Every threshold of the grid, the strictest first.
    pub curve: Vec<Point>,
    /// Position in the curve of the threshold that the promise allows; `None` when no threshold could be shown.
    pub chosen: Option<usize>,
}

impl Walk {
    /// Returns the point that the promise allows.
    #[must_use]
    pub fn point(&self) -> Option<Point> {
        self.chosen.and_then(|at| self.curve.get(at)).copied()
    }

    /// Returns the share of answers that are kept at the chosen threshold; 0 when there is none.
    #[must_use]
    pub fn coverage(&self) -> f64 {
        self.point().map_or(0.0, |point| share(point.kept, self.examples))
    }

    /// Returns the interval of the share that is kept, at a confidence.
    #[must_use]
    pub fn coverage_interval(&self, confidence: f64) -> Interval {
        binomial::interval(self.point().map_or(0, |point| point.kept), self.examples, confidence)
    }
}

/// Returns a grid of probabilities that is even in their log-odds, from 0.999994 down to 0.12, for scores that crowd near 1.
#[must_use]
pub fn grid_of_log_odds() -> Vec<f32> {
    (-20..=120).rev().map(|step| narrow(1.0 / (1.0 + (-f64::from(step) / 10.0).exp()))).collect()
}

/// Returns a grid of quantiles of scores, the strictest first. The scores must be of other examples than those of the walk.
#[must_use]
pub fn grid_of_quantiles(scores: &[f32]) -> Vec<f32> {
    let mut sorted: Vec<f32> = scores.iter().copied().filter(|score| !score.is_nan()).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let steps = GRID_MAX.min(sorted.len());
    let mut grid: Vec<f32> = (0..steps).filter_map(|step| sorted.get(step * sorted.len() / steps).copied()).collect();
    // Ties are one threshold: all of them are kept or none.
    grid.dedup();
    grid
}

/// Walks a grid, the strictest threshold first, and chooses the last one that the promise allows.
#[must_use]
pub fn walk(examples: &[Scored], grid: &[f32], promise: Promise) -> Walk {
    let sorted = surest_first(examples);
    let n = examples.len();
    let (mut kept, mut differing, mut is_open) = (0, 0, true);
    let mut walk = Walk { examples: n, curve: Vec::with_capacity(grid.len()), chosen: None };
    for (at, &threshold) in grid.iter().enumerate() {
        while let Some(&(score, differs)) = sorted.get(kept)
            && score >= threshold
        {
            kept += 1;
            differing += usize::from(differs);
        }
        is_open = is_open && binomial::at_most(differing, n, promise.alpha) <= promise.delta;
        if is_open {
            walk.chosen = Some(at);
        }
        walk.curve.push(Point {
            threshold,
            kept,
            differing,
            bound: binomial::upper_bound(differing, n, promise.delta),
        });
    }
    walk
}

/// Returns the largest share that could have been kept with a share of at most `alpha` kept and differing, in hindsight.
#[must_use]
pub fn hindsight(examples: &[Scored], alpha: f64) -> f64 {
    let sorted = surest_first(examples);
    let allowed = alpha * real(examples.len());
    let (mut differing, mut best) = (0, 0);
    for (at, &(score, differs)) in sorted.iter().enumerate() {
        differing += usize::from(differs);
        let is_last_of_ties = sorted.get(at + 1).is_none_or(|next| next.0 < score);
        if is_last_of_ties && real(differing) <= allowed {
            best = at + 1;
        }
    }
    share(best, examples.len())
}

/// Scores with whether the answer differs, the highest first; answers without a score are left out.
fn surest_first(examples: &[Scored]) -> Vec<(f32, bool)> {
    let scored = |one: &Scored| Some((one.score.filter(|score| !score.is_nan())?, one.differs));
    let mut sorted: Vec<(f32, bool)> = examples.iter().filter_map(scored).collect();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    sorted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PROMISE: Promise = Promise { alpha: 0.02, delta: 0.05 };

    #[test]
    fn too_few_examples_keep_nothing() {
        let sure = vec![Scored { score: Some(0.99), differs: false }; 148];
        assert_eq!(walk(&sure, &grid_of_log_odds(), PROMISE).chosen, None);
        let enough = vec![Scored { score: Some(0.99), differs: false }; 149];
        let walked = walk(&enough, &grid_of_log_odds(), PROMISE);
        assert_eq!(walked.coverage(), 1.0);
    }

    #[test]
    fn twelve_of_a_thousand_may_differ_at_two_percent() {
        let with = |errors| {
            let all: Vec<Scored> = (0..1000).map(|at| Scored { score: Some(0.9), differs: at < errors }).collect();
            walk(&all, &[0.9, 0.5], PROMISE).chosen
        };
        assert_eq!((with(12), with(13)), (Some(1), None));
    }

    #[test]
    fn an_answer_without_a_score_is_never_kept() {
        let mut all = vec![Scored { score: Some(0.8), differs: false }; 500];
        all.extend(vec![Scored { score: None, differs: true }; 100]);
        all.push(Scored { score: Some(f32::NAN), differs: true });
        let walked = walk(&all, &[0.9, 0.0], PROMISE);
        assert_eq!(walked.point().map(|point| (point.kept, point.differing)), Some((500, 0)));
    }

    proptest! {
        #[test]
        fn a_chosen_threshold_keeps_its_bound_below_alpha(
            examples in prop::collection::vec((0.0_f32..1.0, any::<bool>(), 0_u8..20), 0..600),
        ) {
            let all: Vec<Scored> = examples
                .into_iter()
                .map(|(score, coin, rare)| Scored { score: Some(score), differs: coin && rare == 0 })
                .collect();
            let walked = walk(&all, &grid_of_log_odds(), PROMISE);
            if let Some(point) = walked.point() {
                prop_assert!(point.bound <= PROMISE.alpha + 1e-9);
                prop_assert!(walked.coverage() <= hindsight(&all, PROMISE.alpha) + 1e-9);
            }
            for pair in walked.curve.windows(2) {
                prop_assert!(pair[0].kept <= pair[1].kept && pair[0].threshold > pair[1].threshold);
            }
        }
    }
}
