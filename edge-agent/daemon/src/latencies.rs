//! Recent latency of both places for one model, for the routing core.
//!
//! Fed by [`crate::answer`] with each run on the device and each answer of the hub.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edge_core::policy::{Latency, Quantiles, WINDOW};

/// Latency sketches of the device and of the hub.
#[derive(Debug, Default)]
pub struct Latencies {
    device: Mutex<Latency>,
    hub: Mutex<Hub>,
}

#[derive(Debug, Default)]
struct Hub {
    latency: Latency,
    /// Time in the hub's queue by its last answer, and when that came.
    queue: Option<(Duration, Instant)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Latencies {
    /// Counts a run on the device, without its time in the queue.
    pub fn ran_on_device(&self, took: Duration) {
        lock(&self.device).count(took, Instant::now());
    }

    /// Forgets the runs on the device: another version serves.
    pub fn forget_device(&self) {
        *lock(&self.device) = Latency::default();
    }

    /// Counts an answer of the hub, with its time in the hub's queue; `None` where the hub was too late.
    pub fn asked_hub(&self, took: Duration, queue: Option<Duration>) {
        let now = Instant::now();
        let mut hub = lock(&self.hub);
        hub.latency.count(took, now);
        hub.queue = queue.map(|queue| (queue, now));
    }

    /// Returns the quantiles of the device.
    #[must_use]
    pub fn device(&self, now: Instant) -> Option<Quantiles> {
        lock(&self.device).quantiles(now)
    }

    /// Returns the quantiles of the hub, and the time in its queue by its last answer.
    #[must_use]
    pub fn hub(&self, now: Instant) -> (Option<Quantiles>, Option<Duration>) {
        let mut hub = lock(&self.hub);
        let recent = hub.queue.filter(|(_queue, at)| now.saturating_duration_since(*at) < WINDOW);
        (hub.latency.quantiles(now), recent.map(|(queue, _at)| queue))
    }
}
