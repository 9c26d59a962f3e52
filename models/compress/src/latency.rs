//! How long models take on this machine, measured so that the ratio between them means something.
//!
//! All contenders run in every round, in an order that turns. Neighbouring rounds make a block; of a block the best time
//! of each contender counts, because what disturbs a run only ever adds to it, and a ratio is taken within a block, so
//! that a clock that drops slows both sides. The median over the blocks is told. Fed by [`crate::auto`] with sessions
//! that are loaded already.

use std::time::{Duration, Instant};

use engine::{RunControl, RunError, Session};
use serde::{Deserialize, Serialize};
use types::NamedTensor;

/// Runs of each contender before anything counts: first runs allocate, compile and fill caches.
const WARM_UPS: usize = 3;

/// A contender runs so often within one round that it takes this long: the clock and the scheduler blur less.
const ROUND_SPAN: Duration = Duration::from_millis(2);

/// Most runs of a contender within one round; a model of 2 us reaches [`ROUND_SPAN`] with it.
const REPEATS_MAX: u32 = 1000;

/// Fewest rounds: with seven, the interval of the median leaves out the fastest and the slowest.
const ROUNDS_LEAST: usize = 7;

/// Most rounds; more would only narrow what is already narrower than the drift between two days.
const ROUNDS_MOST: usize = 500;

/// Most blocks that the rounds are divided into; with fewer rounds each is a block.
const BLOCKS_MAX: usize = 20;

/// The rounds end when every ratio's interval is this narrow, relative to the ratio.
const SETTLED_WIDTH: f64 = 0.04;

/// Longest time that one form is timed for on one engine, unless the operator says otherwise: twenty rounds of 150 ms.
pub const FORM_BUDGET: Duration = Duration::from_secs(3);

/// Part of the budget that warm-ups may take; a model that is slower than that runs once.
const WARM_UP_SHARE: u32 = 4;

/// One model in the race.
#[derive(Debug)]
pub struct Contender {
    /// Name of the contender in results.
    pub name: String,
    /// It, loaded.
    pub session: Box<dyn Session>,
}

/// Time that one model took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Median of a run, in milliseconds.
    pub median_ms: f64,
    /// A tenth of the rounds were faster than this.
    pub p10_ms: f64,
    /// A tenth of the rounds were slower than this.
    pub p90_ms: f64,
    /// Best time over the reference's best time of the same block, median over the blocks: under 1 is faster.
    pub ratio: f64,
    /// Lower end of the 95 % interval of that median.
    pub ratio_low: f64,
    /// Upper end of it.
    pub ratio_high: f64,
    /// Number of rounds that were measured.
    pub rounds: usize,
}

impl Timing {
    /// Returns whether it is faster than the reference beyond what the rounds' spread could explain.
    #[must_use]
    pub fn is_faster(&self) -> bool {
        self.ratio_high < 1.0 && self.is_enough()
    }

    /// Returns whether it is slower than the reference beyond what the rounds' spread could explain.
    #[must_use]
    pub fn is_slower(&self) -> bool {
        self.ratio_low > 1.0 && self.is_enough()
    }

    /// Returns whether its interval means something: of fewer rounds it does not hold the median with 95 %.
    #[must_use]
    pub const fn is_enough(&self) -> bool {
        self.rounds >= ROUNDS_LEAST
    }

    /// Returns whether it and another one of the same reference cannot be told apart.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let is_apart = self.ratio_high < other.ratio_low || other.ratio_high < self.ratio_low;
        !(is_apart && self.is_enough() && other.is_enough())
    }
}

