//! Validates the sequential tests by simulation: over 1,000 seeds, and looked at after each observation, they err at most as
//! often as they promise; and they find what they should with the data that theory asks for.

use hub_core::stats::arms::{Arms, Side};
use hub_core::stats::bernoulli::{self, JEFFREYS};
use hub_core::stats::betting::{self, Sample};
use hub_core::stats::{quantile, threshold};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Number of seeds of each validation.
const SEEDS: u64 = 1_000;

/// Error probability that is validated.
const DELTA: f64 = 0.05;

/// Returns the largest number of errors among the seeds that is compatible with the promise: three standard deviations.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of seeds")]
fn allowed(delta: f64) -> u64 {
    let seeds = SEEDS as f64;
    (seeds * delta + 3.0 * (seeds * delta * (1.0 - delta)).sqrt()).round() as u64
}

/// Returns the number of seeds for which a simulation errs.
fn errors(errs: impl Fn(&mut StdRng) -> bool) -> u64 {
    (0..SEEDS).filter(|seed| errs(&mut StdRng::seed_from_u64(*seed))).count() as u64
}

fn chance(random: &mut StdRng, p: f64) -> bool {
    random.random::<f64>() < p
}

#[test]
fn a_proportion_leaves_its_confidence_sequence_as_rarely_as_promised_at_all_looks_together() {
    for p in [0.01, 0.05, 0.5, 0.97] {
        let errors = errors(|random| {
            let mut k = 0;
            (1..=1_000).any(|n| {
                k += u64::from(chance(random, p));
                bernoulli::log_evidence(k, n, p, JEFFREYS) >= threshold(DELTA)
            })
        });
        assert!(errors <= allowed(DELTA), "p = {p}: {errors} of {SEEDS}");
    }
}

#[test]
fn repeated_clopper_pearson_would_not_pass_this_validation() {
    // The same look at every observation with a fixed-sample bound: the validation above can fail.
    let errors = errors(|random| {
        let (mut k, p) = (0_u64, 0.5);
        (1..=1_000_u64).any(|n| {
            k += u64::from(chance(random, p));
            let z = (k as f64 - n as f64 * p) / (n as f64 * p * (1.0 - p)).sqrt();
            n > 20 && z.abs() > 1.96
        })
    });
    assert!(errors > 5 * allowed(DELTA), "{errors} of {SEEDS}");
}

#[test]
fn an_interval_of_a_proportion_is_the_set_of_values_that_are_not_rejected() {
    for (k, n) in [(0, 10), (1, 10), (10, 10), (3, 500), (250, 500)] {
        let interval = bernoulli::interval(k, n, DELTA, JEFFREYS);
        let estimate = k as f64 / n as f64;
        assert!(interval.low <= estimate && estimate <= interval.high, "{k} of {n}: {interval:?}");
        for p in [0.001, 0.02, 0.1, 0.4, 0.5, 0.6, 0.9, 0.999] {
            let inside = interval.low < p && p < interval.high;
            assert_eq!(inside, bernoulli::log_evidence(k, n, p, JEFFREYS) < threshold(DELTA), "{k} of {n}, p = {p}");
        }
    }
    let unknown = bernoulli::interval(0, 0, DELTA, JEFFREYS);
    assert_eq!((unknown.low, unknown.high), (0.0, 1.0));
}

#[test]
fn a_bounded_mean_leaves_its_confidence_sequence_as_rarely_as_promised_at_all_looks_together() {
    // Rates of devices: mostly zero, sometimes small, rarely one.
    for (values, chances) in
        [([0.0, 0.25, 1.0], [0.9, 0.08]), ([0.1, 0.5, 0.9], [0.3, 0.4]), ([0.0, 0.01, 0.02], [0.5, 0.4])]
    {
        let mean = values[0] * chances[0] + values[1] * chances[1] + values[2] * (1.0 - chances[0] - chances[1]);
        let errors = errors(|random| {
            let mut counts = values.map(|value| (value, 0_u64));
            (0..300).any(|_| {
                let draw: f64 = random.random();
                let at = if draw < chances[0] {
                    0
                } else if draw < chances[0] + chances[1] {
                    1
                } else {
                    2
                };
                counts[at].1 += 1;
                let needed = threshold(DELTA / 2.0);
                betting::log_capital_above(Sample(&counts), mean) >= needed
                    || betting::log_capital_below(Sample(&counts), mean) >= needed
            })
        });
        assert!(errors <= allowed(DELTA), "{values:?}: {errors} of {SEEDS}");
    }
}

