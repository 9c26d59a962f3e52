//! Scores of small outputs, worked out by hand.

use types::DType;

use super::*;

fn rule(kind: ScoreKind, from: ScoreFrom) -> ScoreRule {
    ScoreRule::new(kind, "y", from)
}

fn of(kind: ScoreKind, shape: &[usize], values: &[f32], from: ScoreFrom) -> Result<f32, ScoreError> {
    score(&Tensor::from_f32(shape.to_vec(), values).unwrap(), &rule(kind, from))
}

fn along(axis: i64, shape: &[usize], values: &[f32], from: ScoreFrom) -> Result<f32, ScoreError> {
    let rule = ScoreRule { axis: Some(axis), ..rule(ScoreKind::Top1Probability, from) };
    score(&Tensor::from_f32(shape.to_vec(), values).unwrap(), &rule)
}

fn last(shape: &[usize], values: &[f32], from: ScoreFrom) -> Result<f32, ScoreError> {
    of(ScoreKind::Top1Probability, shape, values, from)
}

#[test]
fn logits_and_their_probabilities_score_alike() {
    let from_logits = last(&[1, 3], &[1.0, 2.0, 3.0], ScoreFrom::Logits).unwrap();
    assert!((from_logits - 0.665_240_96).abs() < 1e-6, "{from_logits}");
    assert_eq!(last(&[3], &[0.1, 0.2, 0.7], ScoreFrom::Probabilities), Ok(0.7));
}

#[test]
fn huge_logits_do_not_overflow() {
    assert_eq!(last(&[2], &[3e38, -3e38], ScoreFrom::Logits), Ok(1.0));
    assert_eq!(last(&[2], &[-3e38, -3e38], ScoreFrom::Logits), Ok(0.5));
    assert_eq!(last(&[2], &[f32::NEG_INFINITY, 0.0], ScoreFrom::Logits), Ok(1.0), "a masked class");
    for huge in [3e38, -3e38, f32::NEG_INFINITY] {
        assert_eq!(of(ScoreKind::Sigmoid, &[1, 1], &[huge], ScoreFrom::Logits), Ok(1.0), "{huge}");
    }
}

#[test]
fn a_batch_is_as_sure_as_its_least_sure_row() {
    assert_eq!(last(&[2, 2], &[0.9, 0.1, 0.4, 0.6], ScoreFrom::Probabilities), Ok(0.6));
    let images = [0.1, 0.9, 0.2, 0.3];
    assert_eq!(of(ScoreKind::BoxMaximum, &[2, 2], &images, ScoreFrom::Probabilities), Ok(0.3));
    assert_eq!(of(ScoreKind::Sigmoid, &[2, 2], &images, ScoreFrom::Probabilities), Ok(0.7));
}

#[test]
fn classes_may_be_any_dimension() {
    // Three classes of two pixels: the columns are (0.8, 0.1, 0.1) and (0.3, 0.5, 0.2).
    let pixels = [0.8, 0.3, 0.1, 0.5, 0.1, 0.2];
    for axis in [1, -2] {
        assert_eq!(along(axis, &[1, 3, 2], &pixels, ScoreFrom::Probabilities), Ok(0.5));
    }
    let even = along(1, &[1, 3, 1, 1], &[0.0; 3], ScoreFrom::Logits).unwrap();
    assert!((even - 1.0 / 3.0).abs() < 1e-6, "{even}");
    for axis in [3, -4, i64::MAX, i64::MIN] {
        let refused = along(axis, &[1, 3, 2], &pixels, ScoreFrom::Probabilities);
        assert!(matches!(refused, Err(ScoreError::NoAxis { .. })), "{axis}");
    }
}

#[test]
fn one_class_is_never_sure() {
    for shape in [&[1, 1][..], &[1], &[4, 1], &[2, 2, 1, 1], &[1, 4, 1, 1]] {
        let values = vec![9.0; shape.iter().product()];
        let refused = last(shape, &values, ScoreFrom::Logits);
        assert!(matches!(refused, Err(ScoreError::OneClass { .. })), "{shape:?}: {refused:?}");
    }
}

#[test]
fn a_sure_no_is_as_sure_as_a_sure_yes() {
    let sigmoid = |values: &[f32]| of(ScoreKind::Sigmoid, &[1, values.len()], values, ScoreFrom::Logits).unwrap();
    assert_eq!(sigmoid(&[0.0]), 0.5);
    let (yes, no) = (sigmoid(&[4.0]), sigmoid(&[-4.0]));
    assert!((yes - no).abs() < 1e-6 && yes > 0.98, "{yes} {no}");
    assert!((sigmoid(&[4.0, -4.0, 0.1]) - sigmoid(&[0.1])).abs() < 1e-6, "the least certain label counts");
}

#[test]
fn detections_are_as_sure_as_their_best_box() {
    // Two images, two boxes, two classes.
    let boxes = [-3.0, 2.0, -1.0, -9.0, 0.0, -5.0, -5.0, -5.0];
    assert_eq!(of(ScoreKind::BoxMaximum, &[2, 2, 2], &boxes, ScoreFrom::Logits), Ok(0.5));
    assert_eq!(of(ScoreKind::BoxMaximum, &[3], &[0.2, 0.9, 0.1], ScoreFrom::Probabilities), Ok(0.9), "no batch");
    for shape in [&[1, 0, 4][..], &[0, 5, 4], &[0]] {
        let nothing = of(ScoreKind::BoxMaximum, shape, &[], ScoreFrom::Probabilities);
        assert!(matches!(nothing, Err(ScoreError::Empty(_))), "{shape:?}: no box is no score");
    }
}

