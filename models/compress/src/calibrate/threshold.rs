//! Where a distribution is best cut before it is put into 8 bits.

use super::Range;
use super::histogram::{HALF, Histogram};

/// Steps between the ends of an 8-bit range.
const STEPS: f64 = 255.0;

/// Cuts tried on each side for the least squared error: finer ones change the error by less than a part in a thousand.
const CUTS: usize = 64;

/// Bins of the magnitudes that the entropy method looks at, as TensorRT's calibration has them.
const MAGNITUDES: usize = 2048;

/// Levels that a magnitude has in 8 bits.
const LEVELS: usize = 128;

/// Largest share of values that the entropy method may cut off. Without it one value that is there again and again (what
/// a convolution makes of an empty background) outweighs all others, and they are cut.
const CUT_MAX: f64 = 1e-3;

/// Bins between two cuts that the entropy method tries.
const STRIDE: usize = 16;

/// The range that leaves out `(100 - percent) / 2` percent of all values on each side.
pub(super) fn percentile(histogram: &Histogram, percent: f64) -> Option<Range> {
    let total = histogram.total();
    if histogram.width <= 0.0 || total == 0 {
        return None;
    }
    let most_cut = total as f64 * (100.0 - percent) / 200.0;
    let with_zeros = |bin: usize| {
        let zeros = if bin == HALF { histogram.zeros } else { 0 };
        histogram.bins.get(bin).copied().unwrap_or_default() + zeros
    };
    let mut below = 0_u64;
    let low = (0..HALF * 2).find(|&bin| {
        below += with_zeros(bin);
        below as f64 > most_cut
    })?;
    let mut above = 0_u64;
    let high = (0..HALF * 2).rev().find(|&bin| {
        above += with_zeros(bin);
        above as f64 > most_cut
    })?;
    Some(Range { low: histogram.edge(low).min(0.0), high: histogram.edge(high + 1).max(0.0) })
}

/// The range with the least mean squared error in 8 bits: half a step at most inside (a twelfth of its square in the
/// mean), the distance to the end outside.
pub(super) fn least_squares(histogram: &Histogram) -> Option<Range> {
    if histogram.width <= 0.0 {
        return None;
    }
    let sums = Sums::of(histogram);
    let first = histogram.bins.iter().position(|&count| count > 0)?;
    let last = histogram.bins.iter().rposition(|&count| count > 0)? + 1;
    let lows: Vec<usize> = cuts(first.min(HALF), HALF).collect();
    let highs: Vec<usize> = cuts(last.max(HALF), HALF).collect();
    let mut best = (f64::INFINITY, first.min(HALF), last.max(HALF));
    for &low in &lows {
        for &high in highs.iter().filter(|&&high| high > low) {
            let error = sums.error(histogram, low, high);
            if error < best.0 {
                best = (error, low, high);
            }
        }
    }
    Some(Range { low: histogram.edge(best.1), high: histogram.edge(best.2) })
}

/// Bins from `end` towards `middle`, `end` first.
fn cuts(end: usize, middle: usize) -> impl Iterator<Item = usize> {
    (0..CUTS).map(move |cut| {
        let way = end.abs_diff(middle) * cut / CUTS;
        if end > middle { end - way } else { end + way }
    })
}

/// Count, sum and sum of squares of all values below each bin.
struct Sums(Vec<[f64; 3]>);

impl Sums {
    fn of(histogram: &Histogram) -> Self {
        let mut sums = Vec::with_capacity(HALF * 2 + 1);
        let mut sum = [0.0; 3];
        sums.push(sum);
        for (bin, &count) in histogram.bins.iter().enumerate() {
            let middle = f64::from(histogram.edge(bin)) + f64::from(histogram.width) / 2.0;
            let count = count as f64;
            sum = [sum[0] + count, sum[1] + count * middle, sum[2] + count * middle * middle];
            sums.push(sum);
        }
        Self(sums)
    }

    fn at(&self, bin: usize) -> [f64; 3] {
        self.0.get(bin).copied().unwrap_or_default()
    }

    /// Sum of squared errors when values are kept between the edges of two bins.
    fn error(&self, histogram: &Histogram, low: usize, high: usize) -> f64 {
        let (from, to) = (f64::from(histogram.edge(low)), f64::from(histogram.edge(high)));
        let (below, inside, all) = (self.at(low), self.at(high), self.at(HALF * 2));
        let step = (to - from) / STEPS;
        // The sum of (x - end)^2 over n values is S2 - 2 end S1 + end^2 n.
        let distance = |sums: [f64; 3], end: f64| sums[2] - 2.0 * end * sums[1] + end * end * sums[0];
        let above = [all[0] - inside[0], all[1] - inside[1], all[2] - inside[2]];
        distance(below, from) + distance(above, to) + (inside[0] - below[0]) * step * step / 12.0
    }
}

