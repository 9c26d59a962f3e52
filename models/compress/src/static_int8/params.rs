//! From a range to a scale and a zero point.
//!
//! `real = scale * (integer - zero)`, as ONNX's QuantizeLinear and DequantizeLinear have it. 0 is always exact, because
//! padding and cut-off values are 0.

use onnx_graph::ElementType;

use crate::calibrate::Range;

/// The integers that values are put into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Integers {
    pub(super) element: ElementType,
    pub(super) least: i32,
    pub(super) greatest: i32,
}

impl Integers {
    pub(super) const U8: Self = Self { element: ElementType::Uint8, least: 0, greatest: 255 };
    pub(super) const S8: Self = Self { element: ElementType::Int8, least: -128, greatest: 127 };
    /// The same number on both sides of 0, for weights.
    pub(super) const S8_EVEN: Self = Self { element: ElementType::Int8, least: -127, greatest: 127 };
    /// Seven bits: two products of it with an u8 always fit into 16 bits, where older x86 processors add them.
    pub(super) const S7_EVEN: Self = Self { element: ElementType::Int8, least: -64, greatest: 64 };

    /// The byte of an integer that lies within.
    pub(super) fn byte(self, value: i32) -> u8 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the low byte is the number")]
        let byte = value.clamp(self.least, self.greatest) as u8;
        byte
    }

    fn steps(self) -> f32 {
        (self.greatest - self.least) as f32
    }
}

/// A scale and a zero point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Params {
    pub(super) scale: f32,
    pub(super) zero: i32,
}

/// Puts a range, widened to hold 0, on all of the integers; around the middle of them when `symmetric`.
///
/// A range too narrow for a normal scale (all zeros, above all) gets scale 1: everything in it becomes 0.
pub(super) fn fit(range: Range, integers: Integers, symmetric: bool) -> Params {
    let (low, high) = (range.low.min(0.0), range.high.max(0.0));
    let middle = (integers.least + integers.greatest + 1).div_euclid(2);
    let (low, high) = if symmetric { (-low.abs().max(high.abs()), low.abs().max(high.abs())) } else { (low, high) };
    // Halves first: the distance of two large numbers can be beyond f32.
    let scale = (high / integers.steps()) - (low / integers.steps());
    if !scale.is_finite() || scale < f32::MIN_POSITIVE {
        return Params { scale: 1.0, zero: if symmetric { middle } else { integers.least.max(0) } };
    }
    if symmetric {
        return Params { scale, zero: middle };
    }
    #[expect(clippy::cast_possible_truncation, reason = "low / scale is at most the number of steps")]
    let zero = (integers.least as f32 - low / scale).round_ties_even() as i32;
    Params { scale, zero: zero.clamp(integers.least, integers.greatest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_exact_and_the_ends_are_reached() {
        for (low, high) in [(0.0, 6.0), (-1.0, 3.0), (-5.0, -1.0), (2.0, 9.0), (-1e38, 1e38), (f32::MIN, f32::MAX)] {
            for integers in [Integers::U8, Integers::S8] {
                let params = fit(Range { low, high }, integers, false);
                assert!((integers.least..=integers.greatest).contains(&params.zero), "{low} {high}: {params:?}");
                assert!(params.scale.is_finite() && params.scale > 0.0);
                let top = (integers.greatest - params.zero) as f32 * params.scale;
                assert!(top >= high.max(0.0) - params.scale, "{low} {high}: {top}");
            }
        }
        assert_eq!(fit(Range { low: 0.0, high: 255.0 }, Integers::U8, false), Params { scale: 1.0, zero: 0 });
        assert_eq!(fit(Range { low: 0.0, high: 255.0 }, Integers::S8, false), Params { scale: 1.0, zero: -128 });
    }

    #[test]
    fn symmetric_ranges_have_the_middle_as_zero() {
        assert_eq!(fit(Range { low: -1.0, high: 127.0 }, Integers::S8_EVEN, true), Params { scale: 1.0, zero: 0 });
        assert_eq!(fit(Range { low: -1.0, high: 2.0 }, Integers::U8, true).zero, 128);
        assert_eq!(fit(Range { low: -64.0, high: 0.0 }, Integers::S7_EVEN, true), Params { scale: 1.0, zero: 0 });
    }

    #[test]
    fn nothing_and_almost_nothing_have_a_lawful_scale() {
        for high in [0.0, 1e-45, f32::MIN_POSITIVE] {
            let params = fit(Range { low: 0.0, high }, Integers::S8, false);
            assert!(params.scale >= f32::MIN_POSITIVE, "{params:?}");
        }
    }
}
