//! Arithmetic over rows of numbers.
//!
//! Used by [`crate::boxes`], [`crate::symbols`], [`crate::similarity`] and the judging of compressed models.

/// Returns the position of the largest element, the first of equals; NaN is never the largest.
#[must_use]
pub fn top1(row: &[f64]) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (at, &value) in row.iter().enumerate() {
        if !value.is_nan() && best.is_none_or(|(_at, largest)| value > largest) {
            best = Some((at, value));
        }
    }
    best.map(|(at, _value)| at)
}

/// Returns the cosine of two vectors from their inner product and sums of squares. Two vectors of zeros are the same; one of them alone has
/// no direction in common with the other.
#[must_use]
pub fn cosine(product: f64, wanted: f64, found: f64) -> f64 {
    match (wanted > 0.0, found > 0.0) {
        (true, true) => (product / (wanted.sqrt() * found.sqrt())).clamp(-1.0, 1.0),
        (false, false) => 1.0,
        (true, false) | (false, true) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_zeros_equal_each_other_alone() {
        assert_eq!((cosine(0.0, 0.0, 0.0), cosine(0.0, 1.0, 0.0), cosine(2.0, 4.0, 1.0)), (1.0, 0.0, 1.0));
        assert_eq!(top1(&[f64::NAN, 1.0, 1.0]), Some(1));
    }
}