/// Measures all contenders against the first one, until the ratios have settled or the budget is over; `progress` hears
/// the time since the start. Every contender runs at least once, however long that takes.
///
/// `inputs` are requests as a device would get them; rounds take them in turn. A contender that fails leaves the race
/// with its error; when the first one fails there is nothing to measure against and all fail.
///
/// # Errors
/// Each contender's own.
pub fn race(
    contenders: &mut [Contender],
    inputs: &[Vec<NamedTensor>],
    budget: Duration,
    mut progress: impl FnMut(Duration),
) -> Vec<Result<Timing, RunError>> {
    let started = Instant::now();
    let mut lanes: Vec<Lane> = Vec::new();
    let each = budget / u32::try_from(contenders.len().max(1)).unwrap_or(u32::MAX);
    let warm_up = each / WARM_UP_SHARE;
    for contender in contenders.iter_mut() {
        lanes.push(Lane::warm_up(contender, inputs, warm_up));
        progress(started.elapsed());
    }
    let mut rounds = 0;
    while rounds < ROUNDS_MOST && started.elapsed() < budget && !(rounds >= ROUNDS_LEAST && settled(&lanes)) {
        if rounds == 0 {
            // What the warm-ups took counts for models that have no time for rounds.
            lanes.iter_mut().for_each(|lane| lane.times.clear());
        }
        let Some(request) = inputs.get(rounds % inputs.len().max(1)) else { break };
        for turn in 0..lanes.len() {
            let at = (turn + rounds) % lanes.len();
            if let (Some(lane), Some(contender)) = (lanes.get_mut(at), contenders.get_mut(at)) {
                lane.run(contender, request);
            }
        }
        rounds += 1;
        progress(started.elapsed());
        // A first contender without times ends the race.
        if lanes.first().is_none_or(|lane| lane.failed.is_some()) {
            break;
        }
    }
    let reference = lanes.first().map(|lane| lane.times.clone()).unwrap_or_default();
    lanes.into_iter().map(|lane| lane.finish(&reference)).collect()
}

/// One contender's times, in milliseconds, one for each round.
#[derive(Debug)]
struct Lane {
    repeats: u32,
    times: Vec<f64>,
    failed: Option<RunError>,
}

impl Lane {
    fn warm_up(contender: &mut Contender, inputs: &[Vec<NamedTensor>], longest: Duration) -> Self {
        let mut lane = Self { repeats: 1, times: Vec::new(), failed: None };
        let Some(request) = inputs.first() else { return lane };
        let started = Instant::now();
        for run in 0..WARM_UPS {
            if run > 0 && started.elapsed() >= longest {
                break;
            }
            lane.run(contender, request);
        }
        // The last warm-up says how long a run takes.
        let took = lane.times.last().copied().unwrap_or(f64::INFINITY) / 1000.0;
        let wanted = (ROUND_SPAN.as_secs_f64() / took.max(f64::MIN_POSITIVE)).ceil();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 1..=REPEATS_MAX")]
        let repeats = wanted.clamp(1.0, f64::from(REPEATS_MAX)) as u32;
        lane.repeats = repeats;
        lane
    }

    fn run(&mut self, contender: &mut Contender, request: &[NamedTensor]) {
        if self.failed.is_some() {
            return;
        }
        let started = Instant::now();
        for _ in 0..self.repeats {
            if let Err(error) = contender.session.run(request, &[], &RunControl::default()) {
                self.failed = Some(error);
                return;
            }
        }
        self.times.push(started.elapsed().as_secs_f64() * 1000.0 / f64::from(self.repeats));
    }

    fn finish(self, reference: &[f64]) -> Result<Timing, RunError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        timing(&self.times, reference).ok_or_else(|| RunError::Failed("there is nothing to measure against".into()))
    }
}

fn settled(lanes: &[Lane]) -> bool {
    let Some(reference) = lanes.first().map(|lane| &lane.times) else { return true };
    let narrow = |timing: Timing| timing.ratio_high - timing.ratio_low <= SETTLED_WIDTH * timing.ratio;
    lanes.iter().filter(|lane| lane.failed.is_none()).all(|lane| timing(&lane.times, reference).is_some_and(narrow))
}

