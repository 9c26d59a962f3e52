//! One thread that stops runs at their deadlines.
//!
//! Fed by the engines through [`Watchdog::arm`]; calls what it was given, once, when the time has come. One for each
//! engine, because a thread for each run would cost more than small models take to run.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

type Stop = Arc<dyn Fn() + Send + Sync>;

/// Owns the thread; dropping it ends the thread.
pub(crate) struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By deadline; the number keeps two runs with one deadline apart.
    armed: BTreeMap<(Instant, u64), Stop>,
    next: u64,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watchdog {
    /// Starts the thread that waits for deadlines.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        let thread = thread::Builder::new().name("engine-watchdog".into()).spawn(move || watch(&watched))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Has `stop` called at the deadline (soon, if it has passed), unless the guard is dropped before.
    pub(crate) fn arm(&self, deadline: Instant, stop: Stop) -> Armed<'_> {
        let mut state = self.shared.lock();
        let key = (deadline, state.next);
        state.next = state.next.wrapping_add(1);
        state.armed.insert(key, stop);
        let is_first = state.armed.first_key_value().is_some_and(|(first, _)| *first == key);
        drop(state);
        if is_first {
            self.shared.changed.notify_one();
        }
        Armed { watchdog: self, key }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the watchdog of an engine panicked");
        }
    }
}

/// Guard of an armed deadline, which is disarmed when dropped.
pub(crate) struct Armed<'a> {
    watchdog: &'a Watchdog,
    key: (Instant, u64),
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        self.watchdog.shared.lock().armed.remove(&self.key);
    }
}

fn watch(shared: &Shared) {
    let mut state = shared.lock();
    while !state.ended {
        let Some((&key, _)) = state.armed.first_key_value() else {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let left = key.0.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let stop = state.armed.remove(&key);
            drop(state);
            if let Some(stop) = stop {
                stop();
            }
            state = shared.lock();
        } else {
            let waited = shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn stops_come_in_the_order_of_their_deadlines() {
        let watchdog = Watchdog::start().unwrap();
        let (sender, stopped) = mpsc::sync_channel(4);
        let stop = |number: u32| -> Stop {
            let sender = sender.clone();
            Arc::new(move || sender.send(number).unwrap())
        };
        let now = Instant::now();
        let _late = watchdog.arm(now + Duration::from_millis(60), stop(2));
        let _soon = watchdog.arm(now + Duration::from_millis(20), stop(1));
        drop(watchdog.arm(now + Duration::from_millis(10), stop(0)));
        assert_eq!((stopped.recv().unwrap(), stopped.recv().unwrap()), (1, 2), "and never the disarmed one");
    }

    #[test]
    fn a_deadline_that_has_passed_stops_at_once() {
        let watchdog = Watchdog::start().unwrap();
        let (sender, stopped) = mpsc::sync_channel(1);
        let _armed = watchdog.arm(Instant::now(), Arc::new(move || sender.send(()).unwrap()));
        stopped.recv().unwrap();
    }
}
