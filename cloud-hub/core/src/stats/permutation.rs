//! Randomization test: are the numbers of the canary devices larger than a random draw among all devices would give?
//!
//! Chance decides which devices get the version first. If the version changes nothing, every other choice of as many devices
//! was as likely, so the share of choices whose sum is at least the observed one is an exact p-value (Fisher 1935; Ernst,
//! "Permutation methods: a basis for exact inference", Statistical Science 2004). It needs no model of how devices differ:
//! a device that disagrees often does so on either side. The share is computed exactly, by dynamic programming over the
//! numbers that occur; nothing is drawn at random.
//!
//! Unlike the other tests of this folder it is for *one* look at one set of data. Who looks several times divides the error
//! probability among the looks.

use libm::lgamma;

/// Parts of 1 to which numbers are rounded: the work grows with it, and the rate of a device with few answers is coarser.
const PARTS: f64 = 60.0;

/// Maximum number of canary devices; further ones are left out. The work grows with its square.
pub const CANARIES_MAX: usize = 60;

/// Standard deviations above the mean at which a sum counts as no larger: the p-value is then an upper bound.
const DEVIATIONS_MAX: f64 = 12.0;

/// Bad answers among all answers of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Answers that count against the version.
    pub bad: u64,
    /// All answers, at least one.
    pub of: u64,
}

/// Returns the probability that a random draw of as many devices as the canary ones, among all, has a rate at least as high.
/// Returns 1 where one side is empty.
///
/// The number of a device is the difference of its rate from the mean rate. A device with fewer answers than the median device
/// weighs less in proportion, and one with more weighs no more.
#[must_use]
pub fn p_value(canary: &[Counted], control: &[Counted]) -> f64 {
    let canary = canary.get(..canary.len().min(CANARIES_MAX)).unwrap_or_default();
    if canary.is_empty() || control.is_empty() {
        return 1.0;
    }
    let numbers = numbers(canary.iter().chain(control));
    let drawn = canary.len();
    let sum = numbers.iter().take(drawn).sum::<usize>().min(largest(&numbers, drawn));
    below(&groups(&numbers), numbers.len(), drawn, sum).map_or(1.0, |below| (1.0 - below).max(0.0))
}

/// Returns the weighted difference of the rate of each device from the mean rate, in parts, and all of them moved up by the mean
/// rate so that none is negative.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the value is in 0..=2 * PARTS")]
fn numbers<'a>(devices: impl Iterator<Item = &'a Counted> + Clone) -> Vec<usize> {
    let mut answers: Vec<u64> = devices.clone().map(|device| device.of).collect();
    answers.sort_unstable();
    let median = answers.get(answers.len() / 2).copied().unwrap_or(1).max(1) as f64;
    let rate = |device: &Counted| device.bad.min(device.of) as f64 / device.of.max(1) as f64;
    let weight = |device: &Counted| (device.of as f64 / median).min(1.0);
    let weights: f64 = devices.clone().map(weight).sum();
    let mean =
        devices.clone().map(|device| weight(device) * rate(device)).sum::<f64>() / weights.max(f64::MIN_POSITIVE);
    let number = |device: &Counted| weight(device) * (rate(device) - mean) + mean;
    devices.map(|device| (number(device).clamp(0.0, 2.0) * PARTS).round() as usize).collect()
}

/// Returns each number that occurs with the count of devices that have it.
fn groups(all: &[usize]) -> Vec<(usize, usize)> {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    sorted.chunk_by(|one, next| one == next).filter_map(|same| Some((*same.first()?, same.len()))).collect()
}

/// Returns the sum beyond which no larger one is told apart.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
fn largest(all: &[usize], drawn: usize) -> usize {
    let count = all.len() as f64;
    let mean = all.iter().sum::<usize>() as f64 / count;
    let variance = all.iter().map(|number| (*number as f64 - mean).powi(2)).sum::<f64>() / count;
    (drawn as f64 * mean + DEVIATIONS_MAX * (drawn as f64 * variance).sqrt()).ceil() as usize + 1
}

/// Returns the probability that a draw of `drawn` among `count` devices has a sum below `sum`; `None` for a sum of 0.
fn below(groups: &[(usize, usize)], count: usize, drawn: usize, sum: usize) -> Option<f64> {
    if sum == 0 {
        return None;
    }
    // Probability of each number of devices that were drawn from the groups so far, with each sum below `sum`.
    let mut table = vec![vec![0.0; sum]; drawn + 1];
    *table.first_mut()?.first_mut()? = 1.0;
    let mut left = count;
    for (number, size) in groups {
        let mut next = vec![vec![0.0; sum]; drawn + 1];
        for (so_far, row) in table.iter().enumerate().filter(|(_, row)| row.iter().any(|share| *share > 0.0)) {
            let to_draw = drawn - so_far;
            for here in to_draw.saturating_sub(left - size)..=to_draw.min(*size) {
                let step = number * here;
                if step >= sum {
                    break;
                }
                let chance = (log_choose(*size, here) + log_choose(left - size, to_draw - here)
                    - log_choose(left, to_draw))
                .exp();
                let into = next.get_mut(so_far + here)?;
                for (to, from) in into.iter_mut().skip(step).zip(row) {
                    *to += chance * from;
                }
            }
        }
        table = next;
        left -= size;
    }
    Some(table.last()?.iter().sum())
}

