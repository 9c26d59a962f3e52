//! Exact tails and intervals of the binomial distribution (Clopper and Pearson 1934).

use crate::{Interval, real};

/// Steps of a bisection: halves an interval of length 1 to below 1e-15.
const BISECTIONS: u32 = 60;

/// Returns the probability of at most `k` successes in `n` attempts that each succeed with probability `p`.
///
/// Summed term by term on a logarithmic scale: exact to about 1e-12, and it takes `k` steps.
#[must_use]
pub fn at_most(k: usize, n: usize, p: f64) -> f64 {
    if k >= n || p <= 0.0 {
        return 1.0;
    }
    if p >= 1.0 {
        return 0.0;
    }
    let (log_p, log_q) = (p.ln(), libm::log1p(-p));
    let n_factorial = libm::lgamma(real(n) + 1.0);
    let term = |i: usize| {
        let choose = n_factorial - libm::lgamma(real(i) + 1.0) - libm::lgamma(real(n - i) + 1.0);
        (choose + real(i) * log_p + real(n - i) * log_q).exp()
    };
    (0..=k).map(term).sum::<f64>().min(1.0)
}

/// Returns the largest probability at which `k` or fewer successes of `n` still have the probability `delta`: the upper
/// Clopper-Pearson bound, which is too low with probability `delta` at most.
#[must_use]
pub fn upper_bound(k: usize, n: usize, delta: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    let (mut low, mut high) = (real(k) / real(n), 1.0);
    for _ in 0..BISECTIONS {
        let middle = f64::midpoint(low, high);
        if at_most(k, n, middle) > delta { low = middle } else { high = middle }
    }
    high
}

/// Returns the Clopper-Pearson interval of a probability, for `k` successes of `n`; each side misses with half of `1 - confidence`.
#[must_use]
pub fn interval(k: usize, n: usize, confidence: f64) -> Interval {
    let delta = (1.0 - confidence) / 2.0;
    Interval { low: 1.0 - upper_bound(n - k.min(n), n, delta), high: upper_bound(k, n, delta) }
}

/// Returns the least number of examples with which a risk of `alpha` can be shown at all: none of them may differ.
#[must_use]
pub fn examples_needed(alpha: f64, delta: f64) -> usize {
    let needed = (delta.ln() / libm::log1p(-alpha)).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number, saturating")]
    let needed = needed as usize;
    needed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_and_bounds_agree_with_tables() {
        // scipy.stats.binom.cdf and the Clopper-Pearson interval of statsmodels.
        assert!((at_most(2, 10, 0.3) - 0.382_782_786_4).abs() < 1e-9);
        assert!((at_most(12, 1000, 0.02) - 0.036_876_9).abs() < 1e-3);
        assert!((upper_bound(0, 100, 0.05) - 0.029_513_05).abs() < 1e-7);
        let interval = interval(5, 50, 0.95);
        assert!(
            (interval.low - 0.033_275_1).abs() < 1e-6 && (interval.high - 0.218_135_4).abs() < 1e-6,
            "{interval:?}"
        );
    }

    #[test]
    fn the_number_that_is_needed_is_the_least_with_which_zero_errors_suffice() {
        for (alpha, expected) in [(0.05, 59), (0.02, 149), (0.01, 299)] {
            assert_eq!(examples_needed(alpha, 0.05), expected);
            assert!(at_most(0, expected, alpha) <= 0.05 && at_most(0, expected - 1, alpha) > 0.05);
        }
    }

    #[test]
    fn nothing_and_everything_have_bounds() {
        assert_eq!(upper_bound(3, 3, 0.05), 1.0);
        assert_eq!(upper_bound(0, 0, 0.05), 1.0);
        assert_eq!(interval(0, 20, 0.95).low, 0.0);
        assert_eq!(interval(20, 20, 0.95).high, 1.0);
    }
}
