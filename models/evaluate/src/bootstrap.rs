//! Percentile bootstrap: intervals of any statistic of examples, by drawing the examples again with replacement.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::{Interval, real};

/// Draws of an interval; statistics.md asks for 2,000 or more.
pub const DRAWS: usize = 2000;

/// Returns the interval of a statistic over `n` examples at a confidence. `statistic` receives the positions of the drawn
/// examples; draws without a value are left out. `None` when no draw has one.
pub fn interval(
    n: usize,
    confidence: f64,
    seed: u64,
    statistic: impl FnMut(&[usize]) -> Option<f64>,
) -> Option<Interval> {
    interval_of(DRAWS, n, confidence, seed, statistic)
}

/// Returns the interval as [`interval`] does, from another number of draws, for statistics that take long.
pub fn interval_of(
    draws: usize,
    n: usize,
    confidence: f64,
    seed: u64,
    mut statistic: impl FnMut(&[usize]) -> Option<f64>,
) -> Option<Interval> {
    if n == 0 {
        return None;
    }
    let mut random = StdRng::seed_from_u64(seed);
    let mut drawn = vec![0; n];
    let mut values = Vec::with_capacity(draws);
    for _ in 0..draws {
        drawn.fill_with(|| random.random_range(0..n));
        values.extend(statistic(&drawn).filter(|value| value.is_finite()));
    }
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a position within the values")]
        let position = (share * real(values.len().saturating_sub(1))).round() as usize;
        values.get(position).copied()
    };
    let tail = (1.0 - confidence) / 2.0;
    Some(Interval { low: at(tail)?, high: at(1.0 - tail)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_mean_is_that_of_its_standard_error() {
        let values: Vec<f64> = (0..400).map(|at| f64::from(at % 2)).collect();
        let mean = |drawn: &[usize]| Some(drawn.iter().map(|&at| values[at]).sum::<f64>() / real(drawn.len()));
        let found = interval(values.len(), 0.95, 1, mean).unwrap();
        // 1.96 standard errors of 0.025 each.
        assert!((found.low - 0.451).abs() < 0.01 && (found.high - 0.549).abs() < 0.01, "{found:?}");
        assert_eq!(interval(values.len(), 0.95, 1, mean), Some(found), "a seed gives one result");
        assert_eq!(interval(0, 0.95, 1, mean), None);
    }
}