fn log_choose(of: usize, chosen: usize) -> f64 {
    lgamma(of as f64 + 1.0) - lgamma(chosen as f64 + 1.0) - lgamma((of - chosen) as f64 + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rates: &[(u64, u64)]) -> Vec<Counted> {
        rates.iter().map(|(bad, of)| Counted { bad: *bad, of: *of }).collect()
    }

    /// Counts all draws.
    fn by_hand(canary: &[Counted], control: &[Counted]) -> f64 {
        let all = numbers(canary.iter().chain(control));
        let sum: usize = all.iter().take(canary.len()).sum();
        let draws = (0_u32..1 << all.len()).filter(|draw| draw.count_ones() as usize == canary.len());
        let sums: Vec<usize> = draws
            .map(|draw| all.iter().enumerate().filter(|(at, _)| draw >> at & 1 == 1).map(|(_, number)| number).sum())
            .collect();
        sums.iter().filter(|other| **other >= sum).count() as f64 / sums.len() as f64
    }

    #[test]
    fn the_share_of_draws_is_exact() {
        let control = of(&[(0, 4), (0, 4), (1, 4), (0, 1), (2, 4), (0, 9), (1, 1), (3, 12)]);
        for canary in
            [vec![(0, 4)], vec![(2, 4)], vec![(1, 4), (1, 4), (0, 1)], vec![(4, 4), (3, 4), (2, 4)], vec![(0, 7); 4]]
        {
            let canary = of(&canary);
            let (exact, counted) = (p_value(&canary, &control), by_hand(&canary, &control));
            assert!((exact - counted).abs() < 1e-9, "{canary:?}: {exact}, counted {counted}");
        }
        assert!(p_value(&[], &control) >= 1.0 && p_value(&of(&[(1, 2)]), &[]) >= 1.0);
        assert!(p_value(&of(&[(3, 0), (9, 2)]), &control) <= 1.0, "counts that cannot be are no reason to fail");
    }

    #[test]
    fn a_device_with_few_answers_weighs_little_and_one_with_many_no_more_than_others() {
        let control = of(&[(0, 10); 30]);
        let few = p_value(&of(&[(1, 1), (0, 10)]), &control);
        let many = p_value(&of(&[(1000, 1000), (0, 10)]), &control);
        let usual = p_value(&of(&[(10, 10), (0, 10)]), &control);
        assert!((many - usual).abs() < 1e-9 && few >= usual, "{few} {usual} {many}");
        // More answers with the same rate are no harm.
        assert!(p_value(&of(&[(2, 20); 5]), &of(&[(1, 10); 50])) > 0.9);
    }

    #[test]
    fn a_grave_difference_is_an_upper_bound_and_no_more_work() {
        let p = p_value(&of(&[(9, 10); 200]), &of(&[(1, 100); 1000]));
        assert!(p < 1e-6, "{p}");
        assert!(p_value(&of(&[(0, 4); 50]), &of(&[(0, 4); 1000])) >= 1.0);
    }

    #[test]
    fn no_more_draws_than_promised_look_harmful() {
        // Devices that differ, none changed by the version: every thirtieth disagrees seven times as often.
        let mut state = 7_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let mut device = || {
            let rate = if random() < 0.03 { 0.09 } else { 0.013 };
            let of = if random() < 0.1 { 1 } else { 4 };
            Counted { bad: (0..of).map(|_answer| u64::from(random() < rate)).sum(), of }
        };
        let mut seen = || {
            let (canary, control): (Vec<_>, Vec<_>) =
                ((0..20).map(|_| device()).collect(), (0..100).map(|_| device()).collect());
            p_value(&canary, &control)
        };
        let found: Vec<f64> = (0..1000).map(|_seed| seen()).collect();
        for level in [0.2, 0.05, 0.01] {
            let count = found.iter().filter(|p| **p <= level).count();
            // Four standard deviations above what is allowed.
            let most = 1000.0 * level + 4.0 * (1000.0_f64 * level * (1.0 - level)).sqrt();
            assert!((count as f64) <= most, "{count} of 1,000 draws at {level}");
        }
    }
}
