//! The flag by which whoever asked stops a run.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Raised once by whoever no longer wants an answer; clones share it.
#[derive(Clone, Default)]
pub struct CancelFlag(Arc<Mutex<CancelState>>);

/// Function that stops the present run; it is called once at most.
type Stop = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct CancelState {
    raised: bool,
    stop: Option<Stop>,
}

impl CancelFlag {
    /// Raises the flag and stops the run that it controls, if there is one. Never waits for that run to end.
    pub fn cancel(&self) {
        let stop = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.raised = true;
            state.stop.take()
        };
        if let Some(stop) = stop {
            stop();
        }
    }

    /// Says whether the flag was raised.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).raised
    }

    /// Has `stop` called when the flag is raised (at once, if it is already), until the guard is dropped.
    pub(crate) fn on_cancel(&self, stop: Stop) -> CancelGuard<'_> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.raised {
            drop(state);
            stop();
        } else {
            state.stop = Some(stop);
        }
        CancelGuard(self)
    }
}

impl fmt::Debug for CancelFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CancelFlag").field(&self.is_cancelled()).finish()
    }
}

/// Ends the registration of a run with its flag.
pub(crate) struct CancelGuard<'a>(&'a CancelFlag);

impl Drop for CancelGuard<'_> {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).stop = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_flag_raised_before_the_run_stops_it_at_once() {
        let stops = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&stops);
        let flag = CancelFlag::default();
        flag.cancel();
        drop(flag.on_cancel(Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        })));
        assert_eq!(stops.load(Ordering::Relaxed), 1);
        assert!(flag.is_cancelled());
    }

    #[test]
    fn a_flag_raised_after_the_run_stops_nothing() {
        let stops = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&stops);
        let flag = CancelFlag::default();
        drop(flag.on_cancel(Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        })));
        flag.cancel();
        assert_eq!(stops.load(Ordering::Relaxed), 0);
    }
}
