//! The open connections of one server: the progress of each, and which one is closed when there are too many.
//!
//! Fed by [`crate::server`] with each accepted connection and its progress. A new client is always served: when the limit is
//! reached, the idlest connection is closed in its place. A connection whose request is being computed is never closed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// Stage of a connection in its current request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No byte of a request has arrived: a new connection, or one between two requests.
    Idle,
    /// The head of a request is arriving.
    Head,
    /// The body of a request is arriving.
    Body,
    /// A complete request is being answered.
    Working,
    /// The response is being sent.
    Sending,
}

/// Time limits of a connection. The body of a request has its own, in [`crate::Limits`].
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Longest time without a request.
    pub idle: Duration,
    /// Longest time from the first byte of a head to its last.
    pub head: Duration,
    /// Longest time to send a whole response.
    pub response: Duration,
    /// Least bytes per second that a client must take of a response, measured over [`RATE_WINDOW`].
    pub rate_min: usize,
}

/// Time over which the rate of a body or of a response is measured.
///
/// Long enough for a lost packet, a sleeping radio or a paused process; short enough that a client which has gone does not
/// hold memory for minutes.
pub const RATE_WINDOW: Duration = Duration::from_secs(10);

/// Returns the bytes that a rate per second demands in one [`RATE_WINDOW`].
pub(super) fn bytes_per_window(rate: usize) -> usize {
    rate.saturating_mul(usize::try_from(RATE_WINDOW.as_secs()).unwrap_or(usize::MAX))
}

/// Progress of one connection, shared by its task, its handlers and the list of connections.
#[derive(Debug)]
pub struct Activity {
    state: Mutex<State>,
    /// Cancelled to close the connection at once.
    pub close: CancellationToken,
}

/// Snapshot of a connection's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// Moment at which the phase began.
    pub(super) since: Instant,
    /// Number of phases so far: tells two phases of the same kind apart.
    pub(super) number: u64,
    /// Bytes sent since the connection was opened.
    pub(super) sent: u64,
    /// True once a request of this connection was answered.
    answered: bool,
}

impl Activity {
    /// Creates the progress of a connection that was opened at `now`.
    #[must_use]
    pub fn new(now: Instant) -> Arc<Self> {
        let state = State { phase: Phase::Idle, since: now, number: 0, sent: 0, answered: false };
        Arc::new(Self { state: Mutex::new(state), close: CancellationToken::new() })
    }

    /// Begins a phase of the connection.
    pub fn begin(&self, phase: Phase) {
        self.begin_at(phase, Instant::now());
    }

    pub(super) fn begin_at(&self, phase: Phase, now: Instant) {
        let mut state = self.lock();
        // A response that was sent, or given up by a handler: the connection waits for its next request.
        state.answered |= phase == Phase::Idle;
        state.phase = phase;
        state.since = now;
        state.number += 1;
    }

    /// Notes that bytes arrived: the first ones of an idle connection begin a head.
    pub(super) fn received(&self) {
        if self.lock().phase == Phase::Idle {
            self.begin(Phase::Head);
        }
    }

    /// Notes that bytes were sent.
    pub(super) fn sent(&self, bytes: usize) {
        let mut state = self.lock();
        state.sent = state.sent.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    pub(super) fn state(&self) -> State {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Orders connections by how little closing them costs; `None` for one that must not be closed.
    fn cost_of_closing(&self) -> Option<(u8, Instant)> {
        let class = match (self.phase, self.answered) {
            // Silent connections and unfinished heads of clients that have not asked anything yet.
            (Phase::Idle | Phase::Head, false) => 0,
            (Phase::Idle | Phase::Head, true) => 1,
            (Phase::Body | Phase::Sending, _) => 2,
            (Phase::Working, _) => return None,
        };
        Some((class, self.since))
    }
}

/// The open connections of one server.
#[derive(Debug)]
pub struct Connections {
    limit: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    by_number: BTreeMap<u64, Arc<Activity>>,
}

impl Connections {
    /// Creates an empty list of at most `limit` connections.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: limit.max(1), open: Mutex::default() })
    }

    /// Adds a connection and closes the idlest ones where that makes too many.
    #[must_use]
    pub fn add(self: &Arc<Self>, activity: Arc<Activity>) -> ConnectionGuard {
        while self.lock().by_number.len() >= self.limit && self.close_idlest() {}
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        open.by_number.insert(number, Arc::clone(&activity));
        ConnectionGuard { connections: Arc::clone(self), number, activity }
    }

    /// Closes the connection that costs least; returns false when every connection is at work.
    pub fn close_idlest(&self) -> bool {
        let mut open = self.lock();
        let costs = open.by_number.iter().filter_map(|(number, activity)| {
            let cost = activity.state().cost_of_closing()?;
            Some((cost, *number))
        });
        let Some((_, number)) = costs.min() else { return false };
        if let Some(activity) = open.by_number.remove(&number) {
            activity.close.cancel();
        }
        true
    }

    /// Returns the number of open connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().by_number.len()
    }

    /// Returns whether no connection is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a connection in the list until it is dropped.
#[derive(Debug)]
pub struct ConnectionGuard {
    connections: Arc<Connections>,
    number: u64,
    /// Progress of the connection.
    pub activity: Arc<Activity>,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.connections.lock().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connections that were opened one second apart, in these phases.
    fn opened(connections: &Arc<Connections>, phases: &[(Phase, bool)]) -> Vec<ConnectionGuard> {
        let start = Instant::now();
        let open = |(at, &(phase, answered)): (u32, &(Phase, bool))| {
            let activity = Activity::new(start + Duration::from_secs(1) * at);
            activity.lock().answered = answered;
            activity.lock().phase = phase;
            connections.add(activity)
        };
        (0_u32..).zip(phases).map(open).collect()
    }

    fn closed(guards: &[ConnectionGuard]) -> Vec<bool> {
        guards.iter().map(|guard| guard.activity.close.is_cancelled()).collect()
    }

    #[test]
    fn the_idlest_connection_makes_place_for_a_new_one() {
        let connections = Connections::new(4);
        let phases = [(Phase::Working, false), (Phase::Body, true), (Phase::Idle, true), (Phase::Head, false)];
        let guards = opened(&connections, &phases);
        for expected in [[false, false, false, true], [false, false, true, true], [false, true, true, true]] {
            assert!(connections.close_idlest());
            assert_eq!(closed(&guards), expected, "first those that have asked nothing, last those in a transfer");
        }
        assert!(!connections.close_idlest(), "a request at work is not cut off");
        assert_eq!(connections.len(), 1);
    }

    #[test]
    fn of_two_silent_connections_the_older_one_goes() {
        let connections = Connections::new(3);
        let guards = opened(&connections, &[(Phase::Idle, false); 5]);
        assert_eq!(closed(&guards), [true, true, false, false, false]);
        assert_eq!(connections.len(), 3);
        drop(guards);
        assert!(connections.is_empty());
    }

    #[test]
    fn the_first_byte_of_an_idle_connection_begins_a_head() {
        let activity = Activity::new(Instant::now());
        activity.received();
        assert_eq!(activity.state().phase, Phase::Head);
        activity.begin(Phase::Body);
        activity.received();
        assert_eq!(activity.state().phase, Phase::Body);
        activity.begin(Phase::Idle);
        assert!(activity.state().answered);
    }
}
