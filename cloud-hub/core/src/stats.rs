//! Sequential statistics: tests and confidence sequences that stay valid however often they are looked at.
//!
//! Every function is pure, and its result depends on the *set* of observations, not on their order: each test is a
//! mixture of fixed bets, and the capital of a fixed bet is a product over the observations. Therefore the hub may
//! compute a result anew from stored counters, after a restart and with counters that arrived late, and gets the same
//! value as a hub that counted along.
//!
//! | module | data | source |
//! |---|---|---|
//! | [`bernoulli`] | successes among independent attempts | beta-binomial mixture (Robbins 1970) |
//! | [`betting`] | bounded observations of one arm | hedged grid bets, Waudby-Smith and Ramdas 2024 |
//! | [`arms`] | bounded observations of two arms, over the same time | Turner and Grünwald 2023, as bets |
//! | [`quantile`] | quantiles of a distribution, from histograms | Howard and Ramdas 2022 |
//!
//! [`permutation`] is the exception: it is for one look at one set of data.

pub mod arms;
pub mod bernoulli;
pub mod betting;
pub mod permutation;
pub mod quantile;

/// Iterations of a bisection: halves an interval of length 1 to below 1e-9.
const BISECTIONS: u32 = 30;

/// Interval of plausible values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// Returns the logarithm of the capital that a test of error probability `delta` must reach (Ville's inequality).
#[must_use]
pub fn threshold(delta: f64) -> f64 {
    -delta.max(f64::MIN_POSITIVE).ln()
}

/// Returns the logarithm of a weighted sum of exponentials, without overflow.
pub(crate) fn log_sum_exp(terms: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = terms.clone().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + terms.map(|term| (term - largest).exp()).sum::<f64>().ln()
}

/// Returns the border in `[low, high]` between values where `holds` is true (from `low` on) and values where it is false.
fn last_that_holds(mut low: f64, mut high: f64, holds: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..BISECTIONS {
        let middle = f64::midpoint(low, high);
        if holds(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}
