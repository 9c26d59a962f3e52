//! Quantiles of a distribution from a histogram.
//!
//! Quantile confidence sequences (Howard and Ramdas, "Sequential estimation of quantiles with applications to A/B testing
//! and best-arm identification", Bernoulli 2022, arXiv 1906.09712, theorem 1) with the beta-binomial mixture of
//! [`super::bernoulli`]: of the observations, those up to the quantile of order `p` are Bernoulli with a mean of at least
//! `p`, those below it with a mean of at most `p`. A bucket is outside when its count contradicts that. The result holds
//! for all looks together, for independent observations of one distribution, also with ties.

use super::bernoulli::{Prior, is_above, is_below};

/// Weight of the prior in observations: narrow intervals from about 20 to some thousand observations.
const PRIOR_WEIGHT: f64 = 16.0;

/// Buckets that hold the quantile, with both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buckets {
    /// First bucket that can hold it.
    pub low: usize,
    /// Last bucket that can hold it.
    pub high: usize,
}

/// Returns the confidence sequence at `1 - delta` for the quantile of order `p`, as buckets of the histogram. Without
/// observations it is all of them.
#[must_use]
pub fn interval(histogram: &[u64], p: f64, delta: f64) -> Buckets {
    let total: u64 = histogram.iter().sum();
    let prior = Prior { a: PRIOR_WEIGHT * p, b: PRIOR_WEIGHT * (1.0 - p) };
    let last = histogram.len().saturating_sub(1);
    let mut found = Buckets { low: 0, high: last };
    let mut below = 0;
    for (bucket, count) in histogram.iter().enumerate() {
        // Too few observations up to this bucket: the quantile is above it.
        if is_below(below + count, total, p, delta / 2.0, prior) {
            found.low = (bucket + 1).min(last);
        }
        below += count;
        // Enough observations up to this bucket: the quantile is not above it.
        if is_above(below, total, p, delta / 2.0, prior) {
            found.high = bucket;
            break;
        }
    }
    found
}

/// Returns the bucket of the quantile of order `p` among the observations; `None` without any.
#[must_use]
pub fn observed(histogram: &[u64], p: f64) -> Option<usize> {
    let total: u64 = histogram.iter().sum();
    let mut below = 0;
    histogram.iter().position(|count| {
        below += count;
        below > 0 && below as f64 >= p * total as f64
    })
}
