//! Stopping: signals, and a grace period that is kept.
//!
//! The first SIGTERM or SIGINT asks everything to finish; the second ends the process at once. SIGHUP and its like are
//! ignored. What was cut off when
//! the grace period ended is said, so that nobody has to guess whether the stop was clean.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The signals that end the agent.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Takes over SIGTERM and SIGINT for the rest of the process.
    ///
    /// # Errors
    /// When the system does not let it.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal; returns its name.
    ///
    /// # Cancel safety
    /// May be dropped at any time; no signal is lost.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _signal = self.terminate.recv() => "SIGTERM",
            _signal = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Signals that end a process by default and mean nothing to a daemon. SIGPIPE is ignored by Rust's runtime.
const OUTLIVED: [(&str, SignalKind); 5] = [
    ("SIGHUP", SignalKind::hangup()),
    ("SIGUSR1", SignalKind::user_defined1()),
    ("SIGUSR2", SignalKind::user_defined2()),
    ("SIGALRM", SignalKind::alarm()),
    ("SIGIO", SignalKind::io()),
];

/// Catches the signals of [`OUTLIVED`] from the first poll on and logs them; never ends.
///
/// SIGHUP comes when a terminal closes, and from people who expect a new configuration to be read: that takes a restart.
///
/// # Errors
/// When the system lets no handler be installed.
///
/// # Cancel safety
/// May be dropped at any time; the signals are then ignored without a log line.
pub async fn outlive_signals() -> std::io::Result<()> {
    let mut outlived = Vec::new();
    for (name, kind) in OUTLIVED {
        outlived.push((name, signal(kind)?));
    }
    loop {
        let next = std::future::poll_fn(|context| {
            let mut came =
                outlived.iter_mut().filter_map(|(name, signal)| signal.poll_recv(context).is_ready().then_some(*name));
            came.next().map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        });
        let name = next.await;
        tracing::info!(signal = name, "ignored: a new configuration is read at a restart, SIGTERM stops");
    }
}

/// How a stop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Everything that was begun was finished.
    Drained,
    /// The store's disk did not answer: nothing that waits for it could be finished.
    Stalled,
    /// The grace period ended, or a second signal came, with this many tasks unfinished.
    CutOff {
        /// Tasks that were still running.
        unfinished: usize,
    },
}

/// Lets the tasks finish: after the grace period, or when `hurry` is cancelled, the rest is cut off.
///
/// # Cancel safety
/// May be dropped; the tasks then go on.
pub async fn drain(tasks: &TaskTracker, grace: Duration, hurry: &CancellationToken) -> Stopped {
    tasks.close();
    tokio::select! {
        () = tasks.wait() => Stopped::Drained,
        () = tokio::time::sleep(grace) => Stopped::CutOff { unfinished: tasks.len() },
        () = hurry.cancelled() => Stopped::CutOff { unfinished: tasks.len() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_finishes_within_the_grace_period_is_drained() {
        let tasks = TaskTracker::new();
        drop(tasks.spawn(tokio::time::sleep(Duration::from_secs(1))));
        let stopped = drain(&tasks, Duration::from_secs(2), &CancellationToken::new()).await;
        assert_eq!(stopped, Stopped::Drained);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_finish_is_cut_off_and_counted() {
        let tasks = TaskTracker::new();
        drop(tasks.spawn(std::future::pending::<()>()));
        let stopped = drain(&tasks, Duration::from_secs(2), &CancellationToken::new()).await;
        assert_eq!(stopped, Stopped::CutOff { unfinished: 1 });
    }
}
