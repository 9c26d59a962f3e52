//! Orders of the entries: by id, priority, age and state, each in logarithmic time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use types::{ModelName, QueuePriority, RequestId};

use super::{Entry, Figures, State};

/// Entries of an outbox by what is asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    numbers: BTreeMap<RequestId, u64>,
    /// Waiting entries of each model, in the order of sending.
    waiting: BTreeMap<ModelName, BTreeSet<(Reverse<QueuePriority>, u64)>>,
    /// Waiting entries in the order in which they are displaced.
    displaceable: BTreeSet<(QueuePriority, Reverse<u64>)>,
    /// Entries without an answer and without an end.
    open: BTreeSet<u64>,
    answers: BTreeSet<u64>,
    /// Ended entries by the time of their end.
    ends: BTreeSet<(u64, u64)>,
    /// Entries by the time at which they expire or are forgotten.
    due: BTreeSet<(u64, u64)>,
    figures: Figures,
}

impl Index {
    /// Adds an entry under its present state.
    pub(super) fn add(&mut self, entry: &Entry) {
        let (number, request) = (entry.number, &entry.request);
        self.numbers.insert(request.id.clone(), number);
        self.due.extend(entry.due_s().map(|due_s| (due_s, number)));
        match entry.state {
            State::Storing | State::Waiting | State::InFlight => {
                self.open.insert(number);
                self.figures.requests += 1;
                self.figures.request_bytes = self.figures.request_bytes.saturating_add(request.bytes);
            }
            State::Answered { bytes } => {
                self.answers.insert(number);
                self.figures.answers += 1;
                self.figures.answer_bytes = self.figures.answer_bytes.saturating_add(bytes);
            }
            State::Ended(_) => {
                self.ends.insert((entry.changed_s, number));
            }
        }
        match entry.state {
            State::Waiting => {
                let lane = self.waiting.entry(request.model.clone()).or_default();
                lane.insert((Reverse(request.priority), number));
                self.displaceable.insert((request.priority, Reverse(number)));
            }
            State::InFlight => self.figures.in_flight += 1,
            State::Storing | State::Answered { .. } | State::Ended(_) => {}
        }
    }

    /// Removes an entry; its state must be the one under which it was added.
    pub(super) fn remove(&mut self, entry: &Entry) {
        let (number, request) = (entry.number, &entry.request);
        self.numbers.remove(&request.id);
        if let Some(due_s) = entry.due_s() {
            self.due.remove(&(due_s, number));
        }
        match entry.state {
            State::Storing | State::Waiting | State::InFlight => {
                self.open.remove(&number);
                self.figures.requests -= 1;
                self.figures.request_bytes = self.figures.request_bytes.saturating_sub(request.bytes);
            }
            State::Answered { bytes } => {
                self.answers.remove(&number);
                self.figures.answers -= 1;
                self.figures.answer_bytes = self.figures.answer_bytes.saturating_sub(bytes);
            }
            State::Ended(_) => {
                self.ends.remove(&(entry.changed_s, number));
            }
        }
        match entry.state {
            State::Waiting => {
                if let Some(lane) = self.waiting.get_mut(&request.model) {
                    lane.remove(&(Reverse(request.priority), number));
                    if lane.is_empty() {
                        self.waiting.remove(&request.model);
                    }
                }
                self.displaceable.remove(&(request.priority, Reverse(number)));
            }
            State::InFlight => self.figures.in_flight -= 1,
            State::Storing | State::Answered { .. } | State::Ended(_) => {}
        }
    }

    /// Returns the number of the entry of a request.
    pub(super) fn number(&self, id: &RequestId) -> Option<u64> {
        self.numbers.get(id).copied()
    }

    /// Returns the first waiting entry among the models that may send.
    pub(super) fn next(&self, may_send: impl Fn(&ModelName) -> bool) -> Option<u64> {
        let heads = self.waiting.iter().filter(|(model, _lane)| may_send(model));
        heads.filter_map(|(_model, lane)| lane.first()).min().map(|(_priority, number)| *number)
    }

    /// Returns waiting entries in the order in which they are displaced.
    pub(super) fn by_priority(&self) -> impl Iterator<Item = (QueuePriority, u64)> + '_ {
        self.displaceable.iter().map(|(priority, Reverse(number))| (*priority, *number))
    }

    /// Returns the oldest entry without an answer.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.open.first().copied()
    }

    /// Returns the oldest answer among all but one.
    pub(super) fn oldest_answer_but(&self, number: u64) -> Option<u64> {
        self.answers.iter().copied().find(|other| *other != number)
    }

    /// Returns the entry that expires or is forgotten next, if that is due.
    pub(super) fn due(&self, now_s: u64) -> Option<u64> {
        self.due.first().filter(|(due_s, _number)| *due_s <= now_s).map(|(_due_s, number)| *number)
    }

    /// Returns the number of ended entries.
    pub(super) fn ends(&self) -> usize {
        self.ends.len()
    }

    /// Returns the entry that ended first.
    pub(super) fn oldest_end(&self) -> Option<u64> {
        self.ends.first().map(|(_ended_s, number)| *number)
    }

    /// Returns the figures of this moment.
    pub(super) fn figures(&self) -> Figures {
        self.figures
    }
}
