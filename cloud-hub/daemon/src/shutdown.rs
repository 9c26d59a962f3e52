//! Stopping: the first signal asks for an orderly end, the second one does not wait for it.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What the parts of the hub watch to know when to end.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// No new work; finish what is in flight.
    pub drain: CancellationToken,
    /// Not even that.
    pub now: CancellationToken,
}

/// How a stop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Everything in flight was answered.
    Drained,
    /// The grace period ended first; this many requests were broken off.
    GraceOver(usize),
    /// A second signal came; this many requests were broken off.
    AtOnce(usize),
}

impl Stop {
    /// Waits for the process's signals and passes them on.
    ///
    /// # Errors
    /// When the system lets no handler be installed.
    ///
    /// # Cancel safety
    /// Signals that were seen have been passed on; later ones are lost.
    pub async fn on_signals(self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let name = either(&mut terminate, &mut interrupt).await;
        tracing::info!(signal = name, "stopping: finishing what is in flight, a second signal stops at once");
        self.drain.cancel();
        let name = either(&mut terminate, &mut interrupt).await;
        tracing::warn!(signal = name, "stopping at once");
        self.now.cancel();
        Ok(())
    }

    /// Waits until nothing is in flight any more, the grace is over, or it must end at once.
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

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
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
}
