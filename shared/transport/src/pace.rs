//! The minimum rate at which a peer must send or take bytes.
//!
//! Fed by [`crate::exchange`] and by servers of other protocols with the time they waited for the peer and the bytes that
//! passed. Only waiting counts: time in which this side was busy is not held against the peer.

use std::time::Duration;

/// The peer was slower than its minimum rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes passed in {} s, at least {bytes_min} are expected", window.as_secs())]
pub struct TooSlow {
    /// Waiting time over which the bytes were counted.
    pub window: Duration,
    /// Bytes that passed.
    pub bytes: u64,
    /// Bytes that were expected.
    pub bytes_min: u64,
}

/// Bytes that passed in one direction in the current window of waiting time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    window: Duration,
    bytes_min: u64,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Expects at least `bytes_min` bytes in each `window` of waiting; zero bytes expect nothing.
    #[must_use]
    pub const fn new(window: Duration, bytes_min: u64) -> Self {
        Self { window, bytes_min, waited: Duration::ZERO, bytes: 0 }
    }

    /// Counts bytes that passed after waiting for the peer.
    ///
    /// # Errors
    /// [`TooSlow`] when a window is over in which too few bytes passed.
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
