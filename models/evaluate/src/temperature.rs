//! Temperature of class probabilities: one number that makes them as sure as they are right, without changing any class.
//!
//! Guo and others, "On calibration of modern neural networks", 2017: least negative log-likelihood of the right classes.

use bundle::manifest::{TEMPERATURE_MAX, TEMPERATURE_MIN};
use bundle::{ScoreFrom, ScoreRule};
use types::Tensor;

use crate::{narrow, real};

/// Steps of the golden-section search over the logarithm of the temperature: narrows it to below a ten-thousandth.
const STEPS: u32 = 40;

/// Inverse of the golden ratio.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// Least probability of a right class: one that is taken for impossible does not decide the fit alone.
const LEAST: f64 = 1e-9;

/// Fits the temperature of answers with one row of classes each to the right class of each.
///
/// `None` where nothing is to fit: no answers, rules without classes, answers that are no numbers.
#[must_use]
pub fn fit(answers: &[Tensor], classes: &[usize], rule: &ScoreRule) -> Option<f32> {
    if answers.is_empty() || !rule.kind.is_of_classes() {
        return None;
    }
    let rows: Vec<Vec<f64>> = answers.iter().map(|answer| logits(answer, rule)).collect::<Option<_>>()?;
    let cost = |log: f64| loss(&rows, classes, log.exp());
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

/// Logits of a row, or the logarithms of its probabilities.
fn logits(answer: &Tensor, rule: &ScoreRule) -> Option<Vec<f64>> {
    let values = answer.to_f32().ok()?;
    let logit = |value: &f32| match rule.from {
        ScoreFrom::Logits => f64::from(*value),
        ScoreFrom::Probabilities => f64::from(*value).max(LEAST).ln(),
    };
    Some(values.iter().map(logit).collect())
}

/// Mean negative log-likelihood of the right classes, in nats.
fn loss(rows: &[Vec<f64>], classes: &[usize], temperature: f64) -> f64 {
    let of_row = |(row, &class): (&Vec<f64>, &usize)| {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| ((x - largest) / temperature).exp()).sum();
        let right = row.get(class).map_or(0.0, |x| ((x - largest) / temperature).exp() / sum);
        -right.max(LEAST).ln()
    };
    rows.iter().zip(classes).map(of_row).sum::<f64>() / real(rows.len().max(1))
}

#[cfg(test)]
mod tests {
    use bundle::ScoreKind;
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
