//! Compares the outputs of a model with the golden ones.

use types::{DType, NamedTensor, Tensor};

use crate::manifest::GoldenTolerance;

/// Agreement of an accepted response with the golden one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// Largest absolute difference of any floating-point element.
    pub max_abs: f32,
    /// Number of rows (all dimensions but the last) of floating-point outputs that have at least two elements.
    pub rows: usize,
    /// Number of those rows whose largest element is at the same position.
    pub same_top1: usize,
}

impl Agreement {
    /// Returns the share, 0 to 1, of the rows with the same top-1; `None` if there are no rows.
    #[must_use]
    pub fn top1(&self) -> Option<f32> {
        #[expect(clippy::cast_precision_loss, reason = "a share; the 24 bits of f32 are more than it needs")]
        (self.rows > 0).then(|| self.same_top1 as f32 / self.rows as f32)
    }
}

/// Difference between a response and the golden one that exceeds the tolerance.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Disagreement {
    /// The response lacks the output.
    #[error("the response lacks golden output {0:?}")]
    Missing(String),
    /// The output has another shape or element type.
    #[error("golden output {output:?} is {expected}, the response has {given}")]
    Shape {
        /// Name of the output.
        output: String,
        /// Type and shape in the golden file.
        expected: String,
        /// Type and shape in the response.
        given: String,
    },
    /// An integer, boolean or text differs.
    #[error("the response differs in golden output {0:?}, which must be equal")]
    NotEqual(String),
    /// Only one of the golden and the given value is NaN.
    #[error("golden output {output:?} and the response differ in NaN at element {element}")]
    NotANumber {
        /// Name of the output.
        output: String,
        /// Position of the element, in row-major order.
        element: usize,
    },
    /// A floating-point difference exceeds the tolerance.
    #[error("the response differs from golden output {output:?} by {given}, at most {allowed} is allowed")]
    TooFar {
        /// Name of the output.
        output: String,
        /// Largest difference in the output.
        given: f32,
        /// Maximum difference allowed.
        allowed: f32,
    },
    /// The top-1 differs in too many rows.
    #[error("{same} of {rows} golden rows have the same top-1 class, a share of at least {least} is required")]
    Top1 {
        /// Number of rows that agree.
        same: usize,
        /// Number of all rows.
        rows: usize,
        /// Minimum share of rows that must agree.
        least: f32,
    },
}

/// Compares a response with the golden one. Outputs that the golden file does not name are ignored.
///
/// Floating-point outputs may differ within `tolerance`, all others must be equal. NaN equals only NaN.
///
/// # Errors
/// Returns the first [`Disagreement`].
pub fn compare(
    expected: &[NamedTensor],
    actual: &[NamedTensor],
    tolerance: &GoldenTolerance,
) -> Result<Agreement, Disagreement> {
    let mut agreement = Agreement { max_abs: 0.0, rows: 0, same_top1: 0 };
    for golden in expected {
        let answer = actual.iter().find(|answer| answer.name == golden.name);
        let answer = answer.ok_or_else(|| Disagreement::Missing(golden.name.clone()))?;
        compare_output(&golden.name, &golden.tensor, &answer.tensor, tolerance, &mut agreement)?;
    }
    if let Some(least) = tolerance.top1 {
        // Without rows the required share cannot be shown.
        if agreement.top1().is_none_or(|share| share < least) {
            return Err(Disagreement::Top1 { same: agreement.same_top1, rows: agreement.rows, least });
        }
    }
    Ok(agreement)
}

fn compare_output(
    name: &str,
    golden: &Tensor,
    answer: &Tensor,
    tolerance: &GoldenTolerance,
    agreement: &mut Agreement,
) -> Result<(), Disagreement> {
    if golden.dtype() != answer.dtype() || golden.shape() != answer.shape() {
        let (expected, given) = (format!("{golden:?}"), format!("{answer:?}"));
        return Err(Disagreement::Shape { output: name.to_owned(), expected, given });
    }
    let floats = golden.to_f32().ok().zip(answer.to_f32().ok());
    let Some((golden_values, answer_values)) = floats else {
        let equal = golden.data() == answer.data();
        return if equal { Ok(()) } else { Err(Disagreement::NotEqual(name.to_owned())) };
    };
    debug_assert!(golden.dtype() != DType::Bytes, "only floats have values");
    let max_abs = largest_difference(name, &golden_values, &answer_values)?;
    if let Some(allowed) = tolerance.max_abs.filter(|&allowed| max_abs > allowed) {
        return Err(Disagreement::TooFar { output: name.to_owned(), given: max_abs, allowed });
    }
    agreement.max_abs = agreement.max_abs.max(max_abs);
    let width = golden.shape().last().copied().unwrap_or(1);
    if width >= 2 {
        let rows = golden_values.chunks_exact(width).zip(answer_values.chunks_exact(width));
        for (golden_row, answer_row) in rows {
            agreement.rows += 1;
            agreement.same_top1 += usize::from(top1(golden_row) == top1(answer_row));
        }
    }
    Ok(())
}

