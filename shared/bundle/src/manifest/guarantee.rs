//! The guarantee behind the threshold of a variant, read from its calibration curve.

use types::Calibration;

use super::Variant;

/// Maximum difference between the threshold and a point of the curve that are the same number, written twice.
const SAME_THRESHOLD: f32 = 1e-6;

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
}
