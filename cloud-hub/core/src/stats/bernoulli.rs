//! Proportion of successes among independent attempts with the same probability.
//!
//! The beta-binomial mixture (Robbins 1970; Howard et al. 2021, section 3.2): if `p` is the true probability, then
//! `E(p) = B(k+a, n-k+b) / (B(a,b) p^k (1-p)^(n-k))` is a nonnegative martingale that starts at 1. By Ville's inequality it
//! ever exceeds `1/delta` with a probability of at most `delta`. All `p` with `E(p) < 1/delta` form a confidence sequence.

use super::{Interval, last_that_holds, threshold};

/// Parameters `(a, b)` of the beta prior over the unknown probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prior {
    /// Weight of successes.
    pub a: f64,
    /// Weight of failures.
    pub b: f64,
}

/// Jeffreys prior: loses little at every probability, also near 0 and 1.
pub const JEFFREYS: Prior = Prior { a: 0.5, b: 0.5 };

/// Returns the logarithm of `E(p)` for `k` successes in `n` attempts. Valid for any `p` strictly between 0 and 1 that was
/// fixed before the data; `k` above `n` counts as `n`.
#[must_use]
pub fn log_evidence(k: u64, n: u64, p: f64, prior: Prior) -> f64 {
    let k = k.min(n);
    let (successes, failures) = (k as f64, (n - k) as f64);
    let likelihood = if k == 0 { 0.0 } else { successes * p.ln() } + if k == n { 0.0 } else { failures * (-p).ln_1p() };
    log_beta(successes + prior.a, failures + prior.b) - log_beta(prior.a, prior.b) - likelihood
}

/// Returns the confidence sequence at `1 - delta` for the probability, in `[0, 1]`.
#[must_use]
pub fn interval(k: u64, n: u64, delta: f64, prior: Prior) -> Interval {
    let k = k.min(n);
    if n == 0 {
        return Interval { low: 0.0, high: 1.0 };
    }
    let estimate = k as f64 / n as f64;
    let excluded = |p: f64| log_evidence(k, n, p, prior) >= threshold(delta);
    // `E` falls up to the estimate and rises after it.
    let low = if k == 0 { 0.0 } else { last_that_holds(0.0, estimate, excluded) };
    let high = if k == n { 1.0 } else { last_that_holds(estimate, 1.0, |p| !excluded(p)) };
    Interval { low, high }
}

/// Returns whether the probability is shown to be above `limit`, with an error probability of at most `delta` over all
/// looks together.
#[must_use]
pub fn is_above(k: u64, n: u64, limit: f64, delta: f64, prior: Prior) -> bool {
    // For a true probability below the limit, E is larger still: it rises away from the estimate.
    k as f64 > limit * n as f64 && log_evidence(k, n, limit, prior) >= threshold(delta)
}

/// Returns whether the probability is shown to be below `limit`, as [`is_above`].
#[must_use]
pub fn is_below(k: u64, n: u64, limit: f64, delta: f64, prior: Prior) -> bool {
    (k as f64) < limit * n as f64 && log_evidence(k, n, limit, prior) >= threshold(delta)
}

fn log_beta(a: f64, b: f64) -> f64 {
    libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b)
}
