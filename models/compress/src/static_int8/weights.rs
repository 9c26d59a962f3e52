//! Constants in integers: weights, tables, biases.

use onnx_graph::proto::TensorProto;
use onnx_graph::{ElementType, TensorError, Values};

use super::params::{Integers, Params, fit};
use crate::calibrate::Range;
use crate::nearest::nearest;

/// How a tensor lies in memory, seen from one axis.
#[derive(Debug, Clone, Copy)]
struct Layout {
    channels: usize,
    /// Elements that stand together before the next channel begins.
    inner: usize,
}

impl Layout {
    fn of(shape: &[usize], axis: Option<usize>) -> Self {
        match axis {
            Some(axis) => {
                Self { channels: shape.get(axis).copied().unwrap_or(1), inner: shape.iter().skip(axis + 1).product() }
            }
            None => Self { channels: 1, inner: shape.iter().product() },
        }
    }

    /// Runs of elements of one channel, with its number.
    fn runs(self, values: &[f32]) -> impl Iterator<Item = (usize, &[f32])> {
        values.chunks(self.inner.max(1)).enumerate().map(move |(at, run)| (at % self.channels.max(1), run))
    }
}

/// Returns whether a constant is f32, not empty, and finite throughout. Reads it where it lies.
pub(super) fn is_plain(tensor: &TensorProto) -> bool {
    let wanted = tensor.shape().ok().and_then(|shape| shape.iter().product::<usize>().checked_mul(4));
    if tensor.element_type() != ElementType::Float || wanted.is_none_or(|bytes| bytes == 0) {
        return false;
    }
    match &tensor.raw_data {
        Some(raw) if Some(raw.len()) == wanted => {
            // 0 times anything is 0, unless it is infinite or no number.
            let (chunks, rest) = raw.as_chunks::<4>().0.as_chunks::<16>();
            let mut sums = [0.0_f32; 16];
            for chunk in chunks {
                sums.iter_mut().zip(chunk).for_each(|(sum, bytes)| *sum += f32::from_le_bytes(*bytes) * 0.0);
            }
            let rest = rest.iter().all(|bytes| f32::from_le_bytes(*bytes).is_finite());
            rest && sums.iter().all(|&sum| sum == 0.0)
        }
        Some(_) => false,
        None => tensor.floats().is_ok_and(|values| values.iter().all(|value| value.is_finite())),
    }
}

/// The least and greatest weight of each channel along `axis`, or of all.
///
/// # Errors
/// When the tensor cannot be read.
pub(super) fn ranges(values: &[f32], shape: &[usize], axis: Option<usize>) -> Vec<Range> {
    let layout = Layout::of(shape, axis);
    let mut ranges = vec![Range { low: 0.0, high: 0.0 }; layout.channels];
    for (channel, run) in layout.runs(values) {
        if let Some(range) = ranges.get_mut(channel) {
            let (low, high) = run.iter().fold((range.low, range.high), |(low, high), &value| {
                (if value < low { value } else { low }, if value > high { value } else { high })
            });
            *range = Range { low, high };
        }
    }
    ranges
}

/// One scale for each range.
pub(super) fn fit_all(ranges: &[Range], integers: Integers, symmetric: bool) -> Vec<Params> {
    ranges.iter().map(|&range| fit(range, integers, symmetric)).collect()
}

/// Rounds values to integers by the parameters of their channel.
pub(super) fn round(
    values: &[f32],
    shape: &[usize],
    axis: Option<usize>,
    integers: Integers,
    params: &[Params],
) -> Vec<u8> {
    let layout = Layout::of(shape, axis);
    let mut bytes = Vec::with_capacity(values.len());
    for (channel, run) in layout.runs(values) {
        let Params { scale, zero } = params.get(channel).copied().unwrap_or(Params { scale: 1.0, zero: 0 });
        let (least, greatest) = ((integers.least - zero) as f32, (integers.greatest - zero) as f32);
        bytes.extend(run.iter().map(|&value| {
            #[expect(clippy::cast_possible_truncation, reason = "whole, and within the integers by the clamp")]
            let whole = nearest((value / scale).clamp(least, greatest)) as i32;
            integers.byte(whole + zero)
        }));
    }
    bytes
}

/// Largest integer that a bias may become: the sum that it is added to must stay within 32 bits too.
const BIAS_MAX: f64 = (i32::MAX / 2) as f64;

/// Widens the scale of weights whose bias would not fit into 32 bits of `input * weight`.
pub(super) fn make_room(params: &mut [Params], bias: &[f32], input: f32) -> bool {
    let mut changed = false;
    let all = params.len() == 1;
    let largest = bias.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    for (at, one) in params.iter_mut().enumerate() {
        let bias = if all { largest } else { bias.get(at).map_or(0.0, |value| value.abs()) };
        let least = f64::from(bias) / BIAS_MAX / f64::from(input);
        #[expect(clippy::cast_possible_truncation, reason = "a scale is f32; one beyond it is refused by its user")]
        if f64::from(one.scale) < least {
            one.scale = least as f32 * 1.000_1;
            changed = true;
        }
    }
    changed
}

/// A bias in the scale of the products that it is added to.
pub(super) fn round_bias(bias: &[f32], scales: &[f32]) -> Vec<i32> {
    let one = scales.first().copied().filter(|_| scales.len() == 1);
    let scale = |at: usize| one.or_else(|| scales.get(at).copied()).unwrap_or(1.0);
    #[expect(clippy::cast_possible_truncation, reason = "the cast saturates, and room was made before")]
    bias.iter()
        .enumerate()
        .map(|(at, &value)| (f64::from(value) / f64::from(scale(at))).round_ties_even() as i32)
        .collect()
}

