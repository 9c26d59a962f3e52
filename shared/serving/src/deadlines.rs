//! Deadlines of a connection: the futures that end when it must be closed.
//!
//! Used by [`crate::server`] beside the connection itself.

use std::future::{Future as _, poll_fn};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use crate::connections::{Activity, Deadlines, Phase, RATE_WINDOW, State, bytes_per_window};
use crate::streams::{Due, Streams};

/// Waits until an HTTP/2 connection is past a deadline; returns the phase it was in.
pub(crate) async fn streams_overdue(streams: &Streams, deadlines: Deadlines) -> Phase {
    loop {
        match streams.due(deadlines, Instant::now()) {
            Due::Over(phase) => return phase,
            Due::At(moment) => tokio::time::sleep_until(moment.into()).await,
        }
    }
}

/// Interval between checks whether an HTTP/2 connection is idle, once the server stops: the goodbye is sent meanwhile.
const STOP_CHECK: Duration = Duration::from_millis(50);

/// Waits until no stream of an HTTP/2 connection works.
pub(crate) async fn until_idle(activity: &Activity) -> Phase {
    loop {
        tokio::time::sleep(STOP_CHECK).await;
        let phase = activity.state().phase;
        if phase == Phase::Idle {
            return phase;
        }
    }
}

/// Waits until the connection is past a deadline; returns the phase it was in.
///
/// Polled in the same task as the connection, after it: every change of the phase is seen before the task sleeps.
pub(crate) async fn overdue(activity: &Activity, deadlines: Deadlines) -> Phase {
    let mut watch = Watch::new(activity.state());
    let mut timer = Box::pin(tokio::time::sleep(Duration::ZERO));
    poll_fn(|context| {
        loop {
            let state = activity.state();
            if watch.is_overdue(state, deadlines, Instant::now()) {
                return Poll::Ready(state.phase);
            }
            let Some(due) = watch.due(deadlines) else { return Poll::Pending };
            if timer.deadline() != due.into() {
                timer.as_mut().reset(due.into());
            }
            ready!(timer.as_mut().poll(context));
        }
    })
    .await
}

/// Start of the current phase, and of the window in which its bytes are counted.
struct Watch {
    phase: State,
    window: Instant,
    sent_before: u64,
}

impl Watch {
    fn new(phase: State) -> Self {
        Self { phase, window: phase.since, sent_before: phase.sent }
    }

    fn is_overdue(&mut self, state: State, deadlines: Deadlines, now: Instant) -> bool {
        if state.number != self.phase.number {
            *self = Self::new(state);
        }
        let lasted = now.saturating_duration_since(state.since);
        match state.phase {
            Phase::Idle => lasted >= deadlines.idle,
            Phase::Head => lasted >= deadlines.head,
            Phase::Body | Phase::Working => false,
            Phase::Sending if lasted >= deadlines.response => true,
            Phase::Sending if now.saturating_duration_since(self.window) < RATE_WINDOW => false,
            Phase::Sending => {
                let sent = usize::try_from(state.sent.saturating_sub(self.sent_before)).unwrap_or(usize::MAX);
                self.window = now;
                self.sent_before = state.sent;
                sent < bytes_per_window(deadlines.rate_min)
            }
        }
    }

    /// Returns the moment of the next check; `None` while no deadline runs.
    fn due(&self, deadlines: Deadlines) -> Option<Instant> {
        let since = self.phase.since;
        match self.phase.phase {
            Phase::Idle => since.checked_add(deadlines.idle),
            Phase::Head => since.checked_add(deadlines.head),
            Phase::Body | Phase::Working => None,
            Phase::Sending => since.checked_add(deadlines.response).map(|end| end.min(self.window + RATE_WINDOW)),
        }
    }
}