/// The symmetric cut with the least Kullback-Leibler divergence between the distribution of magnitudes and what 8 bits
/// make of it. One-sided distributions stay one-sided, because the range is held against what was seen.
pub(super) fn entropy(histogram: &Histogram) -> Option<Range> {
    if histogram.width <= 0.0 {
        return None;
    }
    let magnitudes = magnitudes(histogram);
    let used = magnitudes.iter().rposition(|&count| count > 0.0)? + 1;
    let mut best = (f64::INFINITY, used);
    let mut cut = LEVELS.min(used);
    while cut <= used {
        let divergence = divergence(&magnitudes, cut);
        if divergence < best.0 {
            best = (divergence, cut);
        }
        cut += STRIDE;
    }
    let width = histogram.width * (HALF / MAGNITUDES) as f32;
    let end = best.1 as f32 * width;
    Some(Range { low: -end, high: end })
}

fn magnitudes(histogram: &Histogram) -> Vec<f64> {
    let joined = HALF / MAGNITUDES;
    let mut magnitudes = vec![0.0; MAGNITUDES];
    for (bin, &count) in histogram.bins.iter().enumerate() {
        let from_middle = if bin >= HALF { bin - HALF } else { HALF - 1 - bin };
        if let Some(sum) = magnitudes.get_mut(from_middle / joined) {
            *sum += count as f64;
        }
    }
    magnitudes
}

/// Divergence of the first `cut` bins, what lies beyond added to the last of them, from the same put into [`LEVELS`]
/// equal levels and spread again over the bins that were not empty.
fn divergence(magnitudes: &[f64], cut: usize) -> f64 {
    let (kept, beyond) = magnitudes.split_at(cut.min(magnitudes.len()));
    let beyond: f64 = beyond.iter().sum();
    let total: f64 = kept.iter().sum::<f64>() + beyond;
    let inside: f64 = kept.iter().sum();
    if inside <= 0.0 || beyond > CUT_MAX * total {
        return f64::INFINITY;
    }
    let mut divergence = 0.0;
    for level in 0..LEVELS {
        let (start, end) = (level * cut / LEVELS, (level + 1) * cut / LEVELS);
        let Some(bins) = kept.get(start..end) else { continue };
        let filled = bins.iter().filter(|&&count| count > 0.0).count();
        let mean = bins.iter().sum::<f64>() / filled.max(1) as f64;
        for (at, &count) in bins.iter().enumerate() {
            let last = if start + at + 1 == cut { beyond } else { 0.0 };
            let reference = (count + last) / total;
            if reference <= 0.0 {
                continue;
            }
            // A bin that only the cut filled has no counterpart: as small as anything can be.
            let quantized = if count > 0.0 { mean / inside } else { f64::MIN_POSITIVE };
            divergence += reference * (reference / quantized).ln();
        }
    }
    divergence
}

#[cfg(test)]
mod tests {
    use super::super::extremes::Extremes;
    use super::*;

    /// 100,000 values of a bell curve of deviation 1 (sums of 12 even numbers), and one far outlier.
    fn bell_with_outlier() -> Histogram {
        let mut state = 1_u64;
        let mut even = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f32::from(u16::try_from(state >> 48).unwrap()) / 65_536.0
        };
        let mut values: Vec<f32> = (0..100_000).map(|_| (0..12).map(|_| even()).sum::<f32>() - 6.0).collect();
        values.push(100.0);
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut histogram = Histogram::default();
        histogram.add(&data, Extremes::of(&data).magnitude());
        histogram
    }

    #[test]
    fn an_outlier_is_cut_by_every_method_that_cuts() {
        let histogram = bell_with_outlier();
        // One value at 100 is still worth much to a squared error, little to the others.
        for (name, range, most) in [
            ("percentile", percentile(&histogram, 99.99), 30.0),
            ("entropy", entropy(&histogram), 30.0),
            ("least squares", least_squares(&histogram), 95.0),
        ] {
            let range = range.unwrap();
            assert!(range.high > 2.0 && range.high < most, "{name}: {range:?}");
            assert!(range.low < -2.0 && range.low > -30.0, "{name}: {range:?}");
        }
        let whole = percentile(&histogram, 100.0).unwrap();
        assert!(whole.high >= 100.0 && whole.low < -4.0, "{whole:?}");
    }

    #[test]
    fn the_squared_error_that_is_promised_is_the_one_there_is() {
        let histogram = bell_with_outlier();
        let sums = Sums::of(&histogram);
        let best = least_squares(&histogram).unwrap();
        let chosen = (0..HALF * 2).find(|&bin| histogram.edge(bin) >= best.high).unwrap();
        let low = (0..HALF * 2).find(|&bin| histogram.edge(bin) >= best.low).unwrap();
        assert!(sums.error(&histogram, low, chosen) < sums.error(&histogram, low, HALF * 2));
    }

    #[test]
    fn nothing_but_zeros_has_no_cut() {
        let mut histogram = Histogram::default();
        histogram.add(&[0; 40], 0.0);
        assert_eq!(percentile(&histogram, 99.0), None);
        assert_eq!(entropy(&histogram), None);
        assert_eq!(least_squares(&histogram), None);
        assert_eq!(histogram.total(), 10);
    }
}
