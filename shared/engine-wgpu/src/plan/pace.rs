//! Speed of a device, learnt from the turns that it has worked through.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::split::LAUNCH_WORK_MAX;

/// Time that one turn should hold the device.
///
/// A person does not notice a delay of 50 ms, and an empty submission with its wait costs 0.06 ms on a software adapter.
pub(crate) const TURN: Duration = Duration::from_millis(50);

/// Elementary operations of one turn, learnt from the turns before.
///
/// The speed of a device is not known beforehand: a software adapter does 0.3 to 10 billion operations a second, a
/// graphics card thousands of billions. The first turns are as small as one launch may be.
#[derive(Debug)]
pub(super) struct Pace(AtomicU64);

impl Pace {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(LAUNCH_WORK_MAX))
    }

    pub(super) fn work(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Learns from a turn. A faster device is believed step by step, a slower one at once.
    pub(super) fn learn(&self, work: u64, took: Duration) {
        let fits = per(work, took, TURN);
        let most = self.work().saturating_mul(2);
        self.0.store(fits.clamp(1, most), Ordering::Relaxed);
    }
}

/// Work that fits into `time`, if `work` took `took`.
pub(crate) fn per(work: u64, took: Duration, time: Duration) -> u64 {
    let fits = u128::from(work).saturating_mul(time.as_micros()) / took.as_micros().max(1);
    u64::try_from(fits).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_device_gets_smaller_turns_at_once_and_a_fast_one_larger_ones_step_by_step() {
        let pace = Pace::new();
        pace.learn(LAUNCH_WORK_MAX, TURN * 10);
        assert_eq!(pace.work(), LAUNCH_WORK_MAX / 10);
        pace.learn(LAUNCH_WORK_MAX, TURN / 1000);
        assert_eq!(pace.work(), LAUNCH_WORK_MAX / 5);
        pace.learn(LAUNCH_WORK_MAX, Duration::ZERO);
        assert_eq!(pace.work(), LAUNCH_WORK_MAX / 5 * 2);
        pace.learn(1, Duration::MAX);
        assert_eq!(pace.work(), 1, "never zero");
    }
}