#[test]
fn the_interval_of_a_bounded_mean_contains_the_sample_mean_and_shrinks() {
    let small = betting::interval(Sample(&[(0.0, 40), (0.2, 10)]), DELTA);
    let large = betting::interval(Sample(&[(0.0, 4_000), (0.2, 1_000)]), DELTA);
    assert!(small.low < 0.04 && 0.04 < small.high, "{small:?}");
    assert!(large.low > 0.03 && large.high < 0.05, "{large:?}");
    // Small variance is used: Hoeffding's interval for 5,000 observations is 0.04 wide.
    assert!(large.high - large.low < 0.013, "{large:?}");
}

/// Draws the rate of a device: each has its own probability, and counts `answers` answers.
fn device_rate(random: &mut StdRng, rate: f64, spread: bool, answers: u32) -> f64 {
    // A few devices are ten times worse than the others, or all are alike.
    let own = match spread {
        true if chance(random, 0.05) => 10.0 * rate / 1.45,
        true => rate / 1.45,
        false => rate,
    };
    let bad = (0..answers).filter(|_| chance(random, own)).count();
    bad as f64 / f64::from(answers)
}

#[test]
fn arms_without_a_difference_are_told_apart_as_rarely_as_promised_at_all_looks_together() {
    for (rate, spread, controls, limit) in
        [(0.01, false, 20, 0.0), (0.05, true, 10, 0.0), (0.3, false, 1, 0.0), (0.02, true, 3, 0.0)]
    {
        let errors = errors(|random| {
            let mut arms = Arms::default();
            (0..60_u32).any(|block| {
                // The rate drifts over the day, for both arms alike.
                let rate = rate * (1.0 + 0.8 * (f64::from(block) / 10.0).sin());
                let canary = device_rate(random, rate, spread, 8);
                let control: Vec<f64> = (0..controls).map(|_| device_rate(random, rate, spread, 8)).collect();
                arms.add(canary, &control);
                arms.shows(Side::Above, limit, DELTA)
            })
        });
        assert!(errors <= allowed(DELTA), "{rate} {spread} {controls}: {errors} of {SEEDS}");
    }
}

#[test]
fn a_difference_at_the_limit_is_shown_to_be_on_neither_side() {
    for (control_rate, limit, controls) in [(0.02, 0.03, 5), (0.2, 0.1, 2), (0.0, 0.05, 10)] {
        let errors = errors(|random| {
            let mut arms = Arms::default();
            (0..80).any(|_| {
                let canary = device_rate(random, control_rate + limit, false, 4);
                let control: Vec<f64> = (0..controls).map(|_| device_rate(random, control_rate, false, 4)).collect();
                arms.add(canary, &control);
                arms.shows(Side::Above, limit, DELTA / 2.0) || arms.shows(Side::Below, limit, DELTA / 2.0)
            })
        });
        assert!(errors <= allowed(DELTA), "{control_rate} {limit} {controls}: {errors} of {SEEDS}");
    }
}

