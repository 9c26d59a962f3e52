//! Resampling of 8-bit pixels with the same result as Pillow's `Image.resize`.
//!
//! Pillow resamples each row, then each column, with fixed-point weights for each pixel of the result
//! (`src/libImaging/Resample.c`); between the two steps the samples have 8 bits. Pillow 13 begins with the columns for some sizes,
//! which changes samples by one step at most.

use std::f64::consts::PI;

use types::preprocess::Filter;

use super::Pixels;

/// Fractional bits of a weight: 32, less 8 bits of a sample and 2 bits for sums above 255 and below 0.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// Weights of the samples that make one sample of the result.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Returns the picture with these rows and columns.
pub(super) fn resize(pixels: Pixels, rows: usize, columns: usize, filter: Filter) -> Pixels {
    if filter == Filter::Nearest {
        return nearest(&pixels, rows, columns);
    }
    let mut pixels = pixels;
    if columns != pixels.columns {
        pixels = across(&pixels, &taps(pixels.columns, columns, filter));
    }
    if rows != pixels.rows {
        pixels = down(&pixels, &taps(pixels.rows, rows, filter));
    }
    pixels
}

/// Width of a filter on each side of its centre, in pixels.
fn support(filter: Filter) -> f64 {
    match filter {
        Filter::Nearest | Filter::Box => 0.5,
        Filter::Bilinear | Filter::Hamming => 1.0,
        Filter::Bicubic => 2.0,
        Filter::Lanczos => 3.0,
    }
}

fn weight(filter: Filter, x: f64) -> f64 {
    let x_abs = x.abs();
    match filter {
        Filter::Nearest | Filter::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
        Filter::Bilinear => (1.0 - x_abs).max(0.0),
        Filter::Hamming if x_abs >= 1.0 => 0.0,
        Filter::Hamming => sinc(x_abs) * (0.54 + 0.46 * (x_abs * PI).cos()),
        Filter::Bicubic if x_abs < 1.0 => (1.5 * x_abs - 2.5) * x_abs * x_abs + 1.0,
        Filter::Bicubic if x_abs < 2.0 => ((-0.5 * x_abs + 2.5) * x_abs - 4.0) * x_abs + 2.0,
        Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
        Filter::Bicubic | Filter::Lanczos => 0.0,
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
}

/// The weights of each sample of the result. When the picture shrinks, the filter is as much wider.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "positions within a picture of at most 50 million pixels; weights below 2^24"
)]
fn taps(from: usize, to: usize, filter: Filter) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let widening = scale.max(1.0);
    let support = support(filter) * widening;
    let of = |at: usize| {
        let centre = (at as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let weights = (first..end).map(|x| weight(filter, (x as f64 - centre + 0.5) * (1.0 / widening)));
        let weights: Vec<f64> = weights.collect();
        let sum: f64 = weights.iter().sum();
        let sum = if sum == 0.0 { 1.0 } else { sum };
        let fixed = |weight: f64| (weight / sum * f64::from(1_u32 << PRECISION_BITS)).round() as i32;
        Taps { first, weights: weights.into_iter().map(fixed).collect() }
    };
    (0..to).map(of).collect()
}

/// Resamples each row to the number of columns.
fn across(pixels: &Pixels, taps: &[Taps]) -> Pixels {
    let channels = pixels.channels;
    let mut samples = Vec::with_capacity(pixels.rows * taps.len() * channels);
    for line in pixels.samples.chunks_exact((pixels.columns * channels).max(1)) {
        for Taps { first, weights } in taps {
            for channel in 0..channels {
                let under = line.iter().skip(first * channels + channel).step_by(channels);
                samples.push(clip(under.zip(weights).map(|(sample, weight)| i32::from(*sample) * weight).sum()));
            }
        }
    }
    Pixels { columns: taps.len(), samples, ..*pixels }
}

/// Resamples each column to the number of rows.
fn down(pixels: &Pixels, taps: &[Taps]) -> Pixels {
    let stride = pixels.columns * pixels.channels;
    let mut samples = Vec::with_capacity(taps.len() * stride);
    let mut sums = vec![0_i32; stride];
    for Taps { first, weights } in taps {
        sums.fill(0);
        let lines = pixels.samples.chunks_exact(stride.max(1)).skip(*first);
        for (line, weight) in lines.zip(weights) {
            for (sum, sample) in sums.iter_mut().zip(line) {
                *sum += i32::from(*sample) * weight;
            }
        }
        samples.extend(sums.iter().map(|sum| clip(*sum)));
    }
    Pixels { rows: taps.len(), samples, ..*pixels }
}

/// Rounds a weighted sum to a sample.
fn clip(sum: i32) -> u8 {
    let rounded = sum.saturating_add(1 << (PRECISION_BITS - 1)) >> PRECISION_BITS;
    u8::try_from(rounded.clamp(0, 255)).unwrap_or(u8::MAX)
}

/// The pixel under the centre of each pixel of the result. Positions are sums, as in Pillow: a product rounds otherwise.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "positions within a picture of at most 50 million pixels"
)]
fn nearest(pixels: &Pixels, rows: usize, columns: usize) -> Pixels {
    let positions = |from: usize, to: usize| -> Vec<usize> {
        let step = from as f64 / to as f64;
        let mut at = step * 0.5;
        let mut next = || {
            let position = (at as usize).min(from.saturating_sub(1));
            at += step;
            position
        };
        (0..to).map(|_| next()).collect()
    };
    let (down, across) = (positions(pixels.rows, rows), positions(pixels.columns, columns));
    let mut samples = Vec::with_capacity(rows * columns * pixels.channels);
    for row in down {
        let start = row * pixels.columns * pixels.channels;
        for column in &across {
            let at = start + column * pixels.channels;
            samples.extend_from_slice(pixels.samples.get(at..at + pixels.channels).unwrap_or_default());
        }
    }
    Pixels { rows, columns, channels: pixels.channels, samples }
}
