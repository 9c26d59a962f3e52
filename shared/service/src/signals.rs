//! The signals of a daemon: SIGTERM and SIGINT stop it, SIGHUP reloads, others that would end it are ignored.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::stop::Stop;

/// Reads again what can change while the daemon runs; see [`crate::logs::reload`].
pub type Reload = Arc<dyn Fn() + Send + Sync>;

/// Effect of a signal on a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Stop,
    Reload,
    /// Ends a process by default and means nothing to a daemon.
    Ignore,
}

/// Signals that are handled. SIGPIPE is not among them: Rust's runtime ignores it.
const HANDLED: [(&str, SignalKind, Effect); 7] = [
    ("SIGTERM", SignalKind::terminate(), Effect::Stop),
    ("SIGINT", SignalKind::interrupt(), Effect::Stop),
    ("SIGHUP", SignalKind::hangup(), Effect::Reload),
    ("SIGUSR1", SignalKind::user_defined1(), Effect::Ignore),
    ("SIGUSR2", SignalKind::user_defined2(), Effect::Ignore),
    ("SIGALRM", SignalKind::alarm(), Effect::Ignore),
    ("SIGIO", SignalKind::io(), Effect::Ignore),
];

/// Handlers of all signals that a daemon reacts to.
#[derive(Debug)]
pub struct Signals {
    handlers: Vec<(&'static str, Signal, Effect)>,
}

impl Signals {
    /// Installs the handlers for the rest of the process.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn listen() -> io::Result<Self> {
        let install = |(name, kind, effect)| Ok((name, signal(kind)?, effect));
        Ok(Self { handlers: HANDLED.into_iter().map(install).collect::<io::Result<_>>()? })
    }

    /// Obeys signals until the second one that stops: it cancels [`Stop::drain`] at the first and [`Stop::now`] at the
    /// second, and calls `reload` at each SIGHUP, on a thread that may block.
    ///
    /// # Cancel safety
    /// May be dropped at any time; later signals are then ignored.
    pub async fn obey(mut self, stop: Stop, reload: Reload) {
        loop {
            match self.next().await {
                (signal, Effect::Stop) if stop.drain.is_cancelled() => {
                    tracing::warn!(signal, "stopping at once");
                    return stop.now.cancel();
                }
                (signal, Effect::Stop) => {
                    tracing::info!(signal, "stopping: finishing what is in flight; a second signal stops at once");
                    stop.drain.cancel();
                }
                (signal, Effect::Reload) => {
                    tracing::info!(
                        signal,
                        "reloading the log filter; other changes of the configuration need a restart"
                    );
                    let reload = Arc::clone(&reload);
                    // Not awaited: a file system that does not respond must not delay a stop.
                    drop(tokio::task::spawn_blocking(move || reload()));
                }
                (signal, Effect::Ignore) => tracing::info!(signal, "signal ignored; SIGTERM stops, SIGHUP reloads"),
            }
        }
    }

    async fn next(&mut self) -> (&'static str, Effect) {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<(&'static str, Effect)> {
        let mut ready = self
            .handlers
            .iter_mut()
            .filter_map(|(name, signal, effect)| signal.poll_recv(context).is_ready().then_some((*name, *effect)));
        ready.next().map_or(Poll::Pending, Poll::Ready)
    }
}
