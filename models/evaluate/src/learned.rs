//! Learned score: the probability that an answer agrees with the full model, by logistic regression over a few features.
//!
//! Newton's method with a ridge, on standardised features; the weights are returned for the plain ones, as the manifest holds them.

use bundle::confidence::{FEATURES, logistic};

use crate::real;

/// Number of weights: a bias and one per feature.
const WEIGHTS: usize = FEATURES + 1;

/// Ridge on each standardised weight, in examples: keeps weights finite where a feature separates all examples.
const RIDGE: f64 = 1.0;

/// Maximum number of Newton steps; a handful suffices.
const STEPS: u32 = 30;

/// Least deviation of a feature that is worth a weight.
const DEVIATION_MIN: f64 = 1e-9;

/// Fits weights: the bias first, then one for each feature. `None` when all examples agree, or all differ.
#[must_use]
pub fn fit(features: &[[f64; FEATURES]], agrees: &[bool]) -> Option<[f32; WEIGHTS]> {
    let n = features.len().min(agrees.len());
    let right = agrees.iter().take(n).filter(|agrees| **agrees).count();
    if right == 0 || right == n {
        return None;
    }
    let mut scale = [(0.0, 1.0); FEATURES];
    for (at, (mean, deviation)) in scale.iter_mut().enumerate() {
        let column = || features.iter().take(n).map(|row| row[at]);
        *mean = column().sum::<f64>() / real(n);
        *deviation = (column().map(|x| (x - *mean) * (x - *mean)).sum::<f64>() / real(n)).sqrt();
    }
    let standardised = |row: &[f64; FEATURES]| {
        let mut x = [1.0; WEIGHTS];
        for (at, (mean, deviation)) in scale.iter().enumerate() {
            x[at + 1] = if *deviation > DEVIATION_MIN { (row[at] - mean) / deviation } else { 0.0 };
        }
        x
    };
    let mut weights = [0.0; WEIGHTS];
    for _ in 0..STEPS {
        let mut gradient = [0.0; WEIGHTS];
        let mut hessian = [[0.0; WEIGHTS]; WEIGHTS];
        for (row, &agrees) in features.iter().zip(agrees) {
            let x = standardised(row);
            let p = logistic(x.iter().zip(weights).map(|(x, w)| x * w).sum());
            let (error, weight) = (f64::from(u8::from(agrees)) - p, (p * (1.0 - p)).max(1e-12));
            for i in 0..WEIGHTS {
                gradient[i] += error * x[i];
                for j in 0..WEIGHTS {
                    hessian[i][j] += weight * x[i] * x[j];
                }
            }
        }
        for i in 0..WEIGHTS {
            // The bias is barely held, so that a rare class is not pulled to one half.
            let ridge = if i == 0 { 1e-6 } else { RIDGE };
            gradient[i] -= ridge * weights[i];
            hessian[i][i] += ridge;
        }
        let step = solve(hessian, gradient)?;
        for (weight, step) in weights.iter_mut().zip(step) {
            *weight += step;
        }
        if step.iter().all(|step| step.abs() < 1e-9) {
            break;
        }
    }
    let mut plain = [0.0_f64; WEIGHTS];
    plain[0] = weights[0];
    for (at, (mean, deviation)) in scale.iter().enumerate() {
        if *deviation > DEVIATION_MIN {
            plain[at + 1] = weights[at + 1] / deviation;
            plain[0] -= plain[at + 1] * mean;
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "rounding weights to f32 is meant")]
    let narrow = plain.map(|weight| weight as f32);
    narrow.iter().all(|weight| weight.is_finite()).then_some(narrow)
}

/// Solves a symmetric positive definite system by elimination with pivots; `None` when it is singular.
fn solve(mut matrix: [[f64; WEIGHTS]; WEIGHTS], mut right: [f64; WEIGHTS]) -> Option<[f64; WEIGHTS]> {
    for column in 0..WEIGHTS {
        let pivot = (column..WEIGHTS).max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs()))?;
        if matrix[pivot][column].abs() < f64::MIN_POSITIVE {
            return None;
        }
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        for row in column + 1..WEIGHTS {
            let factor = matrix[row][column] / matrix[column][column];
            let above = matrix[column];
            for (value, above) in matrix[row].iter_mut().zip(above).skip(column) {
                *value -= factor * above;
            }
            right[row] -= factor * right[column];
        }
    }
    let mut solution = [0.0; WEIGHTS];
    for row in (0..WEIGHTS).rev() {
        let known: f64 = (row + 1..WEIGHTS).map(|at| matrix[row][at] * solution[at]).sum();
        solution[row] = (right[row] - known) / matrix[row][row];
    }
    Some(solution)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn the_weights_that_made_the_examples_are_found() {
        let mut random = StdRng::seed_from_u64(3);
        let truth = [0.5, 1.0, -2.0, 0.0, 0.3];
        let (mut features, mut agrees) = (Vec::new(), Vec::new());
        for _ in 0..20_000 {
            let row: [f64; FEATURES] = std::array::from_fn(|_| random.random_range(-1.0..1.0));
            let z = truth[0] + row.iter().zip(&truth[1..]).map(|(x, w)| x * w).sum::<f64>();
            agrees.push(random.random_bool(logistic(z)));
            features.push(row);
        }
        for (found, truth) in fit(&features, &agrees).unwrap().iter().zip(truth) {
            assert!((f64::from(*found) - truth).abs() < 0.15, "{found} for {truth}");
        }
    }

    #[test]
    fn a_feature_that_separates_everything_has_a_finite_weight() {
        let features: Vec<[f64; FEATURES]> = (0..100).map(|at| [f64::from(at), 1.0, 0.0, 0.0]).collect();
        let agrees: Vec<bool> = (0..100).map(|at| at >= 40).collect();
        let weights = fit(&features, &agrees).unwrap();
        assert!(weights.iter().all(|weight| weight.is_finite()) && weights[1] > 0.0, "{weights:?}");
        assert_eq!(fit(&features, &[true; 100]), None, "nothing to tell apart");
    }
}
