//! The bounded queue between askers and the threads of a worker.
//!
//! Own, and not a channel: a request whose asker has gone must leave it at once, so that it does not keep a living one out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;
use types::NamedTensor;

use super::{InferError, Outcome};
use crate::session::RunControl;

/// One request on its way to a session.
pub(super) struct Job {
    pub(super) inputs: Vec<NamedTensor>,
    pub(super) outputs: Vec<String>,
    pub(super) control: RunControl,
    pub(super) asked: Instant,
    pub(super) answer: oneshot::Sender<Result<Outcome, InferError>>,
}

/// Reason why a request was not taken.
pub(super) enum PushError {
    Full { waiting: usize },
    Closed,
}

pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    /// Requests that may wait beyond those that an idle session takes at once.
    limit: usize,
}

struct State {
    waiting: VecDeque<(u64, Job)>,
    next: u64,
    /// Sessions that run nothing.
    idle: usize,
    /// Times at which the requests were taken that sessions have not done yet, by their numbers.
    running: BTreeMap<u64, Instant>,
    closed: bool,
}

impl Queue {
    pub(super) fn new(limit: usize, sessions: usize) -> Self {
        let state =
            State { waiting: VecDeque::new(), next: 0, idle: sessions, running: BTreeMap::new(), closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request if a session is idle or a place is free; gives the number to withdraw it by.
    pub(super) fn push(&self, job: Job) -> Result<u64, PushError> {
        let mut state = self.lock();
        if state.closed {
            return Err(PushError::Closed);
        }
        let waiting = state.waiting.len();
        if waiting >= self.limit.saturating_add(state.idle) {
            return Err(PushError::Full { waiting });
        }
        let number = state.next;
        state.next = state.next.wrapping_add(1);
        state.waiting.push_back((number, job));
        drop(state);
        self.changed.notify_one();
        Ok(number)
    }

    /// Waits for the next request, and returns it with its number; `None` once the queue is closed and empty.
    pub(super) fn pop(&self) -> Option<(u64, Job)> {
        let mut state = self.lock();
        loop {
            if let Some((number, job)) = state.waiting.pop_front() {
                state.idle = state.idle.saturating_sub(1);
                state.running.insert(number, Instant::now());
                return Some((number, job));
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Notes that the session which took this request is idle again.
    pub(super) fn done(&self, number: u64) {
        let mut state = self.lock();
        state.idle += 1;
        state.running.remove(&number);
    }

    /// Returns the time at which the oldest request was taken that its session has not done yet.
    pub(super) fn oldest_run(&self) -> Option<Instant> {
        self.lock().running.values().min().copied()
    }

    /// Takes a request back out, if it still waits.
    pub(super) fn withdraw(&self, number: u64) {
        let mut state = self.lock();
        if let Some(at) = state.waiting.iter().position(|(waiting, _)| *waiting == number) {
            state.waiting.remove(at);
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}
