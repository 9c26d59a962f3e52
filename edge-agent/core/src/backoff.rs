//! How long to wait before trying again: exponential, capped, with full jitter.
//!
//! Used by [`crate::uplink`] and [`crate::update`]. Full jitter (a uniform draw from zero to the ceiling) is what
//! spreads a fleet that lost its hub at one moment; see "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

use std::time::Duration;

/// Exponential back-off with full jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Ceiling of the first wait.
    pub base: Duration,
    /// Ceiling of every later wait.
    pub max: Duration,
}

impl Backoff {
    /// Longest wait after this many failures in a row: `base`, doubled for each failure after the first, up to `max`.
    #[must_use]
    pub fn ceiling(&self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.max)
    }

    /// Wait after this many failures in a row, drawn with `random` (uniform over all of `u64`).
    #[must_use]
    pub fn delay(&self, failures: u32, random: u64) -> Duration {
        full_jitter(self.ceiling(failures), random)
    }
}

/// A uniform draw from zero to `ceiling`, exact for every ceiling up to 584 years.
#[must_use]
pub fn full_jitter(ceiling: Duration, random: u64) -> Duration {
    let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
    let drawn = (u128::from(nanos) * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(drawn).unwrap_or(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_secs(2), max: Duration::from_secs(60) };

    #[test]
    fn the_ceiling_doubles_up_to_its_cap() {
        let ceilings: Vec<u64> = (0..8).map(|failures| BACKOFF.ceiling(failures).as_secs()).collect();
        assert_eq!(ceilings, [2, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(BACKOFF.ceiling(u32::MAX), BACKOFF.max);
    }

    #[test]
    fn a_draw_covers_zero_to_the_ceiling() {
        assert_eq!(BACKOFF.delay(1, 0), Duration::ZERO);
        assert_eq!(BACKOFF.delay(1, 1 << 63), Duration::from_secs(1));
        assert!(BACKOFF.delay(1, u64::MAX) < Duration::from_secs(2));
        assert!(full_jitter(Duration::MAX, u64::MAX) > Duration::from_secs(1));
    }
}
