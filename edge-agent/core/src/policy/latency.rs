//! Recent latency of one place: an online sketch of its quantiles in bounded memory.
//!
//! Two histograms with buckets of equal ratio (19 %), one for each of the last two windows. What is older is forgotten, so
//! that a place that was slow once is tried again. A quantile is off by at most one bucket.

use std::time::{Duration, Instant};

use types::histogram::{Histogram, bound_us};

/// Length of one window. Two of them are read, so a measurement counts for one to two minutes.
///
/// A minute has enough answers at one request a second, and a hub that recovers is asked again within two.
pub const WINDOW: Duration = Duration::from_secs(60);

/// Minimum number of measurements from which quantiles are told: below it one slow answer would be the 95th percentile.
pub const SAMPLES_MIN: u64 = 20;

/// Quantiles of a latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantiles {
    /// 10th percentile, rounded down: nine of ten took at least this long.
    pub fast: Duration,
    /// Median, rounded up.
    pub typical: Duration,
    /// 95th percentile, rounded up.
    pub slow: Duration,
}

/// Sketch of the latency of one place.
#[derive(Debug, Clone, Default)]
pub struct Latency {
    current: Histogram,
    previous: Histogram,
    since: Option<Instant>,
    quantiles: Option<Quantiles>,
}

impl Latency {
    /// Counts one answer. An attempt that was given up counts with the time that it had.
    pub fn count(&mut self, took: Duration, now: Instant) {
        self.advance(now);
        self.current.count(took);
        self.quantiles = self.compute();
    }

    /// Returns the quantiles of the last windows; `None` below [`SAMPLES_MIN`] measurements.
    pub fn quantiles(&mut self, now: Instant) -> Option<Quantiles> {
        if self.advance(now) {
            self.quantiles = self.compute();
        }
        self.quantiles
    }

    /// Forgets what is too old; returns whether something was forgotten.
    fn advance(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let age = now.saturating_duration_since(since);
        if age < WINDOW {
            return false;
        }
        let is_recent = age < WINDOW * 2;
        let ended = std::mem::take(&mut self.current);
        self.previous = if is_recent { ended } else { Histogram::default() };
        self.since = Some(if is_recent { since + WINDOW } else { now });
        true
    }

    fn compute(&self) -> Option<Quantiles> {
        let total = self.current.total().saturating_add(self.previous.total());
        if total < SAMPLES_MIN {
            return None;
        }
        let rank = |percent: u64| total.saturating_mul(percent).div_ceil(100).max(1);
        let fast = self.bucket(rank(10));
        Some(Quantiles {
            fast: fast.checked_sub(1).map_or(Duration::ZERO, bound),
            typical: bound(self.bucket(rank(50))),
            slow: bound(self.bucket(rank(95))),
        })
    }

    /// Returns the number of the bucket with the measurement of this rank, from 1.
    fn bucket(&self, rank: u64) -> usize {
        let mut sum: u64 = 0;
        let buckets = self.current.buckets().iter().zip(self.previous.buckets());
        let found = buckets.map(|(one, other)| one.saturating_add(*other)).position(|count| {
            sum = sum.saturating_add(count);
            sum >= rank
        });
        found.unwrap_or(types::histogram::BUCKETS - 1)
    }
}

fn bound(bucket: usize) -> Duration {
    Duration::from_secs_f64(bound_us(bucket) * 1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn quantiles_are_those_of_the_answers_within_a_bucket() {
        let now = Instant::now();
        let mut latency = Latency::default();
        for number in 1..=100 {
            latency.count(ms(number), now);
        }
        let Quantiles { fast, typical, slow } = latency.quantiles(now).unwrap();
        assert!(fast <= ms(10) && fast >= ms(8), "{fast:?}");
        assert!(typical >= ms(50) && typical <= ms(60), "{typical:?}");
        assert!(slow >= ms(95) && slow <= ms(114), "{slow:?}");
    }

    #[test]
    fn few_answers_tell_nothing_and_old_ones_are_forgotten() {
        let now = Instant::now();
        let mut latency = Latency::default();
        for _ in 1..SAMPLES_MIN {
            latency.count(ms(900), now);
        }
        assert_eq!(latency.quantiles(now), None);
        latency.count(ms(900), now);
        assert!(latency.quantiles(now + WINDOW).is_some(), "the last window still counts");
        assert_eq!(latency.quantiles(now + WINDOW * 3), None, "a slow place is tried again");
        let mut other = Latency::default();
        for _ in 0..SAMPLES_MIN {
            other.count(ms(900), now);
        }
        assert_eq!(other.quantiles(now + WINDOW * 2), None);
        assert!(other.quantiles(now).is_none(), "time that goes back is no error");
    }

    #[test]
    fn extreme_durations_stay_within_the_sketch() {
        let now = Instant::now();
        let mut latency = Latency::default();
        for took in [Duration::ZERO, Duration::MAX] {
            for _ in 0..SAMPLES_MIN {
                latency.count(took, now);
            }
        }
        let Quantiles { fast, typical, slow } = latency.quantiles(now).unwrap();
        assert!(fast <= typical && typical <= slow && fast == Duration::ZERO);
    }
}
