//! Clock for the age of requests, which no jump of the wall clock moves while the agent runs.
//!
//! While the agent runs it counts running time. Over a restart it goes on by the difference of the wall clock; a wall clock that
//! went back counts as no time. So a jump of the clock never makes requests expire early, and a clock that runs behind only
//! keeps them longer. What is stored of the wall clock never goes back over restarts: without a clock battery it may start in
//! the past and be set right later, which is no time that has passed.

use std::time::Instant;

/// Clock in seconds since the first start of the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgeClock {
    base_s: u64,
    begun: Instant,
    /// Latest reading of the wall clock that was stored, or of the start.
    floor_unix_s: u64,
}

impl AgeClock {
    /// Starts the clock, or continues it with what was stored: its reading and the wall clock of that moment in seconds since
    /// 1970.
    #[must_use]
    pub fn start(stored: Option<(u64, u64)>, unix_s: u64, now: Instant) -> Self {
        let base_s = stored.map_or(0, |(age_s, then)| age_s.saturating_add(unix_s.saturating_sub(then)));
        let floor_unix_s = stored.map_or(unix_s, |(_age_s, then)| then.max(unix_s));
        Self { base_s, begun: now, floor_unix_s }
    }

    /// Returns what to store: the reading of this clock, and of the wall clock where that has not gone back.
    #[must_use]
    pub fn reading(&self, unix_s: u64, now: Instant) -> (u64, u64) {
        (self.now_s(now), self.floor_unix_s.max(unix_s))
    }

    /// Returns the reading of the clock in seconds.
    #[must_use]
    pub fn now_s(&self, now: Instant) -> u64 {
        self.base_s.saturating_add(now.saturating_duration_since(self.begun).as_secs())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_age_goes_on_over_restarts_and_never_back() {
        let now = Instant::now();
        let first = AgeClock::start(None, 1_000_000, now);
        assert_eq!(first.now_s(now + Duration::from_secs(90)), 90);
        let stored = Some((90, 1_000_090));
        assert_eq!(AgeClock::start(stored, 1_000_100, now).now_s(now), 100, "ten seconds off");
        assert_eq!(AgeClock::start(stored, 0, now).now_s(now), 90, "the clock went back");
        // Started in the past, stored there, and set right before the next start.
        let behind = AgeClock::start(stored, 1000, now);
        let stored_behind = Some(behind.reading(1005, now + Duration::from_secs(5)));
        assert_eq!(stored_behind, Some((95, 1_000_090)));
        assert_eq!(AgeClock::start(stored_behind, 1_000_100, now).now_s(now), 105);
        assert_eq!(AgeClock::start(Some((u64::MAX, 0)), u64::MAX, now).now_s(now), u64::MAX);
    }
}
