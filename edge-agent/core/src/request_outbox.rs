//! Requests that wait on the device for the hub, and the answers that wait for the application.
//!
//! Fed by the shell, which stores a request before it acknowledges it and answers before it forgets a request. Decides what is
//! taken, the order of sending, pacing, and what is given up. [`crate::outbox`] is for reports of updates, which is another
//! thing.
//!
//! - A request is taken once for each id. It ends exactly once: answered, failed, displaced, dropped or expired.
//! - Of the requests that may be sent, the one with the highest priority is sent first, and of one priority the oldest. A model
//!   whose policy allows no sending now does not hold up the other models.
//! - Rule of a full outbox: a new request displaces waiting requests of a lower priority, the lowest priority and of that the
//!   newest first; if that does not make enough room, the new request is refused and nothing is displaced. Requests that are at
//!   the hub are never displaced.
//! - Rule of too many answers: the oldest answers are displaced.

mod age;
mod index;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use types::{ModelName, QueuePriority, RequestId};

pub use age::AgeClock;
use index::Index;
pub use state::{End, Event, State};

use crate::Refused;
use crate::backoff::Backoff;

/// Waits after the hub was away or had no room, while requests wait.
///
/// A second is what an overloaded hub asks for at least; a minute is what a recovered hub should be left idle at most.
pub const RETRY: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) };

/// Time for which a model is passed over after its policy allowed no sending: link and battery are looked at as often.
pub const REST: Duration = Duration::from_secs(30);

/// Maximum pause that a hub may ask for; a hostile one must not silence the outbox for longer.
pub const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Maximum number of ended requests that are remembered by their id. The oldest are forgotten.
pub const ENDED_MAX: usize = 10_000;

/// Time in seconds for which the end of a request is remembered: a week, as long as its answer by default.
pub const ENDED_KEPT_S: u64 = 7 * 24 * 3600;

/// Limits of an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum bytes of stored requests without an answer; and of stored answers.
    pub bytes_max: u64,
    /// Maximum number of stored requests without an answer; and of stored answers.
    pub entries_max: usize,
    /// Maximum number of requests that are at the hub at once, at least 1.
    pub in_flight_max: usize,
}

/// Request that is offered to the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Id of the request, unique among those in the outbox.
    pub id: RequestId,
    /// Model that must answer.
    pub model: ModelName,
    /// Priority of the request.
    pub priority: QueuePriority,
    /// Bytes that it takes on the disk.
    pub bytes: u64,
    /// Age at which it is given up, in seconds of [`AgeClock`].
    pub expires_s: u64,
}

/// Request in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Place in the order of arrival; rises with each request, across restarts.
    pub number: u64,
    /// The request.
    pub request: Request,
    /// State of the request.
    pub state: State,
    /// Time of the last change in seconds of [`AgeClock`]; it decides how long an end is remembered.
    pub changed_s: u64,
}

/// Result of an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offered {
    /// The request is taken; store it, then send [`Event::Stored`] or [`Event::NotStored`].
    Taken {
        /// Number of the new entry.
        number: u64,
        /// Entries that were displaced for it.
        displaced: Vec<u64>,
    },
    /// A request with this id is in the outbox already: the number of its entry.
    Known(u64),
    /// There is no room.
    Full,
}

/// Reason for which the hub did not take a request that goes on waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// The hub could not be reached.
    Away,
    /// The hub has no room; it may ask for a pause.
    Busy {
        /// Minimum time until the next attempt.
        retry_after: Option<Duration>,
    },
    /// The policy of its model allows no sending now.
    Withheld,
}

/// Figures of an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Requests without an answer.
    pub requests: usize,
    /// Bytes of these requests on the disk.
    pub request_bytes: u64,
    /// Requests of these that are at the hub.
    pub in_flight: usize,
    /// Answers that are stored.
    pub answers: usize,
    /// Bytes of these answers on the disk.
    pub answer_bytes: u64,
}

/// Requests that wait for the hub, and their answers.
#[derive(Debug, Clone)]
pub struct RequestOutbox {
    limits: Limits,
    entries: BTreeMap<u64, Entry>,
    index: Index,
    last: u64,
    /// Number of requests that may be at the hub at once now: 1 after a failure, then one more with each answer.
    window: usize,
    failures: u32,
    pause_until: Option<Instant>,
    resting: BTreeMap<ModelName, Instant>,
}

