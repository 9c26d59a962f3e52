//! Behaviour of one loaded session, for the probation of its version.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use edge_core::counters::Histogram;

/// Counts of one session since it was loaded.
#[derive(Debug, Default)]
pub struct Vitals {
    answers: AtomicU64,
    failures: AtomicU64,
    deaths: AtomicU64,
    latency: Mutex<Histogram>,
}

/// Counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// Runs that gave an answer.
    pub answers: u64,
    /// Runs that ended in an error that was not the request's fault.
    pub failures: u64,
    /// Ends of the process that ran the session.
    pub deaths: u64,
}

impl Vitals {
    /// Counts a run that gave an answer after `compute`.
    pub fn answered(&self, compute: Duration) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.latency.lock().unwrap_or_else(PoisonError::into_inner).count(compute);
    }

    /// Counts a run that failed; `is_death` if the process that ran it ended.
    pub fn failed(&self, is_death: bool) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.deaths.fetch_add(u64::from(is_death), Ordering::Relaxed);
    }

    /// Returns the counts of this moment.
    #[must_use]
    pub fn read(&self) -> Reading {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Reading { answers: read(&self.answers), failures: read(&self.failures), deaths: read(&self.deaths) }
    }

    /// Returns the median duration of the runs; `None` before the first.
    #[must_use]
    pub fn median(&self) -> Option<Duration> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner).median()
    }
}
