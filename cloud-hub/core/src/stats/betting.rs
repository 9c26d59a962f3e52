//! Mean of bounded observations of one arm, by betting.
//!
//! Hedged grid bets (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 2024,
//! arXiv 2010.09686, appendix on grid Kelly): for a candidate mean `m`, the capital `prod(1 + l (x - m))` of every
//! fixed bet `l` is a nonnegative martingale if `m` is the conditional mean of each observation. Half of the capital bets
//! that the mean is larger, half that it is smaller. All `m` whose capital stays below `1/delta` form a confidence
//! sequence. It needs independence of nothing: only that each observation has the mean `m` given the earlier ones.

use super::{Interval, last_that_holds, log_sum_exp, threshold};

/// Number of bets on each side.
const BETS: u32 = 12;

/// Largest bet as a share of the largest one that cannot lose everything.
const BET_MAX: f64 = 0.9;

/// Ratio of neighbouring bets: the best bet is missed by at most a quarter, which costs about 4 % of the growth.
const BET_RATIO: f64 = 0.62;

/// Observations in `[0, 1]`, with the number of times that each occurred.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a>(pub &'a [(f64, u64)]);

impl Sample<'_> {
    /// Returns the number of observations.
    #[must_use]
    pub fn count(self) -> u64 {
        self.0.iter().map(|(_value, times)| times).sum()
    }

    /// Returns the mean of the observations; `None` without any.
    #[must_use]
    pub fn mean(self) -> Option<f64> {
        let sum: f64 = self.0.iter().map(|(value, times)| value * *times as f64).sum();
        let count = self.count();
        (count > 0).then(|| sum / count as f64)
    }

    fn log_capital_of(self, m: f64, bet: f64) -> f64 {
        self.0.iter().map(|(value, times)| *times as f64 * (bet * (value - m)).ln_1p()).sum()
    }
}

/// Returns the logarithm of the capital that bets on a mean above `m`.
#[must_use]
pub fn log_capital_above(sample: Sample<'_>, m: f64) -> f64 {
    mixture(|share| sample.log_capital_of(m, share / m.max(f64::EPSILON)))
}

/// Returns the logarithm of the capital that bets on a mean below `m`.
#[must_use]
pub fn log_capital_below(sample: Sample<'_>, m: f64) -> f64 {
    mixture(|share| sample.log_capital_of(m, -share / (1.0 - m).max(f64::EPSILON)))
}

fn mixture(of_share: impl Fn(f64) -> f64) -> f64 {
    let terms: Vec<f64> =
        (0..BETS).map(|at| of_share(BET_MAX * BET_RATIO.powf(f64::from(at))) - f64::from(BETS).ln()).collect();
    log_sum_exp(terms.iter().copied())
}

/// Returns the confidence sequence at `1 - delta` for the mean, in `[0, 1]`. Observations outside `[0, 1]` are not
/// allowed; the caller bounds them.
#[must_use]
pub fn interval(sample: Sample<'_>, delta: f64) -> Interval {
    let Some(mean) = sample.mean() else { return Interval { low: 0.0, high: 1.0 } };
    let needed = threshold(delta / 2.0);
    let low = last_that_holds(0.0, mean, |m| log_capital_above(sample, m) >= needed);
    let high = last_that_holds(mean, 1.0, |m| log_capital_below(sample, m) < needed);
    Interval { low, high }
}
