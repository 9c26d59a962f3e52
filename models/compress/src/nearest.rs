//! Rounding as ONNX does it, in vector registers.

/// Adding and taking away 1.5 * 2^23 leaves an f32 no place for a fraction.
const SHIFT: f32 = 12_582_912.0;

/// The nearest whole number, the even one of two; for magnitudes below 2^22. `f32::round_ties_even` is a call into the C library
/// on processors without SSE4.1, which a binary for every x86-64 must expect.
pub(crate) fn nearest(value: f32) -> f32 {
    value + SHIFT - SHIFT
}