impl RequestOutbox {
    /// Creates an empty outbox.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let limits = Limits { in_flight_max: limits.in_flight_max.max(1), ..limits };
        Self {
            limits,
            entries: BTreeMap::new(),
            index: Index::default(),
            last: 0,
            window: limits.in_flight_max,
            failures: 0,
            pause_until: None,
            resting: BTreeMap::new(),
        }
    }

    /// Continues with the entries that an earlier run stored, in any order. Requests that were at the hub wait again. Of two
    /// entries with one id the earlier one is over and is left out.
    #[must_use]
    pub fn restore(limits: Limits, mut stored: Vec<Entry>) -> Self {
        let mut outbox = Self::new(limits);
        stored.sort_by_key(|entry| std::cmp::Reverse(entry.number));
        for mut entry in stored {
            outbox.last = outbox.last.max(entry.number);
            if outbox.index.number(&entry.request.id).is_some() {
                continue;
            }
            entry.state = entry.state.after_restart();
            outbox.index.add(&entry);
            outbox.entries.insert(entry.number, entry);
        }
        outbox
    }

    /// Offers a request at an age clock of `now_s`.
    pub fn offer(&mut self, request: Request, now_s: u64) -> Offered {
        if let Some(number) = self.index.number(&request.id) {
            let is_over = self.entries.get(&number).is_some_and(|entry| matches!(entry.state, State::Ended(_)));
            if !is_over {
                return Offered::Known(number);
            }
            // The end was told, so this is a new attempt under the same id.
            self.forget(number);
        }
        let Some(displaced) = self.room_for(&request) else { return Offered::Full };
        for number in &displaced {
            self.set(*number, State::Ended(End::Displaced), now_s);
        }
        self.last = self.last.saturating_add(1);
        let entry = Entry { number: self.last, request, state: State::Storing, changed_s: now_s };
        self.index.add(&entry);
        self.entries.insert(self.last, entry);
        self.bound_ends();
        Offered::Taken { number: self.last, displaced }
    }

    /// Returns the waiting entries that must go so that a request fits; `None` if it does not fit even then.
    fn room_for(&self, request: &Request) -> Option<Vec<u64>> {
        let figures = self.index.figures();
        let (mut bytes, mut count) = (figures.request_bytes.saturating_add(request.bytes), figures.requests + 1);
        let mut displaced = Vec::new();
        let mut candidates = self.index.by_priority();
        while bytes > self.limits.bytes_max || count > self.limits.entries_max {
            let (priority, number) = candidates.next()?;
            if priority >= request.priority {
                return None;
            }
            bytes = bytes.saturating_sub(self.entries.get(&number).map_or(0, |entry| entry.request.bytes));
            count -= 1;
            displaced.push(number);
        }
        Some(displaced)
    }

    /// Takes the next request to send; `None` while none may be sent. Its entry is [`State::InFlight`] from now on.
    pub fn send(&mut self, now: Instant) -> Option<u64> {
        if self.index.figures().in_flight >= self.window || self.pause_until.is_some_and(|until| now < until) {
            return None;
        }
        self.resting.retain(|_model, until| now < *until);
        let number = self.index.next(|model| !self.resting.contains_key(model))?;
        let changed_s = self.entries.get(&number)?.changed_s;
        self.set(number, State::InFlight, changed_s);
        Some(number)
    }

    /// Returns the time at which [`RequestOutbox::send`] may return a request that it does not return now.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let paused = self.pause_until.map(|until| (until, "the pause after a failure ends"));
        let rested = self.resting.values().min().map(|until| (*until, "a model is tried again"));
        [paused, rested].into_iter().flatten().min()
    }

    /// Notes that the connection to the hub is there: the pause after a lost connection ends.
    pub fn online(&mut self) {
        self.pause_until = None;
        self.failures = 0;
    }

    /// Decides what follows from an event of one entry. Returns the answers that are displaced.
    ///
    /// # Errors
    /// [`Refused`] for an event that makes no sense in the state of the entry, or for an unknown entry; nothing has changed.
    pub fn handle(&mut self, number: u64, event: Event, now_s: u64) -> Result<Vec<u64>, Refused> {
        let unknown = Refused { machine: "request outbox", state: "unknown", event: event.name() };
        let entry = self.entries.get(&number).ok_or(unknown)?;
        match entry.state.after(event)? {
            Some(state) => self.set(number, state, now_s),
            None => self.forget(number),
        }
        if matches!(event, Event::Answered { .. }) {
            self.window = self.window.saturating_add(1).min(self.limits.in_flight_max);
            self.failures = 0;
            return Ok(self.displace_answers(number, now_s));
        }
        self.bound_ends();
        Ok(Vec::new())
    }

    /// Lets a request wait again that the hub did not take. `random` is uniform over all of `u64`.
    ///
    /// # Errors
    /// As [`RequestOutbox::handle`].
    pub fn back(&mut self, number: u64, why: Back, now: Instant, random: u64) -> Result<(), Refused> {
        let changed_s = self.entries.get(&number).map_or(0, |entry| entry.changed_s);
        self.handle(number, Event::SentBack, changed_s)?;
        let asked = match why {
            Back::Withheld => {
                let model = self.entries.get(&number).map(|entry| entry.request.model.clone());
                self.resting.extend(model.map(|model| (model, now + REST)));
                return Ok(());
            }
            Back::Away => Duration::ZERO,
            Back::Busy { retry_after } => retry_after.unwrap_or_default().min(PAUSE_MAX),
        };
        self.window = 1;
        self.failures = self.failures.saturating_add(1);
        let until = now + asked + RETRY.delay(self.failures, random);
        self.pause_until = Some(self.pause_until.map_or(until, |before| before.max(until)));
        Ok(())
    }

    /// Gives up what is too old. Returns the requests and answers that expired; ends that are remembered no longer are gone.
    pub fn expire(&mut self, now_s: u64) -> Vec<u64> {
        let mut expired = Vec::new();
        while let Some(number) = self.index.due(now_s) {
            match self.entries.get(&number).map(|entry| entry.state) {
                Some(State::Waiting | State::Answered { .. }) => {
                    self.set(number, State::Ended(End::Expired), now_s);
                    expired.push(number);
                }
                Some(State::Ended(_) | State::Storing | State::InFlight) | None => self.forget(number),
            }
        }
        self.bound_ends();
        expired
    }

    /// Returns an entry.
    #[must_use]
    pub fn entry(&self, number: u64) -> Option<&Entry> {
        self.entries.get(&number)
    }

    /// Returns the entry of a request.
    #[must_use]
    pub fn find(&self, id: &RequestId) -> Option<&Entry> {
        self.entries.get(&self.index.number(id)?)
    }

    /// Returns every entry in the order of arrival.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Returns the figures of this moment.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.index.figures()
    }

    /// Returns the oldest request without an answer.
    #[must_use]
    pub fn oldest(&self) -> Option<&Entry> {
        self.entries.get(&self.index.oldest()?)
    }

    /// Displaces the oldest answers until the others fit. The newest one is always kept, however large: the hub has computed it.
    fn displace_answers(&mut self, newest: u64, now_s: u64) -> Vec<u64> {
        let mut displaced = Vec::new();
        loop {
            let Figures { answers, answer_bytes, .. } = self.index.figures();
            if answer_bytes <= self.limits.bytes_max && answers <= self.limits.entries_max {
                break;
            }
            let Some(number) = self.index.oldest_answer_but(newest) else { break };
            self.set(number, State::Ended(End::Displaced), now_s);
            displaced.push(number);
        }
        self.bound_ends();
        displaced
    }

    /// Forgets the oldest ends beyond [`ENDED_MAX`].
    fn bound_ends(&mut self) {
        while self.index.ends() > ENDED_MAX {
            let Some(number) = self.index.oldest_end() else { return };
            self.forget(number);
        }
    }

    fn set(&mut self, number: u64, state: State, now_s: u64) {
        if let Some(entry) = self.entries.get_mut(&number) {
            self.index.remove(entry);
            (entry.state, entry.changed_s) = (state, now_s);
            self.index.add(entry);
        }
    }

    fn forget(&mut self, number: u64) {
        if let Some(entry) = self.entries.remove(&number) {
            self.index.remove(&entry);
        }
    }
}
