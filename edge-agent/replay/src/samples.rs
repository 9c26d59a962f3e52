//! Times of both places over a whole log, for requests whose time at a place was not measured.

use std::collections::BTreeMap;
use std::time::Duration;

use types::{Digest, ModelName, RequestId};

use crate::record::{Entry, Event, micros};

/// Minimum number of measured times from which others are drawn.
pub const SAMPLES_MIN: usize = 20;

/// Maximum number of measured times that are kept for each place and model; later ones replace none.
const SAMPLES_MAX: usize = 100_000;

/// Measured times of both places, by model.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    models: BTreeMap<ModelName, Times>,
}

/// Measured times of one model in microseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times {
    device: Vec<u64>,
    hub: Vec<u64>,
    is_sorted: bool,
}

impl Samples {
    /// Adds the times of a record.
    pub fn add(&mut self, entry: &Entry) {
        let Event::Request(request) = &entry.event else { return };
        let times = self.models.entry(request.model.clone()).or_default();
        times.is_sorted = false;
        let answered = |outcome: &str| outcome == "answered";
        if let Some(device) = request.device.as_ref().filter(|device| answered(&device.outcome)) {
            keep(&mut times.device, device.took_us);
        }
        if let Some(hub) = request.hub.as_ref().filter(|hub| answered(&hub.outcome)) {
            keep(&mut times.hub, hub.took_us);
        }
    }

    /// Returns the names of the models that have requests.
    #[must_use]
    pub fn models(&self) -> Vec<ModelName> {
        self.models.keys().cloned().collect()
    }

    pub(crate) fn times(&mut self, model: &ModelName) -> Times {
        let mut times = self.models.get(model).cloned().unwrap_or_default();
        times.device.sort_unstable();
        times.hub.sort_unstable();
        times.is_sorted = true;
        times
    }
}

fn keep(times: &mut Vec<u64>, took_us: u64) {
    if times.len() < SAMPLES_MAX {
        times.push(took_us);
    }
}

impl Times {
    /// Returns the measured time of the device at a position from 0 to 1; `None` with too few.
    pub(crate) fn device(&self, position: f64) -> Option<Duration> {
        at(&self.device, position)
    }

    /// Returns the measured time of the hub at a position from 0 to 1; `None` with too few.
    pub(crate) fn hub(&self, position: f64) -> Option<Duration> {
        at(&self.hub, position)
    }
}

fn at(sorted: &[u64], position: f64) -> Option<Duration> {
    if sorted.len() < SAMPLES_MIN {
        return None;
    }
    quantile(sorted, position).map(micros)
}

/// Returns the value of a sorted list at a position from 0 to 1.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a position of a list of at most 100,000 elements, from 0 to its length"
)]
pub(crate) fn quantile(sorted: &[u64], position: f64) -> Option<u64> {
    let rank = (sorted.len() as f64 * position).ceil().max(1.0) as usize;
    sorted.get(rank.min(sorted.len()).checked_sub(1)?).copied()
}

/// Returns two even positions from 0 to 1 that belong to a request: drawn times are the same in every replay.
pub(crate) fn positions(request: &RequestId) -> [f64; 2] {
    let digest = Digest::of(format!("replay {request}").as_bytes());
    let position = |bytes: &mut dyn Iterator<Item = &u8>| {
        let head = bytes.take(4).fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
        f64::from(head) / f64::from(u32::MAX)
    };
    let mut bytes = digest.as_bytes().iter();
    [position(&mut bytes), position(&mut bytes)]
}

/// Returns the time at a position from 0 to 1 of a distribution of which three quantiles are known: the 10th percentile,
/// the median and the 95th percentile. Linear between them, constant outside.
pub(crate) fn interpolate([fast, typical, slow]: [u64; 3], position: f64) -> Duration {
    let of = |us: u64| micros(us).as_secs_f64();
    let between = |from: u64, to: u64, share: f64| of(from) + (of(to) - of(from)) * share;
    let seconds = if position <= 0.1 {
        of(fast)
    } else if position <= 0.5 {
        between(fast, typical, (position - 0.1) / 0.4)
    } else {
        between(typical, slow, ((position - 0.5) / 0.45).min(1.0))
    };
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawn_time_is_one_of_the_measured_ones_and_the_same_in_every_replay() {
        let sorted: Vec<u64> = (1..=100).collect();
        assert_eq!(
            [0.0, 0.5, 0.95, 1.0].map(|position| quantile(&sorted, position)),
            [Some(1), Some(50), Some(95), Some(100)]
        );
        assert_eq!(quantile(&[], 0.5), None);
        let id = |number: u32| format!("r-{number}").parse().unwrap();
        assert_eq!(positions(&id(1)), positions(&id(1)));
        let mean = (0..1000).map(|number| positions(&id(number))[0]).sum::<f64>() / 1000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
    }

    #[test]
    fn three_quantiles_are_met_and_the_rest_is_between_them() {
        let at = |position| interpolate([100, 200, 900], position).as_micros();
        assert_eq!([0.0, 0.1, 0.5, 0.95, 1.0].map(at), [100, 100, 200, 900, 900]);
        assert!(at(0.3) > 100 && at(0.3) < 200 && at(0.7) > 200 && at(0.7) < 900);
        assert_eq!(interpolate([900, 200, 100], 0.0).as_micros(), 900, "quantiles of a hostile log are no error");
    }
}
