//! Minimum rate at which a peer must send or read bytes.
//!
//! [`crate::exchange`] and servers of other protocols report the time they waited for the peer and the number of bytes.
//! Only waiting counts: time in which this side was busy is not counted against the peer.

use std::time::Duration;

/// Error: the peer was slower than its minimum rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes were transferred in {} s, at least {bytes_min} are required", window.as_secs())]
pub struct TooSlow {
    /// Waiting time over which the bytes were counted.
    pub window: Duration,
    /// Number of bytes transferred in the window.
    pub bytes: u64,
    /// Minimum number of bytes.
    pub bytes_min: u64,
}

/// Number of bytes transferred in one direction in the current window of waiting time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    window: Duration,
    bytes_min: u64,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Requires at least `bytes_min` bytes in each `window` of waiting; zero disables the check.
    #[must_use]
    pub const fn new(window: Duration, bytes_min: u64) -> Self {
        Self { window, bytes_min, waited: Duration::ZERO, bytes: 0 }
    }

    /// Counts bytes that were transferred after waiting for the peer.
    ///
    /// # Errors
    /// Returns [`TooSlow`] if too few bytes were transferred in a complete window.
    pub fn passed(&mut self, waited: Duration, bytes: usize) -> Result<(), TooSlow> {
        self.waited = self.waited.saturating_add(waited);
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if self.waited < self.window {
            return Ok(());
        }
        let (bytes, bytes_min) = (self.bytes, self.bytes_min);
        *self = Self::new(self.window, bytes_min);
        if bytes < bytes_min { Err(TooSlow { window: self.window, bytes, bytes_min }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(20);

    #[test]
    fn a_trickle_is_too_slow_after_one_window_and_a_poor_link_is_not() {
        let mut pace = Pace::new(WINDOW, 20 * 1024);
        let trickle = (0..60).find(|_| pace.passed(Duration::from_secs(3), 8).is_err());
        assert_eq!(trickle, Some(6), "8 bytes every 3 s");
        let mut pace = Pace::new(WINDOW, 20 * 1024);
        assert!((0..600).all(|_| pace.passed(Duration::from_secs(1), 1200).is_ok()), "9,600 bit/s");
    }

    #[test]
    fn time_in_which_this_side_was_busy_is_not_counted() {
        let mut pace = Pace::new(WINDOW, 1000);
        assert!((0..100_000).all(|_| pace.passed(Duration::from_micros(10), 1).is_ok()));
    }

    #[test]
    fn no_minimum_expects_nothing() {
        let mut pace = Pace::new(WINDOW, 0);
        assert!((0..100).all(|_| pace.passed(Duration::from_secs(3600), 0).is_ok()));
    }
}
