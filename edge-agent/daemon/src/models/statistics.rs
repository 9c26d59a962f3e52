//! Statistics of the requests of one model since the agent started.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use service::clock;
use types::{Place, Reason, Receipt};

/// A sum of durations and how many there were.
#[derive(Debug, Default)]
pub struct Sum {
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Sum {
    fn add(&self, duration: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Number of runs.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Their sum in nanoseconds.
    #[must_use]
    pub fn nanos(&self) -> u64 {
        self.nanos.load(Ordering::Relaxed)
    }
}

/// Statistics of the requests of one model since the agent started.
#[derive(Debug, Default)]
pub struct Statistics {
    /// Answered, from the whole request to the whole answer.
    pub success: Sum,
    /// Number of requests without an answer.
    pub fail: Sum,
    /// Waiting for the session that answered.
    pub queue: Sum,
    /// Inside the engine that answered.
    pub compute: Sum,
    /// Answered by the hub.
    pub by_hub: AtomicU64,
    /// Answers by reason, in the order of [`Reason::ALL`]: of the device, then of the hub.
    reasons: [[AtomicU64; Reason::ALL.len()]; 2],
    /// Time of the last answer, in milliseconds since 1970; 0 before the first.
    pub last_unix_ms: AtomicU64,
    /// Smoothed time from queue to answer on this device, in nanoseconds; 0 before the first.
    local_nanos: AtomicU64,
}

/// Weight of the past in the smoothed local time: 7/8, as TCP smooths round trips (RFC 6298).
const SMOOTHING: u64 = 8;

impl Statistics {
    /// Counts an answer by its receipt.
    pub fn answered(&self, receipt: &Receipt) {
        self.success.add(receipt.timings.total);
        self.queue.add(receipt.timings.queue);
        self.compute.add(receipt.timings.compute);
        let by_hub = receipt.place == Place::Hub;
        if by_hub {
            self.by_hub.fetch_add(1, Ordering::Relaxed);
        }
        let number = Reason::ALL.iter().position(|reason| *reason == receipt.reason);
        let counter = self.reasons.get(usize::from(by_hub)).zip(number).and_then(|(of_place, at)| of_place.get(at));
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.last_unix_ms.store(clock::unix_ms(), Ordering::Relaxed);
    }

    /// Number of answers of one place for one reason; reasons that did not occur are left out.
    pub fn by_reason(&self) -> impl Iterator<Item = (Place, Reason, u64)> {
        let places = [Place::Device, Place::Hub].into_iter().zip(&self.reasons);
        let counts = places.flat_map(|(place, of_place)| {
            Reason::ALL.into_iter().zip(of_place).map(move |(reason, count)| (place, reason, count))
        });
        let read = counts.map(|(place, reason, count)| (place, reason, count.load(Ordering::Relaxed)));
        read.filter(|&(_, _, count)| count > 0)
    }

    /// Counts a request that got none.
    pub fn failed(&self, total: Duration) {
        self.fail.add(total);
    }

    /// Takes note of how long this device took for one answer.
    pub fn took_locally(&self, time: Duration) {
        let new = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        // Two requests at once may lose one sample: it is an estimate.
        let old = self.local_nanos.load(Ordering::Relaxed);
        let smoothed = if old == 0 { new } else { (old / SMOOTHING) * (SMOOTHING - 1) + new / SMOOTHING };
        self.local_nanos.store(smoothed.max(1), Ordering::Relaxed);
    }

    /// Recent time of this device from queue to answer.
    #[must_use]
    pub fn expected(&self) -> Option<Duration> {
        Some(self.local_nanos.load(Ordering::Relaxed)).filter(|&nanos| nanos > 0).map(Duration::from_nanos)
    }
}
