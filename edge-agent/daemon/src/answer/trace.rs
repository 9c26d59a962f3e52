//! Course of one request: the figures of its receipt that no single place knows.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use types::Calibration;

use super::Walk;

/// Course of one request so far.
pub(super) struct Trace<'a> {
    walk: &'a Walk<'a>,
    /// Time at which the hub was asked.
    hub_asked: Option<Instant>,
    /// Time that the hub took, once its part is over.
    hub_took: Option<Duration>,
}

impl<'a> Trace<'a> {
    /// Starts with a request that no place was asked for yet.
    pub(super) fn new(walk: &'a Walk<'a>) -> Self {
        Self { walk, hub_asked: None, hub_took: None }
    }

    /// Notes that the hub is asked now.
    pub(super) fn asks_hub(&mut self) {
        self.hub_asked = Some(Instant::now());
    }

    /// Notes that the hub answered or failed.
    pub(super) fn hub_ended(&mut self) {
        self.hub_took = self.hub_asked.map(|asked| asked.elapsed());
    }

    /// Returns the time that the hub has taken; zero if it was not asked.
    pub(super) fn at_hub(&self) -> Duration {
        self.hub_took.or_else(|| Some(self.hub_asked?.elapsed())).unwrap_or_default()
    }

    /// Returns the bytes of input that were handed to the connection to the hub.
    pub(super) fn sent(&self) -> u64 {
        self.walk.sent.load(Ordering::Relaxed)
    }

    /// Returns the guarantee of the device's variant.
    pub(super) fn calibration(&self) -> Calibration {
        let serving = self.walk.serving.as_ref();
        serving.and_then(|serving| serving.variant()).map_or(Calibration::NotCalibrated, |variant| variant.guarantee())
    }
}
