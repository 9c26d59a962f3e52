//! The guarantee behind the threshold of a variant, read from its calibration curve.

use types::Calibration;

use super::{CurvePoint, Variant};

/// Maximum difference between the threshold and a point of the curve that are the same number, written twice.
const SAME_THRESHOLD: f32 = 1e-6;

/// Minimum number of examples of which the share of differing answers is told: fewer would often have none or all.
const ALIKE_MIN: u32 = 20;

/// Maximum error of a difference of two shares of a curve, which are written with four to six digits.
const ROUNDING: f64 = 1e-4;

/// Maximum number of thresholds in [`Variant::score_grid`].
const GRID_MAX: usize = 64;

impl Variant {
    /// Returns the bound that the calibration has for the threshold in force.
    ///
    /// The bound is the largest one of the curve from the strictest threshold to this one: the smallest share for which the
    /// walk over the thresholds accepts it. A threshold that is not on the curve has no bound.
    #[must_use]
    pub fn guarantee(&self) -> Calibration {
        let Some(threshold) = self.threshold else { return Calibration::NotCalibrated };
        let Some(calibration) = &self.calibration else { return Calibration::Uncertified };
        let mut alpha: f32 = 0.0;
        for point in &calibration.curve {
            alpha = alpha.max(point.bound);
            if (point.threshold - threshold).abs() <= SAME_THRESHOLD {
                return Calibration::Certified { alpha, confidence: calibration.confidence };
            }
        }
        Calibration::Uncertified
    }

    /// Returns the share of the calibration's answers with a score like this one that differ from the full model's, 0 to 1;
    /// `None` without a curve, or below its last threshold.
    ///
    /// Answers are like this one that lie in the smallest part of the curve around the score with at least [`ALIKE_MIN`]
    /// examples.
    #[must_use]
    pub fn chance_of_difference(&self, score: f32) -> Option<f32> {
        let calibration = self.calibration.as_ref()?;
        let curve = &calibration.curve;
        // The examples of a part of the curve are those between two of its points; above the first point there are some too.
        let above = curve.iter().position(|point| point.threshold <= score)?;
        let (mut first, mut last) = (above.checked_sub(1), above);
        let least = f64::from(ALIKE_MIN) / f64::from(calibration.examples.max(1));
        let edge = |at: Option<usize>, of: fn(&CurvePoint) -> f32| {
            at.and_then(|at| curve.get(at)).map_or(0.0, |point| f64::from(of(point)))
        };
        loop {
            let kept = edge(Some(last), |point| point.coverage) - edge(first, |point| point.coverage);
            let differing = edge(Some(last), |point| point.differing) - edge(first, |point| point.differing);
            let has_all = first.is_none() && last + 1 >= curve.len();
            // The shares of the curve are rounded.
            if kept + ROUNDING >= least || has_all {
                let share = differing / kept;
                #[expect(clippy::cast_possible_truncation, reason = "a share between 0 and 1")]
                return (kept > 0.0 && share.is_finite()).then(|| share.clamp(0.0, 1.0) as f32);
            }
            first = first.and_then(|at| at.checked_sub(1));
            last = (last + 1).min(curve.len().saturating_sub(1));
        }
    }

    /// Returns the thresholds that the hub may put in force in the field, the strictest first: those of the curve, at most
    /// 64, and the threshold of the author as the last one. Empty where no bound is stated.
    ///
    /// They are fixed before anything is heard from the field.
    #[must_use]
    pub fn score_grid(&self) -> Vec<f32> {
        let (Some(last), Calibration::Certified { .. }) = (self.threshold, self.guarantee()) else { return Vec::new() };
        let curve = self.calibration.iter().flat_map(|calibration| &calibration.curve);
        let mut stricter: Vec<f32> = Vec::new();
        for threshold in curve.map(|point| point.threshold).filter(|threshold| threshold.is_finite()) {
            if threshold > last + SAME_THRESHOLD && stricter.last().is_none_or(|before| threshold < *before) {
                stricter.push(threshold);
            }
        }
        let (all, most) = (stricter.len(), GRID_MAX - 1);
        let is_taken = |at: usize| all <= most || (at + 1) * most / all > at * most / all;
        let taken = stricter.into_iter().enumerate().filter(|(at, _)| is_taken(*at)).map(|(_at, threshold)| threshold);
        taken.chain([last]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Calibration as Curve, CurvePoint};
    use super::*;
    use crate::file::FileRef;
    use crate::manifest::Precision;
    use types::{Digest, EngineName, Place};

    fn variant() -> Variant {
        let digest = Digest::of(b"model");
        Variant {
            name: "int8".parse().unwrap(),
            runs_on: Place::Device,
            engines: vec![EngineName::Ort],
            precision: Precision::Int8,
            file: FileRef { name: "model.onnx".parse().unwrap(), size: 5, digest, chunks: vec![digest] },
            golden: None,
            golden_tolerance: None,
            score: None,
            threshold: None,
            calibration: None,
            preprocess: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn a_threshold_has_the_bound_of_its_point_and_of_all_stricter_ones() {
        let point = |threshold, bound| CurvePoint { threshold, coverage: 0.5, differing: 0.0, bound };
        let curve = vec![point(0.9, 0.02), point(0.8, 0.01), point(0.7, 0.05)];
        let calibrated = |threshold| Variant {
            threshold,
            calibration: Some(Curve { examples: 1000, confidence: 0.95, curve: curve.clone() }),
            ..variant()
        };
        let certified = |alpha| Calibration::Certified { alpha, confidence: 0.95 };
        assert_eq!(calibrated(Some(0.9)).guarantee(), certified(0.02));
        assert_eq!(calibrated(Some(0.8)).guarantee(), certified(0.02));
        assert_eq!(calibrated(Some(0.7)).guarantee(), certified(0.05));
        assert_eq!(calibrated(Some(0.75)).guarantee(), Calibration::Uncertified);
        assert_eq!(calibrated(None).guarantee(), Calibration::NotCalibrated);
        let by_hand = Variant { threshold: Some(0.9), calibration: None, ..variant() };
        assert_eq!(by_hand.guarantee(), Calibration::Uncertified);
    }

    #[test]
    fn the_thresholds_of_a_refit_are_those_of_the_curve_and_the_authors_is_the_loosest() {
        let point = |threshold| CurvePoint { threshold, coverage: 0.5, differing: 0.0, bound: 0.01 };
        let of = |thresholds: &[f32], threshold| {
            let curve = thresholds.iter().copied().map(point).collect();
            let calibration = Some(Curve { examples: 1000, confidence: 0.95, curve });
            Variant { threshold: Some(threshold), calibration, ..variant() }.score_grid()
        };
        assert_eq!(of(&[0.9, 0.8, 0.8, 0.7], 0.8), [0.9, 0.8]);
        assert!(of(&[0.9, 0.8], 0.75).is_empty(), "a threshold without a bound");
        let many: Vec<f32> = (0_u8..200).map(|step| 1.0 - f32::from(step) / 256.0).collect();
        let thinned = of(&many, many[150]);
        assert_eq!((thinned.len(), thinned.last()), (GRID_MAX, Some(&many[150])));
        assert!(thinned.windows(2).all(|pair| pair[1] < pair[0]), "{thinned:?}");
    }
}
