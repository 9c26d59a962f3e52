//! How long the device may take over a submission before it counts as wedged.
//!
//! Fed by whoever waits for a submission, with the time; keeps none itself.

use std::time::{Duration, Instant};

/// Time that one submission may take, whatever it does, before the device counts as wedged.
///
/// Most models take under 2 s on a software adapter; drivers reset a real GPU after 2 to 10 s by themselves.
pub const SUBMISSION_TIMEOUT: Duration = Duration::from_secs(20);

/// Elementary operations a second that a device must do to count as alive beyond that.
///
/// A tenth of what a software adapter reaches on two cores, so that a large network on a busy machine is waited for
/// (`light_vgg19`: 40 s more).
const OPERATIONS_PER_SECOND_MIN: u64 = 500_000_000;

/// Additional time of a submission for each kernel in it that was never launched before.
///
/// Software adapters compile a kernel when it is first launched. That takes up to half a second of an idle core, ten times as
/// long on a small device, and as much again where others want that core.
pub const FIRST_LAUNCH_TIMEOUT: Duration = Duration::from_secs(20);

/// Returns the timeout of a submission of `work` elementary operations whose kernels are compiled.
pub(crate) fn patience(work: u64) -> Duration {
    SUBMISSION_TIMEOUT + Duration::from_secs(work / OPERATIONS_PER_SECOND_MIN)
}

/// Time that is left for one submission.
#[derive(Debug)]
pub(crate) struct Patience {
    left: Duration,
    looked: Instant,
}

impl Patience {
    /// For a submission that may take so long, and launches so many kernels for the first time.
    pub(crate) fn new(patience: Duration, first_launches: usize, now: Instant) -> Self {
        let first_launches = u32::try_from(first_launches).unwrap_or(u32::MAX);
        Self { left: patience.saturating_add(FIRST_LAUNCH_TIMEOUT.saturating_mul(first_launches)), looked: now }
    }

    /// Returns whether the submission took too long.
    ///
    /// `behind_first_launch`: another submission on the device launches a kernel for the first time, which this one may stand
    /// behind. Its clock stands meanwhile: whoever waits for the other one says when that takes too long.
    pub(crate) fn is_over(&mut self, now: Instant, behind_first_launch: bool) -> bool {
        let passed = now.saturating_duration_since(self.looked);
        self.looked = now;
        if !behind_first_launch {
            self.left = self.left.saturating_sub(passed);
        }
        self.left.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_that_takes_too_long_is_given_up() {
        let now = Instant::now();
        let mut patience = Patience::new(patience(0), 0, now);
        assert!(!patience.is_over(now + SUBMISSION_TIMEOUT - Duration::from_secs(1), false));
        assert!(patience.is_over(now + SUBMISSION_TIMEOUT, false));
    }

    #[test]
    fn kernels_that_are_launched_for_the_first_time_are_waited_for_longer() {
        let now = Instant::now();
        let mut patience = Patience::new(patience(0), 2, now);
        assert!(!patience.is_over(now + SUBMISSION_TIMEOUT + FIRST_LAUNCH_TIMEOUT, false));
        assert!(patience.is_over(now + SUBMISSION_TIMEOUT + FIRST_LAUNCH_TIMEOUT * 2, false));
    }

    #[test]
    fn the_clock_stands_while_another_submission_compiles() {
        let now = Instant::now();
        let mut patience = Patience::new(patience(0), 0, now);
        let compiled = now + SUBMISSION_TIMEOUT * 3;
        assert!(!patience.is_over(compiled, true));
        assert!(!patience.is_over(compiled + SUBMISSION_TIMEOUT / 2, false));
        assert!(patience.is_over(compiled + SUBMISSION_TIMEOUT, false));
    }
}