fn largest_difference(name: &str, golden: &[f32], answer: &[f32]) -> Result<f32, Disagreement> {
    let mut largest = 0.0_f32;
    for (element, (&golden, &answer)) in golden.iter().zip(answer).enumerate() {
        if golden.is_nan() != answer.is_nan() {
            return Err(Disagreement::NotANumber { output: name.to_owned(), element });
        }
        // The difference of equal infinities would be NaN; NaN equals NaN.
        if golden.is_nan() || golden == answer {
            continue;
        }
        largest = largest.max((golden - answer).abs());
    }
    Ok(largest)
}

/// Returns the position of the largest element, the first of equals; NaN is never the largest.
fn top1(row: &[f32]) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (at, &value) in row.iter().enumerate() {
        if !value.is_nan() && best.is_none_or(|(_, largest)| value > largest) {
            best = Some((at, value));
        }
    }
    best.map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(shape: &[usize], values: &[f32]) -> Vec<NamedTensor> {
        vec![NamedTensor { name: "y".into(), tensor: Tensor::from_f32(shape.to_vec(), values).unwrap() }]
    }

    const LOOSE: GoldenTolerance = GoldenTolerance { max_abs: None, top1: None };

    #[test]
    fn agreement_is_measured_by_distance_and_by_class() {
        let golden = out(&[2, 2], &[1.0, 2.0, 4.0, 3.0]);
        let answer = out(&[2, 2], &[1.0, 2.5, 3.0, 3.5]);
        let agreement = compare(&golden, &answer, &LOOSE).unwrap();
        assert_eq!((agreement.max_abs, agreement.rows, agreement.same_top1), (1.0, 2, 1));
        assert_eq!(agreement.top1(), Some(0.5));
        let near = GoldenTolerance { max_abs: Some(0.9), top1: None };
        assert!(matches!(compare(&golden, &answer, &near), Err(Disagreement::TooFar { .. })));
        let sure = GoldenTolerance { max_abs: None, top1: Some(0.6) };
        assert!(matches!(compare(&golden, &answer, &sure), Err(Disagreement::Top1 { same: 1, rows: 2, .. })));
    }

    #[test]
    fn a_model_that_answers_nan_never_agrees() {
        let answer = out(&[1, 2], &[1.0, f32::NAN]);
        let wrong = compare(&out(&[1, 2], &[1.0, 2.0]), &answer, &LOOSE);
        assert_eq!(wrong, Err(Disagreement::NotANumber { output: "y".into(), element: 1 }));
        assert!(compare(&answer, &answer, &LOOSE).is_ok());
        let infinite = out(&[1, 2], &[1.0, f32::INFINITY]);
        let tight = GoldenTolerance { max_abs: Some(1e30), top1: None };
        assert!(compare(&out(&[1, 2], &[1.0, 2.0]), &infinite, &tight).is_err());
        assert!(compare(&infinite, &infinite, &tight).is_ok());
    }

    #[test]
    fn a_missing_or_misshapen_output_is_refused() {
        let golden = out(&[1, 2], &[1.0, 2.0]);
        assert!(matches!(compare(&golden, &[], &LOOSE), Err(Disagreement::Missing(_))));
        assert!(matches!(compare(&golden, &out(&[2], &[1.0, 2.0]), &LOOSE), Err(Disagreement::Shape { .. })));
        let top1 = GoldenTolerance { max_abs: None, top1: Some(1.0) };
        assert!(compare(&out(&[], &[1.0]), &out(&[], &[1.0]), &top1).is_err(), "no rows show no agreement");
    }

    #[test]
    fn integers_must_be_equal() {
        let out = |byte: u8| {
            let tensor = Tensor::new(DType::U8, vec![1], vec![byte].into()).unwrap();
            vec![NamedTensor { name: "y".into(), tensor }]
        };
        assert!(compare(&out(1), &out(1), &LOOSE).is_ok());
        assert_eq!(compare(&out(1), &out(2), &LOOSE), Err(Disagreement::NotEqual("y".into())));
    }
}
