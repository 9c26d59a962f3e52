//! Arithmetic over rows of numbers, for [`super::output`] and [`super::labelled`].

pub(super) use evaluate::arithmetic::{cosine, top1};
use types::Tensor;

/// Largest distance from 1 of the sum of a row of probabilities; half precision rounds about this much over 1,000 classes.
const PROBABILITY_SLACK: f64 = 5e-3;

/// Smallest probability in a divergence: a class below it counts as this likely, so that one rounding to zero gives no
/// infinity.
const PROBABILITY_LEAST: f64 = 1e-12;

/// Number of elements that are exactly equal in two tensors of one shape and type.
pub(super) fn equal_elements(one: &Tensor, other: &Tensor) -> usize {
    match one.dtype().size() {
        Some(size) if size > 0 => one
            .data()
            .chunks_exact(size)
            .zip(other.data().chunks_exact(size))
            .filter(|(one, other)| one == other)
            .count(),
        _ => match (one.to_elements(), other.to_elements()) {
            (Ok(one), Ok(other)) => one.iter().zip(&other).filter(|(one, other)| one == other).count(),
            (Ok(_) | Err(_), _) => 0,
        },
    }
}

/// A sum of squares over another; no difference is 0 of anything.
pub(super) fn ratio(difference: f64, of: f64) -> f64 {
    match (difference > 0.0, of > 0.0) {
        (false, _) => 0.0,
        (true, true) => difference / of,
        (true, false) => f64::MAX,
    }
}

pub(super) fn is_distribution(row: &[f64]) -> bool {
    let sum: f64 = row.iter().sum();
    (sum - 1.0).abs() <= PROBABILITY_SLACK && row.iter().all(|&value| value >= 0.0)
}

pub(super) fn softmax(row: &[f64]) -> Vec<f64> {
    let largest = row.iter().copied().filter(|value| value.is_finite()).fold(f64::MIN, f64::max);
    let odds: Vec<f64> =
        row.iter().map(|&value| if value.is_nan() { 0.0 } else { (value - largest).min(0.0).exp() }).collect();
    let sum: f64 = odds.iter().sum();
    odds.into_iter().map(|odd| if sum > 0.0 { odd / sum } else { 0.0 }).collect()
}

pub(super) fn divergence(reference: &[f64], variant: &[f64]) -> f64 {
    let term = |(&p, &q): (&f64, &f64)| {
        let q = if q.is_finite() { q.max(PROBABILITY_LEAST) } else { PROBABILITY_LEAST };
        if p > PROBABILITY_LEAST { p * (p / q).ln() } else { 0.0 }
    };
    reference.iter().zip(variant).map(term).sum::<f64>().max(0.0)
}

pub(super) fn count(elements: usize) -> u64 {
    u64::try_from(elements).unwrap_or(u64::MAX)
}

/// A count as a number.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub(super) fn number(count: u64) -> f64 {
    count as f64
}