#[test]
fn what_is_no_number_has_no_score() {
    for values in [[f32::NAN, 0.0], [f32::INFINITY, 0.0], [f32::NEG_INFINITY; 2]] {
        assert!(last(&[2], &values, ScoreFrom::Logits).is_err(), "{values:?} as logits");
    }
    for kind in
        [ScoreKind::Top1Probability, ScoreKind::Margin, ScoreKind::Entropy, ScoreKind::Sigmoid, ScoreKind::BoxMaximum]
    {
        for values in [[f32::NAN, 0.5], [1.5, 0.0], [-1.0, 1.0]] {
            assert!(of(kind, &[2], &values, ScoreFrom::Probabilities).is_err(), "{values:?} as probabilities");
        }
        for values in [[f32::NAN, 9.0], [9.0, f32::INFINITY]] {
            assert!(of(kind, &[1, 2], &values, ScoreFrom::Logits).is_err(), "{values:?} as logits");
        }
    }
    // One bad row spoils a batch whose other rows are sure.
    assert!(last(&[2, 2], &[1.0, 0.0, f32::NAN, 0.0], ScoreFrom::Probabilities).is_err());
}

#[test]
fn an_output_without_classes_has_no_score() {
    assert!(last(&[], &[1.0], ScoreFrom::Logits).is_err());
    assert!(last(&[0, 3], &[], ScoreFrom::Logits).is_err());
    assert!(last(&[3, 0], &[], ScoreFrom::Logits).is_err());
    let integers = Tensor::new(DType::U8, vec![2], vec![0, 1].into()).unwrap();
    assert!(matches!(score(&integers, &rule(ScoreKind::Entropy, ScoreFrom::Logits)), Err(ScoreError::NotFloat(_))));
}

#[test]
fn scores_of_classes_agree_with_their_formulas() {
    // Probabilities 0.7, 0.2, 0.1 as logits with an offset, which only the energy sees.
    let logits: Vec<f32> = [0.7_f32, 0.2, 0.1].iter().map(|p| p.ln() + 3.0).collect();
    let near = |kind, expected: f32| {
        let score = of(kind, &[1, 3], &logits, ScoreFrom::Logits).unwrap();
        assert!((score - expected).abs() < 1e-5, "{kind:?}: {score}");
    };
    near(ScoreKind::Margin, 0.5);
    let entropy = -(0.7_f32 * 0.7_f32.ln() + 0.2 * 0.2_f32.ln() + 0.1 * 0.1_f32.ln());
    near(ScoreKind::Entropy, 1.0 - entropy / 3.0_f32.ln());
    near(ScoreKind::Energy, 0.5 + 0.5 * 3.0 / 4.0);
    assert_eq!(of(ScoreKind::Margin, &[3], &[0.7, 0.2, 0.1], ScoreFrom::Probabilities), Ok(0.5));
    assert_eq!(of(ScoreKind::Entropy, &[2], &[1.0, 0.0], ScoreFrom::Probabilities), Ok(1.0));
    assert_eq!(of(ScoreKind::Entropy, &[4], &[0.25; 4], ScoreFrom::Probabilities), Ok(0.0));
    assert_eq!(of(ScoreKind::Margin, &[2], &[f32::NEG_INFINITY, 0.0], ScoreFrom::Logits), Ok(1.0), "a masked class");
}

#[test]
fn a_temperature_flattens_logits_and_probabilities_alike() {
    let at = |temperature, values: &[f32], from| {
        let rule = ScoreRule { temperature: Some(temperature), ..rule(ScoreKind::Top1Probability, from) };
        score(&Tensor::from_f32(vec![1, values.len()], values).unwrap(), &rule).unwrap()
    };
    let logits = [0.7_f32.ln(), 0.3_f32.ln()];
    let expected = 0.7_f32.sqrt() / (0.7_f32.sqrt() + 0.3_f32.sqrt());
    assert!((at(2.0, &logits, ScoreFrom::Logits) - expected).abs() < 1e-6);
    assert!((at(2.0, &[0.7, 0.3], ScoreFrom::Probabilities) - expected).abs() < 1e-6);
    assert!((at(1.0, &logits, ScoreFrom::Logits) - 0.7).abs() < 1e-6);
    for extreme in [[3e38, -3e38], [-3e38, 3e38]] {
        assert_eq!(at(0.01, &extreme, ScoreFrom::Logits), 1.0);
    }
}

#[test]
fn a_learned_score_weighs_features_that_are_always_finite() {
    let learned = |weights, values: &[f32]| {
        let rule = ScoreRule { weights: Some(weights), ..rule(ScoreKind::Learned, ScoreFrom::Logits) };
        score(&Tensor::from_f32(vec![1, values.len()], values).unwrap(), &rule).unwrap()
    };
    // Only the log-odds, with weight 1: the probability itself.
    let odds = [0.0, 1.0, 0.0, 0.0, 0.0];
    let top1 = last(&[1, 3], &[1.0, 2.0, 3.0], ScoreFrom::Logits).unwrap();
    assert!((learned(odds, &[1.0, 2.0, 3.0]) - top1).abs() < 1e-6);
    for extreme in [[3e38, -3e38], [f32::NEG_INFINITY, 0.0], [0.0, 0.0]] {
        let score = learned([-1.0, 0.3, 0.2, -0.5, 0.1], &extreme);
        assert!((0.0..=1.0).contains(&score), "{extreme:?}: {score}");
    }
}