/// Weights after rounding.
pub(super) struct Rounded<'weights> {
    pub(super) bytes: &'weights [u8],
    pub(super) params: &'weights [Params],
    pub(super) axis: Option<usize>,
}

impl Rounded<'_> {
    /// Walks over what rounding added to each weight; `place` tells the channels that a weight leads from and to.
    fn shift(
        &self,
        values: &[f32],
        shape: &[usize],
        outputs: usize,
        means: &[f32],
        place: impl Fn(usize) -> (usize, usize),
    ) -> Option<Vec<f32>> {
        let layout = Layout::of(shape, self.axis);
        let mut shift = vec![0.0_f64; outputs];
        for (at, (&value, &byte)) in values.iter().zip(self.bytes).enumerate() {
            let channel = at / layout.inner.max(1) % layout.channels.max(1);
            let Params { scale, zero } = *self.params.get(channel)?;
            let rounded = (i32::from(byte.cast_signed()) - zero) as f32 * scale;
            let (input, output) = place(at);
            *shift.get_mut(output)? += f64::from(rounded - value) * f64::from(*means.get(input)?);
        }
        #[expect(clippy::cast_possible_truncation, reason = "a bias is f32")]
        Some(shift.into_iter().map(|shift| shift as f32).collect())
    }

    /// For each output channel, given the mean of each input channel.
    pub(super) fn shift_of_convolution(
        &self,
        values: &[f32],
        shape: &[usize],
        groups: usize,
        means: &[f32],
    ) -> Option<Vec<f32>> {
        let (&outputs, &inputs) = (shape.first()?, shape.get(1)?);
        let inner: usize = shape.iter().skip(2).product();
        let per_group = outputs.checked_div(groups)?.max(1);
        self.shift(values, shape, outputs, means, |at| {
            let (output, input) = (at / inner / inputs, at / inner % inputs);
            (output / per_group * inputs + input, output)
        })
    }

    /// For each output, given the mean of each input; rows of the weights are inputs unless they are `transposed`.
    pub(super) fn shift_of_product(
        &self,
        values: &[f32],
        shape: &[usize],
        transposed: bool,
        means: &[f32],
    ) -> Option<Vec<f32>> {
        let &[rows, columns] = shape else { return None };
        let outputs = if transposed { rows } else { columns };
        self.shift(values, shape, outputs, means, |at| {
            let (row, column) = (at / columns, at % columns);
            if transposed { (column, row) } else { (row, column) }
        })
    }
}

/// Reads a constant of f32.
///
/// # Errors
/// When its numbers are elsewhere or not as many as it says.
pub(super) fn read(tensor: &TensorProto) -> Result<(Vec<f32>, Vec<usize>), TensorError> {
    Ok((tensor.floats()?, tensor.shape()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_channel_has_its_own_scale_whatever_its_axis() {
        // Rows 0 and 1; columns of magnitude 1, 10 and 100.
        let values = [1.0, -10.0, 100.0, -0.5, 5.0, 50.0];
        let by_column = fit_all(&ranges(&values, &[2, 3], Some(1)), Integers::S8_EVEN, true);
        assert_eq!(by_column.iter().map(|one| one.scale * 127.0).collect::<Vec<_>>(), [1.0, 10.0, 100.0]);
        let bytes = round(&values, &[2, 3], Some(1), Integers::S8_EVEN, &by_column);
        assert_eq!(bytes.iter().map(|&byte| byte.cast_signed()).collect::<Vec<_>>(), [127, -127, 127, -64, 64, 64]);
        let by_row = ranges(&values, &[2, 3], Some(0));
        assert_eq!(by_row, [Range { low: -10.0, high: 100.0 }, Range { low: -0.5, high: 50.0 }]);
        assert_eq!(ranges(&values, &[2, 3], None), [Range { low: -10.0, high: 100.0 }]);
    }

    #[test]
    fn halves_round_to_even_as_onnx_does() {
        let params = [Params { scale: 1.0, zero: 0 }];
        let bytes = round(&[0.5, 1.5, 2.5, -0.5, -1.5, 300.0], &[6], None, Integers::S8, &params);
        assert_eq!(bytes.iter().map(|&byte| byte.cast_signed()).collect::<Vec<_>>(), [0, 2, 2, 0, -2, 127]);
    }

    #[test]
    fn a_bias_beyond_32_bits_widens_the_scale_of_its_channel_only() {
        let mut params = [Params { scale: 1e-6, zero: 0 }, Params { scale: 1e-6, zero: 0 }];
        assert!(make_room(&mut params, &[1e6, 1e-3], 1e-5));
        assert!(params[0].scale > 1e-6 && params[1].scale <= 1e-6);
        let rounded = round_bias(&[1e6, 1e-3], &params.map(|one| one.scale * 1e-5));
        assert!(rounded[0] > 1_000_000_000 && rounded[0] < i32::MAX, "{rounded:?}");
        assert!(!make_room(&mut params, &[1.0, 1e-3], 1e-5));
    }

    #[test]
    fn weights_that_are_no_numbers_are_found() {
        let tensor = |values: &[f32]| TensorProto::of_floats("w", &[values.len()], values);
        assert!(is_plain(&tensor(&[1.0; 37])));
        for spoilt in [f32::NAN, f32::INFINITY] {
            for at in [0, 17, 36] {
                let mut values = [1.0; 37];
                values[at] = spoilt;
                assert!(!is_plain(&tensor(&values)));
            }
        }
        assert!(!is_plain(&tensor(&[])));
    }
}
