//! Limits how often failed logins of one source are looked at and logged.
//!
//! Fed by the admin server with each failure. Tokens have 256 random bits, so guessing is hopeless; the limit keeps a
//! guesser from filling the log and from using the hub's time. A correct token is never refused by it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::intake::Source;

/// Failed logins of one source that are answered and logged one by one before the limit applies.
pub const FAILURES_BURST: u32 = 10;

/// Time after which a source may fail once more with a log line of its own.
pub const FAILURE_EVERY: Duration = Duration::from_secs(6);

/// Maximum number of sources that are counted; beyond it the one whose last failure is oldest is forgotten.
pub const SOURCES_MAX: usize = 4096;

/// Reaction to a failed login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Answer and log it; `unlogged` earlier ones of this source were not logged.
    Log {
        /// Failures since the last log line.
        unlogged: u64,
    },
    /// Answer that there were too many; count it in metrics only.
    TooMany {
        /// Time after which the source may fail again.
        retry_after: Duration,
    },
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    /// Time at which the whole burst is available again.
    full_at: Instant,
    unlogged: u64,
}

/// Failed logins by source.
#[derive(Debug, Default)]
pub struct Logins {
    sources: BTreeMap<Source, Failures>,
}

impl Logins {
    /// Counts a failed login.
    pub fn failed(&mut self, source: Source, now: Instant) -> Failure {
        self.make_room(source);
        let failures = self.sources.entry(source).or_insert(Failures { full_at: now, unlogged: 0 });
        let full_at = failures.full_at.max(now) + FAILURE_EVERY;
        let debt = full_at.duration_since(now);
        let allowed = FAILURE_EVERY * FAILURES_BURST;
        if debt > allowed {
            failures.unlogged += 1;
            return Failure::TooMany { retry_after: debt - allowed };
        }
        failures.full_at = full_at;
        Failure::Log { unlogged: std::mem::take(&mut failures.unlogged) }
    }

    /// Returns the number of sources that are counted now.
    #[must_use]
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    fn make_room(&mut self, source: Source) {
        if self.sources.len() < SOURCES_MAX || self.sources.contains_key(&source) {
            return;
        }
        let oldest = self.sources.iter().min_by_key(|(_, failures)| failures.full_at).map(|(source, _)| *source);
        if let Some(oldest) = oldest {
            self.sources.remove(&oldest);
        }
    }
}
