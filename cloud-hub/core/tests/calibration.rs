//! Validates the watch over thresholds by simulation: how often it breaks a promise that holds, how soon one that does not, and how
//! often a refitted threshold breaks the promise.

#![expect(clippy::unwrap_used, reason = "the helpers of a test stop it as its own lines do")]

use hub_core::calibration::{Bin, Change, Force, GRID_MAX, Parts, Promise, STARTS_MAX, Watch};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const PROMISE: Promise = Promise { alpha: 0.02, delta: 0.05 };

/// Thresholds of the tests: 0.99, 0.97, …, 0.61; the author's is the last one.
fn grid() -> Vec<f32> {
    (0_u8..20).map(|step| 0.99 - 0.02 * f32::from(step)).collect()
}

/// A stream of requests: scores are uniform from 0 to 1, and an answer differs with a probability that falls with its score.
#[derive(Clone, Copy)]
struct Stream {
    /// Share of all requests that the author's threshold keeps and that differ.
    risk: f64,
}

impl Stream {
    /// Draws a request: its score, and whether its answer agrees.
    fn draw(self, random: &mut StdRng) -> (f32, bool) {
        let score = random.random::<f32>();
        // Linear from the author's threshold to 1: the mean over the kept scores is half of the top.
        let (least, top) = (0.61_f64, 2.0 * self.risk / 0.39);
        let differs = match f64::from(score) {
            kept if kept >= least => random.random::<f64>() < top * (1.0 - kept) / (1.0 - least),
            _deferred => random.random::<f64>() < 0.5,
        };
        (score, !differs)
    }

    /// Returns the share of all requests that a threshold keeps and that differ.
    fn risk_at(self, threshold: Option<f32>) -> f64 {
        threshold.map_or(0.0, |threshold| self.risk * ((1.0 - f64::from(threshold)) / 0.39).powi(2))
    }
}

fn observe(watch: &mut Watch, stream: Stream, random: &mut StdRng) -> Option<Change> {
    let (score, agrees) = stream.draw(random);
    let mut block = watch.block();
    let place = watch.place(Some(score));
    block[place] = Bin { agreed: u64::from(agrees), differing: u64::from(!agrees) };
    watch.observe(&block)
}

fn watch() -> Watch {
    Watch::new(PROMISE, grid()).unwrap()
}

/// Returns the largest number of errors among the seeds that is compatible with an error probability: three standard deviations.
fn allowed(seeds: u64, delta: f64) -> f64 {
    let seeds = seeds as f64;
    seeds * delta + 3.0 * (seeds * delta * (1.0 - delta)).sqrt()
}

#[test]
fn a_promise_that_holds_exactly_is_broken_as_rarely_as_stated_at_all_looks_together() {
    let seeds = 60;
    let stream = Stream { risk: PROMISE.alpha };
    let errors = (0..seeds).filter(|seed| {
        let (mut watch, mut random) = (watch(), StdRng::seed_from_u64(*seed));
        (0..3_000).any(|_| matches!(observe(&mut watch, stream, &mut random), Some(Change::Broken { .. })))
    });
    let errors = errors.count();
    eprintln!("{errors} of {seeds} broke a promise that holds");
    assert!(errors as f64 <= allowed(seeds, PROMISE.delta), "{errors} of {seeds}");
}

#[test]
fn a_broken_promise_is_found_soon_however_late_the_change_comes_and_the_next_threshold_keeps_it() {
    let (good, bad) = (Stream { risk: 0.005 }, Stream { risk: 0.12 });
    let (mut delays, mut refitted, mut wrong, seeds) = (Vec::new(), Vec::new(), 0_u32, 30);
    for seed in 0..seeds {
        let (mut watch, mut random) = (watch(), StdRng::seed_from_u64(seed));
        for _ in 0..2_000 {
            assert_eq!(observe(&mut watch, good, &mut random), None);
        }
        let delay = (1..2_000).find(|_| observe(&mut watch, bad, &mut random).is_some()).unwrap();
        delays.push(delay);
        assert_eq!((watch.threshold(), watch.recorded()), (None, 0), "nothing is kept, and the evidence begins anew");
        let mut has_erred = false;
        for audits in 1..2_000 {
            let change = observe(&mut watch, bad, &mut random);
            has_erred |= bad.risk_at(watch.threshold()) > PROMISE.alpha;
            if let Some(Change::Shown { .. }) = change
                && refitted.len() < delays.len()
            {
                refitted.push(audits);
            }
        }
        assert!(watch.threshold().is_some(), "seed {seed}: no threshold after 2,000 audits");
        wrong += u32::from(has_erred);
    }
    delays.sort_unstable();
    refitted.sort_unstable();
    let of = |sorted: &[usize]| (sorted[sorted.len() / 2], sorted[sorted.len() * 95 / 100]);
    eprintln!(
        "found after {:?} audits, first threshold after {:?}, {wrong} of {seeds} wrong",
        of(&delays),
        of(&refitted)
    );
    assert!(of(&delays).1 <= 300, "{delays:?}");
    assert!(f64::from(wrong) <= allowed(seeds, PROMISE.delta), "{wrong} of {seeds}");
}