#[test]
fn harm_and_harmlessness_are_both_found() {
    // 3 points more disagreement than 1 %, 6 audited answers for each device, as in a canary.
    let needed = |canary_rate: f64, controls: usize, side: Side, limit: f64, delta: f64| {
        let mut blocks: Vec<u32> = (0..200)
            .map(|seed| {
                let random = &mut StdRng::seed_from_u64(seed);
                let mut arms = Arms::default();
                (1..=2_000_u32)
                    .find(|_| {
                        let canary = device_rate(random, canary_rate, false, 6);
                        let control: Vec<f64> = (0..controls).map(|_| device_rate(random, 0.01, false, 6)).collect();
                        arms.add(canary, &control);
                        arms.shows(side, limit, delta)
                    })
                    .unwrap_or(u32::MAX)
            })
            .collect();
        blocks.sort_unstable();
        (blocks[100], blocks[180])
    };
    // The share of the error probability that a gate gives to this test.
    let harm = needed(0.04, 20, Side::Above, 0.0, 0.0051);
    let harmless = needed(0.01, 20, Side::Below, 0.01, 0.045);
    eprintln!("audits (6 on each device) until harm of 3 points is shown: median {}, 90 % {}", 6 * harm.0, 6 * harm.1);
    eprintln!("devices until a loss of 1 point is excluded: median {}, 90 % {}", harmless.0, harmless.1);
    // A test that knows the control's 1 % needs ln(1 / 0.0051) / KL(0.04 | 0.01) = 204 audits on average.
    assert!(harm.0 <= 60 && harm.1 <= 120, "{harm:?}");
    // Without any disagreement, (1 - 0.02)^n <= 0.045 / 6 needs n = 243.
    assert!(harmless.0 <= 700 && harmless.1 <= 1_000, "{harmless:?}");
}

#[test]
fn the_interval_of_a_difference_contains_it_and_excludes_the_rest() {
    let mut arms = Arms::default();
    for block in 0..600_u32 {
        let rate = |bad: bool| if bad { 0.5 } else { 0.0 };
        arms.add(rate(block % 5 == 0), &[rate(block % 20 == 0), rate(block % 20 == 7)]);
    }
    // Means 0.1 and 0.025.
    let interval = arms.interval(DELTA);
    assert!(0.03 < interval.low && interval.low < 0.075, "{interval:?}");
    assert!(0.075 < interval.high && interval.high < 0.13, "{interval:?}");
    assert_eq!(Arms::default().interval(DELTA).low, -1.0);
}

#[test]
fn a_quantile_leaves_its_confidence_sequence_as_rarely_as_promised_at_all_looks_together() {
    // Buckets with these probabilities: many ties.
    let chances = [0.1, 0.25, 0.2, 0.2, 0.15, 0.06, 0.04];
    for (p, truth) in [(0.5, 2), (0.95, 5), (0.1, 0), (0.3, 1)] {
        let errors = errors(|random| {
            let mut histogram = [0_u64; 7];
            (0..400).any(|_| {
                let mut draw: f64 = random.random();
                let at = chances.iter().position(|chance| {
                    draw -= chance;
                    draw < 0.0
                });
                histogram[at.unwrap_or(6)] += 1;
                let found = quantile::interval(&histogram, p, DELTA);
                truth < found.low || truth > found.high
            })
        });
        assert!(errors <= allowed(DELTA), "p = {p}: {errors} of {SEEDS}");
    }
}

#[test]
fn a_quantile_is_found() {
    let mut histogram = [0_u64; 9];
    assert_eq!(quantile::observed(&histogram, 0.5), None);
    let empty = quantile::interval(&histogram, 0.5, DELTA);
    assert_eq!((empty.low, empty.high), (0, 8));
    histogram[3] = 30;
    histogram[4] = 40;
    histogram[7] = 30;
    assert_eq!((quantile::observed(&histogram, 0.5), quantile::observed(&histogram, 0.95)), (Some(4), Some(7)));
    let median = quantile::interval(&histogram, 0.5, DELTA);
    assert_eq!((median.low, median.high), (4, 4));
}

proptest! {
    #[test]
    fn the_order_of_blocks_changes_nothing_and_nothing_overflows(
        mut blocks in proptest::collection::vec((any::<f64>(), proptest::collection::vec(any::<f64>(), 0..12)), 0..40),
        limit in -1.5..1.5_f64,
    ) {
        let sum = |blocks: &[(f64, Vec<f64>)]| {
            let mut arms = Arms::default();
            blocks.iter().for_each(|(canary, controls)| arms.add(*canary, controls));
            arms
        };
        let forward = sum(&blocks);
        blocks.reverse();
        prop_assert_eq!(&forward, &sum(&blocks));
        for side in [Side::Above, Side::Below] {
            prop_assert!(!forward.log_capital(side, limit).is_nan());
        }
        let interval = forward.interval(DELTA);
        prop_assert!(interval.low <= interval.high, "{:?}", interval);
    }
}
