//! The streams of one HTTP/2 connection: which of them wait, work or send, and what that makes of the connection.
//!
//! Fed by [`crate::server`] with each request and response of the connection, and by [`crate::grpc`] with the messages of a
//! request. The phase of the connection is that of its busiest stream, so that [`crate::connections`] closes the idlest
//! connection for both protocols by the same rule.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::connections::{Activity, Deadlines, Phase, RATE_WINDOW};

/// Open streams of a connection.
#[derive(Debug)]
pub struct Streams {
    activity: Arc<Activity>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    by_number: BTreeMap<u64, (Phase, Instant)>,
}

/// Place of one stream in its connection until it is dropped; a request extension.
#[derive(Debug)]
pub struct StreamGuard {
    streams: Arc<Streams>,
    number: u64,
}

impl Streams {
    /// Creates an empty list for a connection.
    pub(crate) fn new(activity: Arc<Activity>) -> Arc<Self> {
        Arc::new(Self { activity, open: Mutex::default() })
    }

    /// Adds a stream whose request is being read.
    pub(crate) fn open(self: &Arc<Self>) -> Arc<StreamGuard> {
        let number = {
            let mut open = self.lock();
            open.next += 1;
            open.next
        };
        self.set(number, Some(Phase::Working));
        Arc::new(StreamGuard { streams: Arc::clone(self), number })
    }

    /// Sets the phase of a stream, or removes it, and lets the connection have the phase of its busiest stream.
    fn set(&self, number: u64, phase: Option<Phase>) {
        let now = Instant::now();
        let mut open = self.lock();
        match phase {
            Some(phase) => drop(open.by_number.insert(number, (phase, now))),
            None => drop(open.by_number.remove(&number)),
        }
        let busiest = open.by_number.values().map(|(phase, _since)| *phase).max_by_key(|phase| rank(*phase));
        let busiest = busiest.unwrap_or(Phase::Idle);
        if self.activity.state().phase != busiest {
            self.activity.begin_at(busiest, now);
        }
    }

    /// Lets a stream that was sending wait for its next message.
    fn settle(&self, number: u64) {
        let is_sending = self.lock().by_number.get(&number).is_some_and(|(phase, _since)| *phase == Phase::Sending);
        if is_sending {
            self.set(number, Some(Phase::Idle));
        }
    }

    /// Returns the moment at which the connection must be closed, or checked again.
    pub(crate) fn due(&self, deadlines: Deadlines, now: Instant) -> Due {
        let open = self.lock();
        if open.by_number.is_empty() {
            let idle_since = self.activity.state().since;
            return match idle_since.checked_add(deadlines.idle) {
                Some(end) if end <= now => Due::Over(Phase::Idle),
                end => Due::At(end.unwrap_or(now + RATE_WINDOW)),
            };
        }
        // A response that the client does not take is not asked for its next part.
        let sending = open.by_number.values().filter(|(phase, _since)| *phase == Phase::Sending);
        let oldest = sending.map(|(_phase, since)| *since).min();
        match oldest.and_then(|since| since.checked_add(deadlines.response)) {
            Some(end) if end <= now => Due::Over(Phase::Sending),
            Some(end) => Due::At(end.min(now + RATE_WINDOW)),
            None => Due::At(now + RATE_WINDOW),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Consequence of the deadlines of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// A deadline has passed in this phase.
    Over(Phase),
    /// The next check is at this moment.
    At(Instant),
}

/// Orders phases by how much is lost when a connection is closed in them.
fn rank(phase: Phase) -> u8 {
    match phase {
        Phase::Idle => 0,
        Phase::Head => 1,
        Phase::Body => 2,
        Phase::Sending => 3,
        Phase::Working => 4,
    }
}

impl StreamGuard {
    /// Begins a phase of the stream.
    pub(crate) fn begin(&self, phase: Phase) {
        self.streams.set(self.number, Some(phase));
    }

    /// Ends the phase of sending: the client has taken everything there is.
    pub(crate) fn settle(&self) {
        self.streams.settle(self.number);
    }

    /// Returns the connection's progress, to close it where other requests need its memory.
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.streams.activity
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.streams.set(self.number, None);
    }
}

/// Interval of HTTP/2 pings on a connection, and how long their answer may take: a client that has gone is noticed.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn deadlines() -> Deadlines {
        let second = Duration::from_secs(1);
        Deadlines { idle: 60 * second, head: second, response: 5 * second, rate_min: 1024 }
    }

    #[test]
    fn a_connection_has_the_phase_of_its_busiest_stream() {
        let activity = Activity::new(Instant::now());
        let streams = Streams::new(Arc::clone(&activity));
        let (first, second) = (streams.open(), streams.open());
        first.begin(Phase::Idle);
        assert_eq!(activity.state().phase, Phase::Working);
        second.begin(Phase::Body);
        assert_eq!(activity.state().phase, Phase::Body);
        drop(second);
        assert_eq!(activity.state().phase, Phase::Idle, "a stream between two messages is idle");
        drop(first);
        assert_eq!(activity.state().phase, Phase::Idle);
    }

    #[test]
    fn only_a_connection_without_streams_is_closed_for_being_idle() {
        let streams = Streams::new(Activity::new(Instant::now()));
        let later = Instant::now() + Duration::from_secs(100);
        assert_eq!(streams.due(deadlines(), later), Due::Over(Phase::Idle));
        let stream = streams.open();
        stream.begin(Phase::Idle);
        assert_eq!(streams.due(deadlines(), later), Due::At(later + RATE_WINDOW));
        stream.begin(Phase::Sending);
        assert_eq!(streams.due(deadlines(), later), Due::Over(Phase::Sending), "a response that nobody takes");
    }
}