/// Returns what the rounds of one contender and of the reference come to; `None` without rounds.
fn timing(times: &[f64], reference: &[f64]) -> Option<Timing> {
    let rounds = times.len().min(reference.len());
    let (of, mut times) = (reference.get(..rounds)?, times.get(..rounds)?.to_vec());
    let paired = blocks(&times).zip(blocks(of));
    let mut ratios: Vec<f64> = paired.map(|(time, of)| time / of.max(f64::MIN_POSITIVE)).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    times.sort_unstable_by(f64::total_cmp);
    let (low, high) = median_interval(&ratios)?;
    Some(Timing {
        median_ms: quantile(&times, 0.5)?,
        p10_ms: quantile(&times, 0.1)?,
        p90_ms: quantile(&times, 0.9)?,
        ratio: quantile(&ratios, 0.5)?,
        ratio_low: low,
        ratio_high: high,
        rounds,
    })
}

/// The best time of each block of neighbouring rounds.
fn blocks(times: &[f64]) -> impl Iterator<Item = f64> + '_ {
    let size = times.len().div_ceil(BLOCKS_MAX).max(1);
    times.chunks(size).filter_map(|block| block.iter().copied().reduce(f64::min))
}

/// The 95 % interval of a median, free of any assumption on the distribution: the order statistics that a binomial of
/// n fair coins stays between (Conover, Practical Nonparametric Statistics, 3rd ed., section 3.2, normal approximation).
fn median_interval(sorted: &[f64]) -> Option<(f64, f64)> {
    let count = f64::from(u32::try_from(sorted.len()).ok()?);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and half the count")]
    let below = ((count - 1.96 * count.sqrt()) / 2.0).floor().max(0.0) as usize;
    let last = sorted.len().checked_sub(1)?;
    Some((*sorted.get(below)?, *sorted.get(last - below.min(last))?))
}

/// The quantile `share` (0 to 1) of sorted numbers, between neighbours by straight line.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = share * f64::from(u32::try_from(last).ok()?);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the last index")]
    let below = place.floor() as usize;
    let (low, high) = (sorted.get(below)?, sorted.get((below + 1).min(last))?);
    Some(low + (high - low) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_within_the_round_so_that_drift_cancels() {
        // The machine gets slower and slower; the second model takes twice the first one's time throughout.
        let reference: Vec<f64> = (1..=20).map(f64::from).collect();
        let other: Vec<f64> = reference.iter().map(|time| 2.0 * time).collect();
        let found = timing(&other, &reference).unwrap();
        assert_eq!((found.ratio, found.ratio_low, found.ratio_high), (2.0, 2.0, 2.0));
        assert!(found.is_slower() && !found.is_faster());
        assert!((found.median_ms - 21.0).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn a_neighbour_that_takes_the_processor_now_and_then_moves_nothing() {
        let busy = |round: u32, every: u32| if round.is_multiple_of(every) { 7.0 } else { 0.0 };
        let reference: Vec<f64> = (0..200).map(|round| 1.0 + busy(round, 3)).collect();
        let other: Vec<f64> = (0..200).map(|round| 0.5 + busy(round, 2)).collect();
        let found = timing(&other, &reference).unwrap();
        assert_eq!((found.ratio, found.rounds), (0.5, 200));
        assert!(found.is_faster());
    }

    #[test]
    fn noise_around_equal_times_is_neither_faster_nor_slower() {
        let noisy = |phase: u32| (0..60).map(move |round| if (round + phase) % 7 < 4 { 0.9 } else { 1.1 });
        let (reference, other): (Vec<f64>, Vec<f64>) = (noisy(0).collect(), noisy(3).collect());
        let found = timing(&other, &reference).unwrap();
        assert!(!found.is_faster() && !found.is_slower(), "{found:?}");
    }

    #[test]
    fn one_wild_round_moves_nothing() {
        let reference = vec![1.0; 15];
        let mut other = vec![0.5; 15];
        other[7] = 500.0;
        let found = timing(&other, &reference).unwrap();
        assert!(found.ratio == 0.5 && found.is_faster(), "{found:?}");
    }

    #[test]
    fn no_rounds_give_no_timing() {
        assert!(timing(&[], &[]).is_none());
        assert!(timing(&[1.0], &[]).is_none());
    }
}
