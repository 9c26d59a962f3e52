//! Weights as bytes.

use onnx_graph::proto::TensorProto;
use onnx_graph::{ElementType, Values};

use super::Options;
use crate::nearest::nearest;

/// The range of codes of one byte type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Codes {
    /// Type in terms of ONNX.
    pub element: ElementType,
    low: f32,
    high: f32,
}

impl Codes {
    pub(super) fn of(options: &Options) -> Self {
        let high = match (options.signed, options.reduce_range) {
            (true, false) => 127.0,
            (true, true) => 63.0,
            (false, false) => 255.0,
            (false, true) => 127.0,
        };
        // int8 keeps to a range that is the same on both sides of zero.
        let (element, low) = if options.signed { (ElementType::Int8, -high) } else { (ElementType::Uint8, 0.0) };
        Self { element, low, high }
    }

    /// Scale and zero point for weights between these two; zero is always among them.
    fn grid(self, low: f32, high: f32) -> (f32, f32) {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let (scale, point) = if self.low < 0.0 {
            (low.abs().max(high) / self.high, 0.0)
        } else {
            let scale = (high - low) / self.high;
            (scale, (-low / scale).round())
        };
        // Weights that are all zero (or too small to divide by): any scale will do.
        if scale.is_normal() {
            (scale, point)
        } else {
            (1.0, if self.low < 0.0 { 0.0 } else { 128.0_f32.min(self.high) })
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rounded, and within a byte by the clamp"
    )]
    fn byte(self, value: f32) -> u8 {
        let value = nearest(value.clamp(self.low, self.high));
        if self.low < 0.0 { value as i8 as u8 } else { value as u8 }
    }
}

/// A weight's codes in the order of its floats, with one grid for each channel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Quantized {
    pub codes: Vec<u8>,
    pub scales: Vec<f32>,
    pub zero_points: Vec<u8>,
}

/// Quantizes `values`, where element `i` belongs to channel `i % channels`; one channel means one grid for all.
pub(super) fn quantized(values: &[f32], channels: usize, kind: Codes) -> Quantized {
    let mut ranges = vec![(0.0_f32, 0.0_f32); channels];
    for row in values.chunks(channels) {
        for ((low, high), &value) in ranges.iter_mut().zip(row) {
            (*low, *high) = (low.min(value), high.max(value));
        }
    }
    let grids: Vec<(f32, f32)> = ranges.into_iter().map(|(low, high)| kind.grid(low, high)).collect();
    let mut codes = Vec::with_capacity(values.len());
    for row in values.chunks(channels) {
        codes.extend(row.iter().zip(&grids).map(|(value, (scale, point))| kind.byte(value / scale + point)));
    }
    let scales = grids.iter().map(|(scale, _point)| *scale).collect();
    let zero_points = grids.iter().map(|(_scale, point)| kind.byte(*point)).collect();
    Quantized { codes, scales, zero_points }
}

/// A tensor of grids: a single number without dimensions, or one for each channel.
pub(super) fn scales(name: &str, values: &[f32]) -> TensorProto {
    let shape: &[usize] = if values.len() == 1 { &[] } else { &[values.len()] };
    TensorProto::of_floats(name, shape, values)
}

/// The same for zero points.
pub(super) fn zero_points(name: &str, values: &[u8], element: ElementType) -> TensorProto {
    let shape: &[usize] = if values.len() == 1 { &[] } else { &[values.len()] };
    TensorProto::of_raw(name, element, shape, values.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_has_its_own_range() {
        let kind = Codes::of(&Options::default());
        let made = quantized(&[1.0, 100.0, -0.5, -50.0], 2, kind);
        assert_eq!(made.codes, [127, 127, 192, 192]);
        assert_eq!(made.zero_points, [0, 0]);
    }

    #[test]
    fn unsigned_codes_hold_zero_exactly() {
        let kind = Codes::of(&Options { signed: false, ..Options::default() });
        let made = quantized(&[2.0, 5.0, 0.0, 1.0], 1, kind);
        assert_eq!((made.codes[1], made.codes[2], made.zero_points[0]), (255, 0, 0));
        assert_eq!(quantized(&[0.0; 4], 1, kind).codes, [128; 4]);
    }
}
