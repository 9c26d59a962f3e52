//! Queue of deltas to make: bounded, each pair once, and no device takes more than its share.

use std::collections::VecDeque;

use types::DeviceId;

use super::Pair;

/// Maximum number of deltas that wait. Each takes seconds to minutes; what does not fit is asked for again by the devices.
const JOBS_MAX: usize = 256;

/// Maximum number of waiting deltas that one device asked for: the files of a version that it fetches.
const JOBS_PER_DEVICE_MAX: usize = 2;

/// Delta to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    /// Files that it is between.
    pub(super) pair: Pair,
    /// Device that asked for it; `None` for a publication.
    pub(super) by: Option<DeviceId>,
}

/// Deltas that wait to be made, in order.
#[derive(Debug, Default)]
pub(super) struct Queue(VecDeque<Job>);

impl Queue {
    /// Adds a job, unless the queue or the device's share is full; returns whether the pair waits now.
    pub(super) fn add(&mut self, job: Job) -> bool {
        if self.0.iter().any(|waiting| waiting.pair == job.pair) {
            return true;
        }
        let of_device = job.by.as_ref().map_or(0, |by| self.0.iter().filter(|job| job.by.as_ref() == Some(by)).count());
        if self.0.len() >= JOBS_MAX || of_device >= JOBS_PER_DEVICE_MAX {
            return false;
        }
        self.0.push_back(job);
        true
    }

    /// Takes the next job: that of a device before those of publications, because the device waits.
    pub(super) fn take(&mut self) -> Option<Job> {
        let of_device = self.0.iter().position(|job| job.by.is_some());
        self.0.remove(of_device.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use types::Digest;

    use super::*;

    fn job(target: usize, by: Option<&str>) -> Job {
        let pair = Pair { base: None, target: Digest::of(&target.to_le_bytes()) };
        Job { pair, by: by.map(|by| by.parse().unwrap()) }
    }

    #[test]
    fn each_pair_waits_once_and_devices_come_first() {
        let mut queue = Queue::default();
        assert!(queue.add(job(1, None)) && queue.add(job(2, Some("kitchen"))) && queue.add(job(1, Some("attic"))));
        assert_eq!(queue.take(), Some(job(2, Some("kitchen"))));
        assert_eq!(queue.take(), Some(job(1, None)));
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn no_device_fills_the_queue_and_nobody_overfills_it() {
        let mut queue = Queue::default();
        let added = (0..100).filter(|number| queue.add(job(*number, Some("hostile")))).count();
        assert_eq!(added, JOBS_PER_DEVICE_MAX);
        assert!(queue.add(job(1000, Some("kitchen"))), "another device still gets its place");
        let added = (2000..3000).filter(|number| queue.add(job(*number, None))).count();
        assert_eq!(added, JOBS_MAX - JOBS_PER_DEVICE_MAX - 1);
    }
}