#[test]
fn a_stream_that_becomes_good_again_gets_the_authors_threshold_back_and_no_looser_one() {
    let (mut watch, mut random) = (watch(), StdRng::seed_from_u64(7));
    let mut until_broken = 0;
    while observe(&mut watch, Stream { risk: 0.2 }, &mut random).is_none() {
        until_broken += 1;
        assert!(until_broken < 1_000);
    }
    for _ in 0..8_000 {
        observe(&mut watch, Stream { risk: 0.002 }, &mut random);
        assert!(watch.threshold().is_none_or(|threshold| threshold >= 0.61 - 1e-6));
    }
    assert_eq!((watch.parts().force, watch.parts().refits), (Force::Author, 1));
}

#[test]
fn answers_that_are_always_wrong_leave_nothing_to_keep() {
    let mut watch = watch();
    let wrong = |watch: &Watch, score: f32| {
        let mut block = watch.block();
        let place = watch.place(Some(score));
        block[place] = Bin { agreed: 0, differing: 20 };
        block
    };
    let changes: Vec<Change> = (0..200).filter_map(|_| watch.observe(&wrong(&watch.clone(), 0.995))).collect();
    assert!(matches!(changes[..], [Change::Broken { .. }]), "{changes:?}");
    assert_eq!(watch.threshold(), None);
    // All below the author's threshold: the strict ones keep nothing, so none is sent.
    let mut low =
        Watch::restored(PROMISE, grid(), Parts { refits: 1, force: Force::Nothing, ..Parts::default() }).unwrap();
    assert!((0..200).all(|_| low.observe(&wrong(&low.clone(), 0.1)).is_none()));
}

#[test]
fn no_threshold_is_shown_with_fewer_audits_than_are_needed() {
    let parts = Parts { refits: 1, force: Force::Nothing, ..Parts::default() };
    let mut watch = Watch::restored(PROMISE, grid(), parts).unwrap();
    let needed = watch.audits_needed();
    let mut block = watch.block();
    block[0].agreed = 1;
    let shown = (1..=needed).find(|_| watch.observe(&block).is_some());
    assert_eq!(shown, Some(needed));
    eprintln!("{needed} audits show {}", PROMISE.alpha);
    assert!((150..400).contains(&needed));
}

#[test]
fn what_is_stored_goes_on_as_if_nothing_had_happened() {
    let (mut one, mut random) = (watch(), StdRng::seed_from_u64(3));
    let mut other = one.clone();
    for at in 0..3_000 {
        let stream = Stream { risk: if at < 1_000 { 0.01 } else { 0.1 } };
        let (mut mirror, mut again) = (random.clone(), random.clone());
        assert_eq!(observe(&mut one, stream, &mut mirror), observe(&mut other, stream, &mut again));
        random = mirror;
        other = Watch::restored(other.promise(), other.grid().to_vec(), other.parts().clone()).unwrap();
    }
    assert_eq!(one, other);
    assert!(one.parts().refits > 0);
}

#[test]
fn what_cannot_be_watched_is_refused() {
    let alpha = |alpha| Promise { alpha, ..PROMISE };
    for promise in [alpha(0.0), alpha(1.0), alpha(f64::NAN), Promise { delta: 0.0, ..PROMISE }] {
        assert_eq!(Watch::new(promise, grid()), None, "{promise:?}");
    }
    for grid in [vec![], vec![0.5, 0.5], vec![0.5, 0.6], vec![f32::NAN], vec![0.5; GRID_MAX + 1]] {
        assert_eq!(Watch::new(PROMISE, grid.clone()), None, "{grid:?}");
    }
    let parts = |parts| Watch::restored(PROMISE, grid(), parts);
    assert_eq!(parts(Parts { force: Force::At(0.5), ..Parts::default() }), None, "no threshold of the grid");
    assert_eq!(parts(Parts { bins: vec![Bin::default(); 3], ..Parts::default() }), None);
}

proptest! {
    #[test]
    fn any_audits_leave_a_state_of_bounded_size_that_can_be_stored(
        blocks in prop::collection::vec((0_usize..21, 0_u64..200, 0_u64..50), 0..120),
        huge: u64,
    ) {
        let mut watch = watch();
        for (at, (place, agreed, differing)) in blocks.into_iter().enumerate() {
            let mut block = watch.block();
            block[place] = Bin { agreed, differing };
            if at == 60 {
                block[place].agreed = huge;
            }
            watch.observe(&block);
            prop_assert!(watch.parts().starts.len() <= STARTS_MAX);
            let parts = watch.parts().clone();
            prop_assert_eq!(Watch::restored(watch.promise(), watch.grid().to_vec(), parts), Some(watch.clone()));
            prop_assert!(watch.threshold().is_none_or(|threshold| watch.grid().contains(&threshold)));
        }
    }
}
