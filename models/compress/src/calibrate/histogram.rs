//! How often a value lies where, in constant memory and one pass.

use types::{DType, Tensor};

use super::extremes::Extremes;

/// Bins on each side of 0. After the last doubling at least half of them hold what was seen: 16 for each of the 256
/// steps of 8 bits on one side, which is finer than any choice of a range can use.
pub(super) const HALF: usize = 4096;

/// A histogram around 0 whose bins are a power of two wide.
///
/// When something larger comes, neighbouring bins are joined and the width doubles. So it does not matter in which order
/// values come, nor how they were cut into batches.
#[derive(Debug, Clone)]
pub(super) struct Histogram {
    /// Bin `n` holds values from `(n - HALF) * width` up to the next.
    pub(super) bins: Vec<u64>,
    /// Width of a bin; 0 until something other than 0 was seen.
    pub(super) width: f32,
    /// Values that were exactly 0: they stand in no bin, and every quantization keeps them.
    pub(super) zeros: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { bins: vec![0; HALF * 2], width: 0.0, zeros: 0 }
    }
}

impl Histogram {
    /// Counts little-endian f32, all finite, whose magnitude is at most `magnitude`.
    pub(super) fn add(&mut self, data: &[u8], magnitude: f32) {
        self.reach(magnitude);
        let numbers = data.as_chunks::<4>().0;
        if self.width <= 0.0 {
            self.zeros += u64::try_from(numbers.len()).unwrap_or(u64::MAX);
            return;
        }
        let (scale, last) = (1.0 / self.width, HALF * 2 - 1);
        let mut zeros = 0_u64;
        for bytes in numbers {
            let value = f32::from_le_bytes(*bytes);
            if value == 0.0 {
                zeros += 1;
                continue;
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "magnitude / width is at most HALF; a negative sum saturates to 0"
            )]
            let bin = ((value * scale).floor() + HALF as f32) as usize;
            if let Some(count) = self.bins.get_mut(bin.min(last)) {
                *count += 1;
            }
        }
        self.zeros += zeros;
    }

    /// Widens the bins until they reach `magnitude`.
    fn reach(&mut self, magnitude: f32) {
        if magnitude <= 0.0 || !magnitude.is_finite() {
            return;
        }
        if self.width <= 0.0 {
            // Exact, and never 0: the least normal number is the least width.
            self.width = f32::MIN_POSITIVE;
            while self.width * (HALF as f32) < magnitude {
                self.width *= 2.0;
            }
        }
        while self.width * (HALF as f32) < magnitude {
            self.join_neighbours();
            self.width *= 2.0;
        }
    }

    fn join_neighbours(&mut self) {
        let mut wider = vec![0_u64; HALF * 2];
        for (from, pair) in self.bins.chunks(2).enumerate() {
            // Bins 0 and 1 reach from -HALF to -HALF + 2 old widths: half as far from the middle in new ones.
            if let Some(bin) = wider.get_mut(HALF / 2 + from) {
                *bin = pair.iter().sum();
            }
        }
        self.bins = wider;
    }

    /// Returns where the bin begins, in the unit of the values.
    pub(super) fn edge(&self, bin: usize) -> f32 {
        (bin as f32 - HALF as f32) * self.width
    }

    /// The number of values.
    pub(super) fn total(&self) -> u64 {
        self.bins.iter().sum::<u64>() + self.zeros
    }
}

/// Adds tensors to what is known of each, on all cores. Tensors of other types than f32 are passed over; a value that
/// was not finite is not counted any more.
pub(super) fn add_all(mut work: Vec<(&Tensor, &mut (Extremes, Histogram))>) {
    work.retain(|(tensor, _)| tensor.dtype() == DType::F32);
    // The largest first, dealt in turn: no thread gets all the large ones.
    work.sort_by_key(|(tensor, _)| std::cmp::Reverse(tensor.elements()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut shares: Vec<Vec<_>> = (0..threads).map(|_| Vec::new()).collect();
    for (at, one) in work.into_iter().enumerate() {
        if let Some(share) = shares.get_mut(at % threads) {
            share.push(one);
        }
    }
    std::thread::scope(|scope| {
        for share in shares {
            scope.spawn(move || {
                for (tensor, (extremes, histogram)) in share {
                    let newer = Extremes::of(tensor.data());
                    *extremes = extremes.join(newer);
                    if extremes.is_bounded() {
                        histogram.add(tensor.data(), newer.magnitude());
                    }
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(batches: &[&[f32]]) -> Histogram {
        let mut histogram = Histogram::default();
        for batch in batches {
            let data: Vec<u8> = batch.iter().flat_map(|value| value.to_le_bytes()).collect();
            histogram.add(&data, Extremes::of(&data).magnitude());
        }
        histogram
    }

    #[test]
    fn the_order_of_batches_changes_nothing() {
        let (small, large, middle) = ([0.001, -0.002, 0.0], [300.0, -1e-9, 7.5], [-2.0, 2.0, 5.0]);
        let one = histogram(&[&small, &large, &middle]);
        let other = histogram(&[&large, &middle, &small]);
        let whole = histogram(&[&[0.001, -0.002, 0.0, 300.0, -1e-9, 7.5, -2.0, 2.0, 5.0]]);
        assert_eq!((&one.bins, one.width, one.zeros), (&other.bins, other.width, other.zeros));
        assert_eq!((&one.bins, one.width, one.zeros), (&whole.bins, whole.width, whole.zeros));
        assert_eq!(one.total(), 9);
    }

    #[test]
    fn every_value_lies_in_the_bin_that_its_edges_promise() {
        let histogram = histogram(&[&[-1.0, -0.75, -1e-3, 0.4, 1.0]]);
        let filled: Vec<f32> =
            (0..HALF * 2).filter(|&bin| histogram.bins[bin] > 0).map(|bin| histogram.edge(bin)).collect();
        for (edge, value) in filled.iter().zip([-1.0, -0.75, -1e-3, 0.4, 1.0]) {
            assert!(*edge <= value && value <= edge + histogram.width, "{value} is not in the bin from {edge}");
        }
        assert_eq!(filled.len(), 5);
    }

    #[test]
    fn the_largest_and_smallest_numbers_have_a_place() {
        let histogram = histogram(&[&[f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45]]);
        assert_eq!(histogram.total(), 4);
    }
}
