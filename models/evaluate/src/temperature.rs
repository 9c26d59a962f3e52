//! Temperature of class probabilities: one number that makes them as sure as they are right, without changing any class.
//!
//! Guo and others, "On calibration of modern neural networks", 2017: least negative log-likelihood of the right classes.

use bundle::confidence::{self, ScoreError};
use bundle::manifest::{TEMPERATURE_MAX, TEMPERATURE_MIN};
use bundle::{ScoreKind, ScoreRule};
use types::Tensor;

use crate::real;

/// Steps of the golden-section search over the logarithm of the temperature: narrows it to below a ten-thousandth.
const STEPS: u32 = 40;

/// Inverse of the golden ratio.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// Least probability of a right class: one that is taken for impossible does not decide the fit alone.
const LEAST: f64 = 1e-9;

/// Fits the temperature of answers to the right class of each; rows of classes of one answer share its class.
///
/// `None` where nothing is to fit: no answers, or rules without classes.
#[must_use]
pub fn fit(answers: &[Tensor], classes: &[usize], rule: &ScoreRule) -> Option<f32> {
    if answers.is_empty() || !rule.kind.is_of_classes() {
        return None;
    }
    let cost = |log: f64| loss(answers, classes, rule, narrow(log.exp())).unwrap_or(f64::INFINITY);
    let (mut low, mut high) = (f64::from(TEMPERATURE_MIN).ln(), f64::from(TEMPERATURE_MAX).ln());
    let (mut left, mut right) = (high - GOLDEN * (high - low), low + GOLDEN * (high - low));
    let (mut cost_left, mut cost_right) = (cost(left), cost(right));
    for _ in 0..STEPS {
        if cost_left <= cost_right {
            (high, right, cost_right) = (right, left, cost_left);
            left = high - GOLDEN * (high - low);
            cost_left = cost(left);
        } else {
            (low, left, cost_left) = (left, right, cost_right);
            right = low + GOLDEN * (high - low);
            cost_right = cost(right);
        }
    }
    let best = f64::midpoint(low, high);
    cost(best).is_finite().then(|| narrow(best.exp()).clamp(TEMPERATURE_MIN, TEMPERATURE_MAX))
}

/// Mean negative log-likelihood of the right classes, in nats.
fn loss(answers: &[Tensor], classes: &[usize], rule: &ScoreRule, temperature: f32) -> Result<f64, ScoreError> {
    let rule =
        ScoreRule { kind: ScoreKind::Top1Probability, temperature: Some(temperature), weights: None, ..rule.clone() };
    let mut sum = 0.0;
    for (answer, &class) in answers.iter().zip(classes) {
        // Of the top class the probability is known; of another one only what is left for all others.
        for row in confidence::rows(answer, &rule)? {
            let p = if row.top == class { row.first } else { (1.0 - row.first).min(row.second) };
            sum -= p.max(LEAST).ln();
        }
    }
    Ok(sum / real(answers.len().max(1)))
}

fn narrow(value: f64) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "a temperature within the range of f32")]
    let narrowed = value as f32;
    narrowed
}

#[cfg(test)]
mod tests {
    use bundle::ScoreFrom;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn the_temperature_that_made_the_answers_is_found() {
        let rule = ScoreRule::new(ScoreKind::Top1Probability, "y", ScoreFrom::Logits);
        let mut random = StdRng::seed_from_u64(5);
        for wanted in [0.5_f64, 1.0, 3.0] {
            let (mut answers, mut classes) = (Vec::new(), Vec::new());
            for _ in 0..4000 {
                let margin: f64 = random.random_range(-3.0..3.0);
                // The class is drawn with the softmax of the true logits; the model's are `wanted` times as large.
                let p = 1.0 / (1.0 + (-margin).exp());
                classes.push(usize::from(random.random_bool(p)));
                answers.push(Tensor::from_f32(vec![1, 2], &[0.0, narrow(margin * wanted)]).unwrap());
            }
            let found = fit(&answers, &classes, &rule).unwrap();
            assert!((f64::from(found) / wanted - 1.0).abs() < 0.12, "{found} for {wanted}");
        }
    }
}
