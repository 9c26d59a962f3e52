//! Stopping a daemon: drain within the grace period, and say how that ended.
//!
//! Fed by [`crate::signals`]; the parts of a daemon watch [`Stop`].

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Stop requests that the parts of a daemon watch.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Cancelled by the first signal: take no new work, finish what is in flight.
    pub drain: CancellationToken,
    /// Cancelled by the second signal, or when the grace period is over: abandon what is in flight.
    pub now: CancellationToken,
}

/// Result of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Everything in flight was finished.
    Drained,
    /// The grace period ended first; this many tasks were abandoned.
    GraceOver(usize),
    /// A second signal came first; this many tasks were abandoned.
    AtOnce(usize),
}

impl Stopped {
    /// Logs the result: a warning with the number of tasks where some were abandoned.
    pub fn log(self) {
        match self {
            Self::Drained => tracing::info!("everything in flight was finished"),
            Self::GraceOver(unfinished) => {
                tracing::warn!(unfinished, "the grace period is over: requests were cut off")
            }
            Self::AtOnce(unfinished) => tracing::warn!(unfinished, "stopped at once: requests were cut off"),
        }
    }
}

impl Stop {
    /// Waits until `idle` resolves, the grace period is over, or [`Stop::now`] is cancelled.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn drained(
        &self,
        grace: Duration,
        idle: impl Future<Output = ()>,
        in_flight: impl Fn() -> usize,
    ) -> Stopped {
        tokio::select! {
            biased;
            () = idle => Stopped::Drained,
            () = self.now.cancelled() => Stopped::AtOnce(in_flight()),
            () = tokio::time::sleep(grace) => Stopped::GraceOver(in_flight()),
        }
    }

    /// Closes the tracker and waits for its tasks as [`Stop::drained`] does.
    ///
    /// # Cancel safety
    /// May be dropped at any time; the tasks then go on.
    pub async fn drain_tasks(&self, tasks: &TaskTracker, grace: Duration) -> Stopped {
        tasks.close();
        self.drained(grace, tasks.wait(), || tasks.len()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_stop_says_which_of_the_three_happened() {
        let stop = Stop::default();
        assert_eq!(stop.drained(LONG, std::future::ready(()), || 3).await, Stopped::Drained);
        assert_eq!(stop.drained(LONG, std::future::pending(), || 3).await, Stopped::GraceOver(3));
        stop.now.cancel();
        assert_eq!(stop.drained(LONG, std::future::pending(), || 2).await, Stopped::AtOnce(2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_finishes_within_the_grace_period_is_drained() {
        let tasks = TaskTracker::new();
        drop(tasks.spawn(tokio::time::sleep(Duration::from_secs(1))));
        assert_eq!(Stop::default().drain_tasks(&tasks, Duration::from_secs(2)).await, Stopped::Drained);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_finish_is_cut_off_and_counted() {
        let tasks = TaskTracker::new();
        drop(tasks.spawn(std::future::pending::<()>()));
        assert_eq!(Stop::default().drain_tasks(&tasks, Duration::from_secs(2)).await, Stopped::GraceOver(1));
    }
}
